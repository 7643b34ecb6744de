"""The device of a run, and the dtype that it computes in.

Inputs: the values of `--device` and `--precision`, and torchrun's LOCAL_RANK. Outputs: a device, a dtype.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from minitext.utils.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device with a name of torch's. `auto` is CUDA, else Apple's MPS, else the CPU.

    Under torchrun, `cuda` is the GPU of this process. A CUDA device with an index also becomes the current device.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = {"cuda": num_gpus > 0, "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, exists in available.items() if exists)
    if name == "cuda" and num_gpus and "LOCAL_RANK" in os.environ:
        # some launchers show each process only its own GPU, which is then cuda:0
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % num_gpus}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown device; give auto, cpu, cuda, cuda:1 or mps") from error
    if not available.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= num_gpus):
        devices = [f"cuda:{index}" for index in range(num_gpus)]
        devices += [kind for kind in ("mps", "cpu") if available[kind]]
        raise UserError(f"--device {name}: this machine does not have it; available: {', '.join(devices)}")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The autocast dtype of a precision. Weights, sums and losses stay in float32.

    `auto` is bfloat16 on GPUs that compute in it, float16 (with loss scaling) on older ones, and float32 elsewhere.
    """
    if name != "auto":
        return PRECISIONS[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: on small operations two took twice the CPU time, and longer on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
