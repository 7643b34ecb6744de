"""Parameter groups, optimizers, learning-rate schedule and gradient clipping.

Inputs: a model. Outputs: its optimizers, and the learning-rate factor of each update.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minitext.training.sparse_adam import SparseRowAdam, merge_rows
from minitext.utils.errors import UserError, is_out_of_memory

SCHEDULES = ("linear", "cosine", "constant")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Dense trainable parameters in two groups: matrices decay; biases and norms do not (as in Devlin et al. 2019)."""
    dense, _ = split_parameters(model)
    matrices, vectors = [p for p in dense if p.ndim >= 2], [p for p in dense if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters, each once: those with dense gradients, and embedding weights with sparse ones."""
    sparse = {id(module.weight) for module in model.modules() if getattr(module, "sparse", False)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trainable if id(p) not in sparse], [p for p in trainable if id(p) in sparse]


def layer_groups(model: nn.Module, weight_decay: float, layer_lr_decay: float) -> list[dict]:
    """`decay_groups` of a BERT classifier with a lower learning rate for each layer further down.

    The head has `lr_scale` 1, the top layer `layer_lr_decay`, the next one its square, the embeddings the least (Howard
    & Ruder 2018, section 3.2; Sun et al. 2019, section 5.3.3, found 0.95 good).
    """
    if layer_lr_decay == 1:
        return decay_groups(model, weight_decay)
    heads = [module for name, module in model.named_children() if name != "encoder"]
    embeddings = [module for name, module in model.encoder.named_children() if name != "layers"]
    levels = [heads, *([layer] for layer in reversed(model.encoder.layers)), embeddings]
    return [
        {**group, "lr_scale": layer_lr_decay**level}
        for level, modules in enumerate(levels)
        for group in decay_groups(nn.ModuleList(modules), weight_decay)
    ]


def build_optimizers(
    model: nn.Module, name: str, lr: float, weight_decay: float, param_groups: list[dict] | None = None
) -> list[Optimizer]:
    """`adam` or `adamw` for dense parameters, SparseRowAdam (without decay) for sparse embeddings.

    Adam's own weight decay is an L2 penalty in the gradient; AdamW's is decoupled (Loshchilov & Hutter 2019). The
    sparse optimizer comes first: it alone needs memory in a step, so running out of memory changes no weight. Raises
    UserError if the moments do not fit into the memory of the model's device.
    """
    _, sparse = split_parameters(model)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    dense = kind(param_groups or decay_groups(model, weight_decay), lr=lr, fused=True)
    try:
        init_moments(dense)
        return [SparseRowAdam(sparse, lr=lr), dense] if sparse else [dense]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        problem = "out of memory: the optimizer needs twice as much as the weights that are trained"
        raise UserError(f"{problem}; take a smaller model, train fewer layers, or pass --device cpu") from error


def init_moments(optimizer: Optimizer) -> None:
    """Make the state of fused Adam before the first update, as torch would in it.

    There, torch makes it tensor by tensor: if memory ran out in between, half a state would remain, and the update
    could not be repeated.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def lr_factor(update: int, updates: int, warmup: int, schedule: str) -> float:
    """The learning rate of update `update` (the first is 0) of `updates`, as a fraction of the peak.

    It rises linearly over the first `warmup` updates, from above zero, since an update at rate zero is wasted; then it
    is `constant` or falls to zero just past the last update, `linear` or as half a `cosine` (Loshchilov & Hutter 2017).
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    remaining = max(updates - update, 0) / max(updates - warmup, 1)
    return remaining if schedule == "linear" else (1 - math.cos(math.pi * remaining)) / 2


def warmup_updates(warmup: float, updates: int) -> int:
    """The number of warm-up updates: `warmup` is a fraction of `updates` below 1, a number of updates from 1 on."""
    if warmup >= 1 and warmup != int(warmup):
        raise UserError(f"--warmup must be a fraction < 1 or a whole number of updates (got {warmup})")
    count = int(warmup) if warmup >= 1 else round(warmup * updates)
    if count > updates:
        raise UserError(f"--warmup {count} is more than the {updates} updates of the run; lower it")
    return count


def set_lr(optimizers: Sequence[Optimizer], lr: float) -> None:
    """Set the learning rate of all groups, each times its `lr_scale`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float, factor: Tensor | float = 1.0) -> Tensor:
    """Multiply all gradients by `factor`, then scale them to a joint L2 norm of at most `max_norm`.

    Returns the norm before clipping (Pascanu et al. 2013). torch's own function serves dense gradients only.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    dense = [parameter for parameter in parameters if not parameter.grad.is_sparse]
    sparse_values = []
    for parameter in parameters:
        if parameter.grad.is_sparse:
            parameter.grad = merge_rows(parameter.grad)
            sparse_values.append(parameter.grad._values())
    values = [*(parameter.grad for parameter in dense), *sparse_values]
    norm = torch.nn.utils.get_total_norm(values) * factor
    torch._foreach_mul_(values, factor * (max_norm / (norm + 1e-6)).clamp(max=1.0))  # one kernel for many tensors
    return norm
