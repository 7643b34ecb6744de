"""Which parameters decay, how fast they learn, and when.

In: a model. Out: its optimizers, and for each update the share of the peak learning rate.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minitext.utils.errors import UserError

SCHEDULES = ("linear", "cosine", "constant")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Dense trainable parameters in two groups: matrices decay, biases and the scales of norms (vectors) do not.

    Decay pulls weights to zero; a norm's scale belongs near one and a bias has no scale to keep small (Devlin et al.
    2019 leave both out as well).
    """
    dense, _ = split_parameters(model)
    return [
        {"params": [parameter for parameter in dense if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in dense if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters, each once, also where two modules share one: dense ones, and the weights of embeddings that
    give sparse gradients, of a batch's rows only.
    """
    sparse = {id(module.weight) for module in model.modules() if getattr(module, "sparse", False)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trainable if id(p) not in sparse], [p for p in trainable if id(p) in sparse]


def layer_groups(model: nn.Module, weight_decay: float, layer_lr_decay: float) -> list[dict]:
    """`decay_groups` of a BERT classifier, each layer slower than the one above it by the factor `layer_lr_decay`.

    The head learns at the full rate, the top layer at `layer_lr_decay` of it, the embeddings slowest (Howard & Ruder 2018,
    section 3.2; Sun et al. 2019, section 5.3.3, found 0.95 good). A group's `share` is its part of the rate.
    """
    depth = len(model.encoder.layers)
    groups = []
    for level in range(depth + 2):  # 0 the head, 1 the top layer, depth + 1 the embeddings
        if level == 0:
            modules = [module for name, module in model.named_children() if name != "encoder"]
        elif level <= depth:
            modules = [model.encoder.layers[depth - level]]
        else:
            modules = [module for name, module in model.encoder.named_children() if name != "layers"]
        for group in decay_groups(nn.ModuleList(modules), weight_decay):
            groups.append({**group, "share": layer_lr_decay**level})
    return groups


def build_optimizers(
    model: nn.Module, name: str, lr: float, weight_decay: float, groups: list[dict] | None = None
) -> list[Optimizer]:
    """`adam` or `adamw` for the dense parameters, SparseRowAdam for sparse embeddings (which do not decay).

    Adam's own weight decay is an L2 penalty inside the gradient; AdamW's is decoupled (Loshchilov & Hutter 2019).
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizers: list[Optimizer] = [
        kind(groups or decay_groups(model, weight_decay), lr=lr, fused=has_fused_kernel(model))
    ]
    _, sparse = split_parameters(model)
    if sparse:
        optimizers.append(SparseRowAdam(sparse, lr=lr))
    return optimizers


class SparseRowAdam(Optimizer):
    """Adam (Kingma & Ba 2015) for sparse gradients: only the rows that a batch touched are visited, moments included.

    The rule of `torch.optim.SparseAdam`, in about a fifth of its time: rows are gathered once and written back once,
    where that adds sparse to dense tensors.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            (beta1, beta2), eps = group["betas"], group["eps"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                gradient = parameter.grad.coalesce()
                rows, values = gradient.indices()[0], gradient.values()  # (R,), (R, D)
                mean = state["mean"].index_select(0, rows).lerp_(values, 1 - beta1)
                square = state["square"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
                state["mean"].index_copy_(0, rows, mean)
                state["square"].index_copy_(0, rows, square)
                size = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                moved = parameter.index_select(0, rows).addcdiv_(mean, square.sqrt_().add_(eps), value=-size)
                parameter.index_copy_(0, rows, moved)


def has_fused_kernel(model: nn.Module) -> bool:
    """One kernel for the whole update instead of one an operation: torch has it for these devices."""
    return next(model.parameters()).device.type in ("cuda", "cpu", "mps")


def lr_factor(update: int, updates: int, warmup: int, schedule: str) -> float:
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


def set_lr(optimizers: Sequence[Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)


def clip_grad_norm(parameters: Iterable[Tensor], most: float) -> float:
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
