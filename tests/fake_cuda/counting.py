"""Counts what a program on fake CUDA tensors would ask of a GPU: kernel launches, and waits of the host.

A fake tensor has a shape, a dtype and a device, but no values. A tensor on the wrong device is an error, as with real
ones; what kernels ask of dtypes and layouts, and fake ones do not, is checked here.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.utils import clip_grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minitext.data.batching import Batch, Collator
from minitext.data.tokenizer import TokenizedTexts

CUDA = torch.device("cuda")
# operators without a kernel: views, and memory without values
FREE = {
    "view", "_unsafe_view", "transpose", "t", "permute", "expand", "slice", "select", "unsqueeze", "squeeze",
    "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind", "chunk", "unfold", "reshape",
    "_reshape_alias", "diagonal", "lift_fresh", "set_", "resize_", "record_stream", "empty", "empty_like",
    "empty_strided", "new_empty", "new_empty_strided", "sym_size", "sym_stride", "sym_numel", "device", "dim",
    "layout", "is_contiguous", "is_pinned", "is_same_size", "_indices", "_values", "_nnz", "is_coalesced",
    "_coalesced_", "sparse_dim", "dense_dim", "_sparse_coo_tensor_unsafe", "_sparse_coo_tensor_with_dims_and_tensors",
}  # fmt: skip
# operators that read a size from the device: the host waits for it
DATA_DEPENDENT = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "_coalesce", "bincount"}
# multi_tensor_apply.cuh: tensors per launch by the number of lists, blocks per launch, elements per block
TENSORS_PER_LAUNCH, BLOCKS_PER_LAUNCH, CHUNK = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}, 320, 65536


class Usage(TorchDispatchMode):
    """Counts the operators that run inside of it. In inference mode, composite operators come as they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()  # by operator
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.device.type == "cuda" for tensor in inputs)
        if on_device and (name in DATA_DEPENDENT or (name.startswith("index") and has_mask(args))):
            self.waits.append(name)
        if name in ("_local_scalar_dense", "item") and on_device:
            self.waits.append("item")
            return 1.0 if args[0].is_floating_point() else args[0].dtype == torch.bool or 1
        check_kernel(name, args)
        result = func(*args, **kwargs)
        if name in ("_to_copy", "to", "copy_"):
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], result)
            named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
            self.add_copy(source, target, (named | kwargs).get("non_blocking", False))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        doubles = [t for t in outputs if t.dtype == torch.float64 and t.device.type == "cuda"]
        if any(tensor.ndim for tensor in doubles):  # single numbers are GradScaler's
            raise RuntimeError(f"{name} in float64: slow on CUDA, and Apple's MPS has none")
        if name not in FREE and any(tensor.device.type == "cuda" for tensor in inputs + outputs):
            foreach = name.startswith(("_foreach", "_fused_adam", "_amp_foreach"))
            self.launches[name] += multi_tensor_launches(args) if foreach else 1
        return result

    def add_copy(self, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        """A copy between host and device waits, unless it is asynchronous and the host's memory is pinned."""
        pinned = non_blocking and getattr(source, "pinned", False)
        if source.device.type != target.device.type and not pinned:
            self.waits.append(f"copy from {source.device.type} to {target.device.type}")


def check_kernel(name: str, args: tuple) -> None:
    """Raise RuntimeError where a kernel would: of different dtypes, or of what flash attention does not support."""
    tensors = [part for part in args if isinstance(part, Tensor)]
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if name in ("mm", "addmm", "bmm", "index_copy_", "index_add_", "_varlen_attn") and len(dtypes) > 1:
        raise RuntimeError(f"{name} of different dtypes: {dtypes}")
    if name == "_varlen_attn":  # mha_varlen_fwd in pytorch's flash_api.cpp
        query, key, value, query_starts, key_starts = tensors[:5]
        fits = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0 and query.shape[-1] <= 192
        fits = fits and query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        for starts in (query_starts, key_starts):
            fits = fits and starts.dtype == torch.int32 and starts.is_contiguous()
        if not fits:
            raise RuntimeError("flash attention does not take these dtypes, head widths or strides")


def has_mask(args: tuple) -> bool:
    """Whether an index is a mask, whose true elements have to be counted first."""
    indices = args[1] if isinstance(args[1], list | tuple) else args
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def multi_tensor_launches(args: tuple) -> int:
    """Kernels of one operator on lists of tensors, by the rule of multi_tensor_apply.cuh."""
    lists = [part for part in args if isinstance(part, list | tuple) and part and isinstance(part[0], Tensor)]
    depth = len([part for part in lists if part[0].shape == lists[0][0].shape])  # without AdamW's list of steps
    most, launches, tensors, blocks = TENSORS_PER_LAUNCH[min(depth, 5)], 0, 0, 0
    for tensor in lists[0]:
        tensors += 1
        for _ in range(math.ceil(tensor.numel() / CHUNK)):
            blocks += 1
            if blocks == BLOCKS_PER_LAUNCH:
                launches, tensors, blocks = launches + 1, 1, 0
        if tensors == most:
            launches, tensors, blocks = launches + 1, 0, 0
    return launches + (blocks > 0)


@contextmanager
def fake_cuda() -> Iterator[Usage]:
    """New tensors are fake inside; yields the counts."""
    usage = Usage()
    originals = FakeTensor.tolist, Tensor.pin_memory, clip_grad._has_foreach_support

    def counted_tolist(self: FakeTensor) -> list:
        if self.device.type == "cuda":
            usage.waits.append("tolist")
        return np.ones(tuple(self.shape), dtype=float if self.is_floating_point() else int).tolist()

    def fake_pin_memory(self: Tensor) -> Tensor:
        self.pinned = True
        return self

    # torch's clipping uses operators on lists for its own class of tensors only
    clip_grad._has_foreach_support = lambda tensors, device: device.type == "cuda"
    FakeTensor.tolist, Tensor.pin_memory = counted_tolist, fake_pin_memory
    try:
        with FakeTensorMode(), usage:
            yield usage
    finally:
        FakeTensor.tolist, Tensor.pin_memory, clip_grad._has_foreach_support = originals


def fake_model(make: Callable[[], nn.Module]) -> nn.Module:
    """The model that `make` returns, with fake parameters on CUDA; inside of `fake_cuda`."""
    with CUDA:
        return make()


class RealLengths:
    """The lengths of texts: the plan of a run needs their values."""

    def __init__(self, data: TokenizedTexts) -> None:
        self.offsets, self.window, self.values = data.offsets, data.window, data.lengths().numpy()

    def lengths(self) -> "RealLengths":
        return self

    def numpy(self) -> np.ndarray:
        return self.values


class FakeCollator:
    """Makes the batches of a collator, with fake tensors on the host. Itself, it is made outside of `fake_cuda`."""

    def __init__(self, collator: Collator) -> None:
        self.collator, self.data = collator, RealLengths(collator.data)

    def __call__(self, indices: np.ndarray, epoch: int = 0) -> Batch:
        with unset_fake_temporarily():
            batch = self.collator(indices, epoch)
        fake = detect_fake_mode().from_tensor
        return Batch(*(fake(part) if isinstance(part, Tensor) else part for part in batch))
