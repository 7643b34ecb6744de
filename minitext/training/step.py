"""One optimizer update: forward, loss, backward, clipping, step.

Inputs: a model and the micro-batches of one update. Outputs: changed weights, and what the update did.
Mixed precision: Micikevicius et al. 2018, "Mixed precision training".
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from minitext.data.batching import Batch
from minitext.training.checkpoint import DelayedInterrupt
from minitext.training.distributed import SINGLE, Distributed
from minitext.training.optim import clip_grad_norm

IGNORE_INDEX = -100  # the label that does not count, torch's default


@dataclass(frozen=True)
class StepConfig:
    """What all updates of a run have in common."""

    dtype: torch.dtype  # of autocast; none with float32
    max_grad_norm: float
    class_weights: Tensor  # (C,) float32, on the device of the model
    label_smoothing: float = 0.0
    distributed: Distributed = SINGLE


class StepResult(NamedTuple):
    """What one update did, in all processes."""

    loss: float  # mean over the labels of the update, in nats, without label smoothing
    smoothed_loss: float  # with label smoothing: what the gradient belongs to
    num_correct: int  # labels that were predicted correctly, with dropout
    grad_norm: float  # before clipping
    skipped: bool  # the loss scaler found an overflow and no weight changed
    num_labels: int  # one per text, or one per masked token
    interrupted: bool  # the user has stopped a process


def train_step(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    optimizers: Sequence[Optimizer],
    scaler: GradScaler,
    config: StepConfig,
    *,
    num_texts: int | None = None,
    interrupt: DelayedInterrupt | None = None,
) -> StepResult:
    """One update from micro-batches, equal to one from a single batch of all their texts.

    The loss is summed over all micro-batches and divided by the weight of the whole update: the mean of the
    micro-batches' means would weigh a short last one like a full one. Each process gets its shard and returns the
    result of the whole update, which has `num_texts` texts (default: those given; needed with several processes).
    Beside gradients, processes exchange one tensor. The weight of the update is a part of it, so the losses are first
    divided by `num_texts`, and the gradients are corrected when they are clipped. Raises FloatingPointError, before any
    weight changes, if the loss or the gradient norm is not finite. After OutOfMemoryError the step can be repeated.
    """
    distributed, class_weights = config.distributed, config.class_weights
    if num_texts is None and distributed.world_size > 1:
        raise ValueError("num_texts is needed: all processes have to divide by the same number")
    model.train()
    for optimizer in optimizers:
        optimizer.zero_grad()
    num_texts = num_texts or sum(len(batch.indices) for batch in micro_batches)
    sums = torch.zeros(6, device=class_weights.device)  # those of `loss_sums`, then the number of interrupts
    for batch in micro_batches:
        is_last = batch is micro_batches[-1]  # gradients add up until the last one, which averages them over processes
        with (
            nullcontext() if distributed.world_size == 1 or is_last else model.no_sync(),
            torch.autocast(batch.ids.device.type, config.dtype, enabled=config.dtype != torch.float32),
        ):
            logits = model(batch)  # (B, C), or (M, V)
        loss, batch_sums = loss_sums(logits.float(), batch.labels, class_weights, config.label_smoothing)
        scaler.scale(loss * distributed.world_size / num_texts).backward()  # gradients are averaged over processes
        sums[:5] += batch_sums
    sums[5].fill_(interrupt is not None and interrupt.requested)
    sums = distributed.all_reduce_sum(sums)
    sums[:2] /= sums[4]  # the weight of the update

    try:
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        norm = clip_grad_norm(model.parameters(), config.max_grad_norm, num_texts / sums[4])
        numbers = torch.cat((sums, norm.view(1))).tolist()  # the only wait for the device
        loss, smoothed_loss, correct, labels, _, interrupts, grad_norm = numbers
        if not math.isfinite(smoothed_loss):
            raise FloatingPointError(f"the loss is {smoothed_loss}")
        overflow = not math.isfinite(grad_norm)
        if overflow and not scaler.is_enabled():
            raise FloatingPointError(f"the gradient norm is {grad_norm}")
        if not overflow:  # after an overflow no optimizer may step, not even one whose own gradients are finite
            for optimizer in optimizers:
                optimizer.step()
    except Exception:  # such as OutOfMemoryError: only an update of the scale, to the same, allows to unscale again
        scaler.update(scaler.get_scale())
        raise
    scaler.update()  # a smaller scale after an overflow, a larger one from time to time
    return StepResult(loss, smoothed_loss, int(correct), grad_norm, overflow, int(labels), interrupts > 0)


def loss_sums(logits: Tensor, labels: Tensor, class_weights: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """The loss of (B, C) logits that is differentiated, a sum over the labels, and five sums for the log.

    The five, (5,) float32, are the loss without and with label smoothing, correct predictions, labels, and the class
    weights of the labels. Smoothing mixes the loss with the mean loss over all classes (Szegedy et al. 2016, section
    7), as `F.cross_entropy` does.
    """
    log_probs = F.log_softmax(logits, dim=1)  # (B, C)
    loss = smoothed_loss = F.nll_loss(log_probs, labels, class_weights, reduction="sum")
    counted = labels != IGNORE_INDEX  # (B,)
    if label_smoothing:
        uniform = -(log_probs * class_weights).mean(dim=1)  # (B,)
        uniform = uniform.masked_fill(~counted, 0.0).sum()
        smoothed_loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    correct = logits.detach().argmax(dim=1) == labels
    weight = (class_weights[labels.clamp_min(0)] * counted).sum()
    return smoothed_loss, torch.stack((loss.detach(), smoothed_loss.detach(), correct.sum(), counted.sum(), weight))
