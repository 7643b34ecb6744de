"""Which parameters decay, how fast they learn, and when.

In: a model. Out: its optimizers, and for each update the share of the peak learning rate.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minitext.errors import UserError

SCHEDULES = ("linear", "cosine", "constant")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Dense trainable parameters in two groups: matrices decay, biases and the scales of norms (vectors) do not.

    Decay pulls weights to zero; a norm's scale belongs near one and a bias has no scale to keep small (Devlin et al.
    2019 leave both out as well).
    """
    dense = [parameter for parameter in unique_parameters(model) if id(parameter) not in sparse_ids(model)]
    return [
        {"params": [parameter for parameter in dense if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in dense if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def unique_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters, each once, also where two modules share one."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def sparse_ids(model: nn.Module) -> set[int]:
    """Embeddings that give sparse gradients: only the rows of a batch."""
    return {id(module.weight) for module in model.modules() if getattr(module, "sparse", False)}


def build_optimizers(model: nn.Module, name: str, lr: float, weight_decay: float) -> list[Optimizer]:
    """`adam` or `adamw` for the dense parameters, SparseAdam for sparse embeddings (which do not decay).

    Adam's own weight decay is an L2 penalty inside the gradient; AdamW's is decoupled (Loshchilov & Hutter 2019).
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizers: list[Optimizer] = [kind(decay_groups(model, weight_decay), lr=lr, fused=has_fused_kernel(model))]
    sparse = [parameter for parameter in unique_parameters(model) if id(parameter) in sparse_ids(model)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=lr))
    return optimizers


def has_fused_kernel(model: nn.Module) -> bool:
    """One kernel for the whole update instead of one an operation: torch has it for these devices."""
    return next(model.parameters()).device.type in ("cuda", "cpu", "mps")


def rate_share(update: int, updates: int, warmup: int, schedule: str) -> float:
    """The share of the peak learning rate for update `update` (0 is the first) of `updates`.

    It rises linearly over the first `warmup` updates, the first of them not at zero, since an update at rate zero is
    wasted; then it stays (`constant`), or falls to zero just past the last update, in a line or half a cosine wave
    (Loshchilov & Hutter 2017).
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    left = max(updates - update, 0) / max(updates - warmup, 1)
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def warmup_updates(warmup: float, updates: int) -> int:
    """`warmup` below 1 is a share of all updates, from 1 on a number of them."""
    if warmup >= 1 and warmup != int(warmup):
        raise UserError(f"--warmup {warmup}: a share below 1, or a whole number of updates")
    count = int(warmup) if warmup >= 1 else round(warmup * updates)
    if count > updates:
        raise UserError(f"--warmup {count}: the run has only {updates} updates")
    return count


def set_rate(optimizers: Sequence[Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def clip_gradients(parameters: Iterable[Tensor], most: float) -> float:
    """Scale all gradients down so that their common L2 norm is at most `most` (Pascanu et al. 2013); returns the norm
    before. `torch.nn.utils.clip_grad_norm_` does this for dense gradients only.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()  # rows that a batch holds twice are summed first
            gradients.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm.item()
