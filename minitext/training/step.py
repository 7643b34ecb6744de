"""One update: forward, loss, backward, clipping, optimizer, in the order of the textbook.

In: a model, and the batches of one window. Out: changed weights, and what the update did. What mixed precision,
accumulation, a team of processes and scarce memory add stands beside the lines that it concerns.
"""

import math
from collections.abc import Callable, Sequence
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
from minitext.utils.errors import UserError

IGNORE_INDEX = -1  # the label of a text that fills up the share of a process which has none


class Step(NamedTuple):
    """What one update did."""

    loss: float  # mean over the window, in nats
    correct: int  # labels of the window that were predicted right, dropout on
    norm: float  # of the gradients, before clipping
    stepped: bool  # False where the loss scaler found an overflow and left the weights alone
    labels: int  # of the window: one a text, or one a hidden token


def train_step(
    model: nn.Module,
    window: Sequence[Batch],
    optimizers: Sequence[Optimizer],
    scaler: GradScaler,
    precision: torch.dtype,
    clip: float,
    class_weights: Tensor,
    label_smoothing: float = 0.0,
    team: Distributed = SINGLE,
) -> Step:
    """One update from a window of micro-batches, the same as from one batch of all their texts.

    The loss is summed over each micro-batch and divided by the whole window's weight. (The mean of the micro-batches'
    means would weigh a short last one like a full one.) `class_weights`: (C,). Labels below 0 do not count. In a team
    `window` is this process's share, `model` averages gradients over the processes, and the Step is the whole window's.
    Raises FloatingPointError, before any weight has changed, where the loss or the gradient is not finite.
    """
    model.train()
    for optimizer in optimizers:
        optimizer.zero_grad()
    weight = team.total(sum(class_weights[batch.labels.clamp_min(0)][batch.labels >= 0].sum() for batch in window))
    loss_sum, correct, labels = 0.0, 0, 0
    for batch in window:
        last = batch is window[-1]  # before it, gradients only add up here; with it, they are averaged over the team
        with (
            nullcontext() if team.size == 1 or last else model.no_sync(),
            torch.autocast(batch.ids.device.type, precision, enabled=precision != torch.float32),
        ):
            logits = model(*batch.inputs)  # (B, C)
        loss = F.cross_entropy(
            logits.to(class_weights.dtype),
            batch.labels,
            class_weights,
            reduction="sum",
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
        )
        scaler.scale(loss * team.size / weight).backward()  # `size`, since a team's gradients are averaged, not added
        loss_sum += loss.detach() / weight
        correct += (logits.detach().argmax(dim=1) == batch.labels).sum()
        labels += (batch.labels >= 0).sum()
    sums = [loss_sum, correct.to(loss_sum.dtype), labels.to(loss_sum.dtype)]
    loss_sum, correct, labels = team.total(torch.stack(sums)).tolist()
    if not math.isfinite(loss_sum):
        raise FloatingPointError(f"the loss is {loss_sum}")

    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    norm = clip_grad_norm(model.parameters(), clip)
    finite = math.isfinite(norm)
    if not finite and not scaler.is_enabled():
        raise FloatingPointError(f"the gradient's norm is {norm}")
    if finite:  # else float16 overflowed: no optimizer may step, also not one whose own gradients are finite
        try:
            for optimizer in optimizers:
                scaler.step(optimizer)
        except torch.OutOfMemoryError:  # no room for Adam's moments, which are made before any weight is changed
            scaler.update()  # forgets that these gradients were unscaled, so that the step can be tried again
            raise
    scaler.update()  # a smaller scale after an overflow, from time to time a larger one
    return Step(loss_sum, int(correct), norm, finite, int(labels))


def step_with_oom_retry(
    step: Callable[[list[Batch]], Step],
    batch: Sequence[Batch],
    limit: int,
    team: Distributed,
    say: Callable[[str], None],
) -> tuple[Step, int]:
    """Take a step in micro-batches of at most `limit` texts; where the GPU's memory is too small for them, in halves.

    Returns the step and the limit that fitted; the update is the same. Raises UserError when one text is too much.
    """
    while True:
        try:
            return step([part for piece in batch for part in piece.split(limit)]), limit
        except torch.OutOfMemoryError as error:
            largest = min(limit, max(len(piece.rows) for piece in batch))
            if largest == 1 or team.size > 1:  # the other processes of a team cannot be told
                raise UserError(f"out of GPU memory with {largest} texts at once; lower --micro-batch-size or --max-length"
                                ", or give --gradient-checkpointing") from error  # fmt: skip
        limit = largest // 2  # outside of `except`, whose error holds on to the tensors that filled the memory
        torch.cuda.empty_cache()
        say(f"out of GPU memory: going on with --micro-batch-size {limit}, the update stays the same")
