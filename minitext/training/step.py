"""One optimizer update: forward, loss, backward, clipping, step.

Inputs: a model and the micro-batches of one update. Outputs: changed weights, and what the update did.
Mixed precision: Micikevicius et al. 2018, "Mixed precision training".
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from minitext.data.batching import Batch
from minitext.training.distributed import SINGLE, Distributed
from minitext.training.optim import clip_grad_norm

IGNORE_INDEX = -100  # the label that does not count, torch's default


class StepResult(NamedTuple):
    """What one update did."""

    loss: float  # mean over the labels of the update, in nats
    num_correct: int  # labels that were predicted correctly, with dropout
    grad_norm: float  # before clipping
    skipped: bool  # the loss scaler found an overflow and no weight changed
    num_labels: int  # one per text, or one per masked token


def train_step(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    optimizers: Sequence[Optimizer],
    scaler: GradScaler,
    *,
    dtype: torch.dtype,
    max_grad_norm: float,
    class_weights: Tensor,
    label_smoothing: float = 0.0,
    distributed: Distributed = SINGLE,
) -> StepResult:
    """One update from micro-batches, equal to one from a single batch of all their texts.

    The loss is summed over each micro-batch and divided by the weight of the whole update: the mean of the
    micro-batches' means would weigh a short last one like a full one. `class_weights` is (C,) float32. With several
    processes, `micro_batches` is the shard of this process and the result is that of the whole update.
    Raises FloatingPointError, before any weight changes, if the loss or the gradient norm is not finite.
    """
    model.train()
    for optimizer in optimizers:
        optimizer.zero_grad()
    weights = [class_weights[batch.labels.clamp_min(0)] * (batch.labels != IGNORE_INDEX) for batch in micro_batches]
    total_weight = distributed.all_reduce_sum(sum(weight.sum() for weight in weights))
    sums = torch.zeros(3, device=total_weight.device)  # loss, correct labels, labels
    for batch in micro_batches:
        is_last = batch is micro_batches[-1]  # gradients add up until the last one, which averages them over processes
        with (
            nullcontext() if distributed.world_size == 1 or is_last else model.no_sync(),
            torch.autocast(batch.ids.device.type, dtype, enabled=dtype != torch.float32),
        ):
            logits = model(batch)  # (B, C), or (M, V)
        logits = logits.float()
        loss = F.cross_entropy(logits, batch.labels, class_weights, reduction="sum", label_smoothing=label_smoothing)
        # times world_size, since gradients are averaged over processes, not summed
        scaler.scale(loss * distributed.world_size / total_weight).backward()
        correct = (logits.detach().argmax(dim=1) == batch.labels).sum()
        sums += torch.stack((loss.detach() / total_weight, correct, (batch.labels != IGNORE_INDEX).sum()))
    sums = distributed.all_reduce_sum(sums)

    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    try:
        norm = clip_grad_norm(model.parameters(), max_grad_norm)
        loss_value, num_correct, num_labels, grad_norm = torch.cat((sums, norm.view(1))).tolist()  # the only wait
        if not math.isfinite(loss_value):
            raise FloatingPointError(f"the loss is {loss_value}")
        overflow = not math.isfinite(grad_norm)
        if overflow and not scaler.is_enabled():
            raise FloatingPointError(f"the gradient norm is {grad_norm}")
        if not overflow:  # after an overflow no optimizer may step, not even one whose own gradients are finite
            for optimizer in optimizers:
                optimizer.step()
    finally:  # also when memory runs out: gradients can be unscaled again only after an update of the scale
        scaler.update()  # a smaller scale after an overflow, a larger one from time to time
    return StepResult(loss_value, int(num_correct), grad_norm, overflow, int(num_labels))
