"""The training loop: plan, step, evaluation, best weights, checkpoints.

Inputs: a model, a collator of training texts, and a function that scores validation. Outputs: the best weights.
The order of batches is a function of (seed, epoch) alone, and the position in the plan is one integer.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from minitext.data.batching import Collator, epoch_batches
from minitext.training.checkpoint import DelayedInterrupt, TrainState, load_checkpoint, save_checkpoint
from minitext.training.distributed import SINGLE, Distributed
from minitext.training.micro_batches import MicroBatches
from minitext.training.optim import SCHEDULES, build_optimizers, lr_factor, set_lr, warmup_updates
from minitext.training.step import StepConfig, StepResult, train_step
from minitext.utils.config import option, require
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import METRICS_FILE

Scores = dict[str, float]


@dataclass(frozen=True)
class LoopConfig:
    """training"""

    epochs: int = option(10, "passes over the training texts")
    batch_size: int = option(64, "texts per optimizer update (over all GPUs and micro-batches)")
    micro_batch_size: int | None = option(None, "texts per forward pass (memory only; default: --batch-size)")
    max_tokens_per_batch: int | None = option(None, "upper bound on tokens per update")
    optimizer: str = option("adam", "adam or adamw", choices=("adam", "adamw"))
    lr: float = option(3e-3, "peak learning rate")
    weight_decay: float = option(0.0, "weight decay (matrices only; biases and norms are exempt)")
    warmup: float = option(0.1, "warm-up: a fraction (< 1) or a number of updates")
    schedule: str = option("linear", "learning rate after warm-up", choices=SCHEDULES)
    max_grad_norm: float = option(1.0, "clip the gradient's L2 norm to this value")
    label_smoothing: float = option(0.0, "probability that label smoothing spreads over all classes")
    eval_every: int | None = option(None, "updates between evaluations on the validation set (default: one epoch)")
    select_by: str = option("loss", "validation metric that selects the best weights", choices=("accuracy", "loss"))
    patience: int | None = option(None, "stop after N evaluations without improvement")
    save_every: float = option(60.0, "seconds between checkpoints")
    precision: str = option("auto", "autocast dtype", choices=("auto", "fp32", "bf16", "fp16"))

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "micro_batch_size", "max_tokens_per_batch", "eval_every", "patience")
        require(self, lambda value: value >= 1, "at least 1", *counts)
        require(self, lambda value: 0 < value < math.inf, "> 0", "lr", "max_grad_norm")
        require(self, lambda value: 0 <= value < math.inf, ">= 0", "warmup", "weight_decay", "save_every")
        require(self, lambda value: 0 <= value < 1, "in [0, 1)", "label_smoothing")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise UserError(f"--micro-batch-size {self.micro_batch_size} is more than --batch-size {self.batch_size}")


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """training"""

    epochs: int | None = option(None, "passes over the training texts (default: by the numbers of texts and classes)")
    select_by: str = option(
        "accuracy", "validation metric that selects the best weights", choices=("accuracy", "macro_f1", "loss")
    )
    class_weights: str = option("equal", "balanced: rare classes count more in the loss", choices=("equal", "balanced"))


class TrainLength(NamedTuple):
    """How long a training is where no number of epochs is given."""

    updates: int  # of a training, and as many more for each class as `updates_per_class`
    updates_per_class: int
    min_epochs: int
    max_epochs: int

    def describe(self) -> str:
        """For the help of `--epochs`."""
        updates = f"{self.updates} updates and {self.updates_per_class} more for each class"
        return f"enough for {updates}, between {self.min_epochs} and {self.max_epochs}"

    def fill(self, config: LoopConfig, num_texts: int, num_classes: int) -> LoopConfig:
        """`config` with a number of epochs: its own, or as many as make the updates, within the bounds."""
        if config.epochs is not None:
            return config
        updates = self.updates + self.updates_per_class * num_classes
        epochs = math.ceil(updates * config.batch_size / num_texts)
        return replace(config, epochs=min(max(self.min_epochs, epochs), self.max_epochs))


class TrainPlan(NamedTuple):
    """All steps of a run: a function of lengths, settings and seed."""

    steps: list[np.ndarray]  # the indices of the texts of each update
    epochs: list[int]  # the epoch of each step, from 0
    warmup: int  # updates of warm-up

    def epoch_after(self, step: int) -> float:
        """Epochs done after `step` steps: 1.5 is the middle of the second."""
        epoch = self.epochs[step - 1]
        return epoch + (step - self.epochs.index(epoch)) / self.epochs.count(epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether the first `step` steps end with an epoch."""
        return step == len(self.steps) or self.epochs[step] != self.epochs[step - 1]

    def evaluates_after(self, step: int, eval_every: int | None) -> bool:
        """Whether an evaluation follows the first `step` steps: at the end of an epoch, and every `eval_every`."""
        return self.ends_epoch(step) or (eval_every is not None and step % eval_every == 0)


def plan_steps(lengths: np.ndarray, config: LoopConfig, seed: int) -> TrainPlan:
    """Plan all updates. `lengths`: (texts,). Raises UserError when warm-up is longer than the training."""
    steps, epochs = [], []
    for epoch in range(config.epochs):
        steps += epoch_batches(lengths, config.batch_size, seed, epoch, config.max_tokens_per_batch)
        epochs += [epoch] * (len(steps) - len(epochs))
    return TrainPlan(steps, epochs, warmup_updates(config.warmup, len(steps)))


def fit(
    model: nn.Module,
    train: Collator,
    evaluate: Callable[[], Scores],
    config: LoopConfig,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    run_dir: Path | None,
    class_weights: Tensor,
    param_groups: list[dict] | None = None,
    distributed: Distributed = SINGLE,
    log: Callable[[str], None] = print,
    quiet: bool = False,
) -> TrainState:
    """Train until the last epoch or until patience ends; `model` then holds the best weights.

    A checkpoint in `run_dir` is resumed, to the same bits as an uninterrupted run on the CPU. All processes call this;
    rank 0 alone has a `run_dir` and sends its state to the others. `evaluate` returns validation scores of the present
    weights, with "loss" and the metric `config.select_by`; `class_weights` is (C,) float32. Raises KeyboardInterrupt
    after Ctrl-C or SIGTERM, when the state has been saved, and UserError if a loss is not finite.
    """
    is_main = distributed.rank == 0
    plan = plan_steps(train.data.lengths().numpy(), config, seed)
    optimizers = build_optimizers(model, config.optimizer, config.lr, config.weight_decay, param_groups)
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    state, best_weights = load_checkpoint(run_dir, model, optimizers, scaler, distributed)
    metrics = prepare_process(run_dir, state, seed, distributed)
    steps, epochs, max_texts = plan.steps[state.step :], plan.epochs[state.step :], config.micro_batch_size
    micro_batches = MicroBatches(train, steps, epochs, max_texts or config.batch_size, device, distributed)
    interrupt = DelayedInterrupt()
    update = partial(
        train_step, distributed.wrap(model), optimizers=optimizers, scaler=scaler, interrupt=interrupt,
        config=StepConfig(
            dtype, config.max_grad_norm, class_weights.to(device), config.label_smoothing, distributed
        ),
    )  # fmt: skip
    last_save = time.perf_counter()
    bar = tqdm(micro_batches, "training", len(plan.steps), initial=state.step, leave=False, disable=quiet or None)
    with interrupt, bar:
        for batches in bar if not out_of_patience(state, config) else ():
            lr = config.lr * lr_factor(state.updates, len(plan.steps), plan.warmup, config.schedule)
            set_lr(optimizers, lr)
            try:
                step = partial(update, num_texts=len(plan.steps[state.step]))
                result = micro_batches.run(step, batches, log)
            except FloatingPointError as error:
                place = f"epoch {plan.epochs[state.step] + 1}, update {state.updates + 1}, learning rate {lr:.2e}"
                raise UserError(f"{place}: {error}; lower --lr, or pass --precision fp32") from error
            row, interrupted = add_result(state, result, lr, config), result.interrupted
            bar.set_postfix(loss=f"{state.loss_sum / state.num_seen:.3f}", lr=f"{lr:.1e}", refresh=False)
            if is_main:
                metrics.write(row)
            if plan.evaluates_after(state.step, config.eval_every):
                scores = distributed.broadcast(evaluate())  # other CPUs may round another way, and decide another way
                row = add_evaluation(state, plan.epoch_after(state.step), scores, config.select_by)
                if row["best"] and is_main:
                    best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                if is_main:
                    metrics.write(row)
                log(format_evaluation(row))
                interrupted = distributed.any(interrupt.requested, device)
            if plan.ends_epoch(state.step):
                state.loss_sum, state.num_correct, state.num_seen = 0.0, 0, 0
            done = state.step == len(plan.steps) or out_of_patience(state, config)
            if is_main and (interrupted or done or time.perf_counter() - last_save >= config.save_every):
                now = time.perf_counter()
                state.log_bytes, state.seconds, last_save = metrics.flush(), state.seconds + now - last_save, now
                save_checkpoint(run_dir, state, model, optimizers, scaler, best_weights)
            if interrupted:
                place = f"the state is saved in {run_dir}; continue with the same command and --resume"
                raise KeyboardInterrupt(place if is_main else "")
            if done:
                break
    if is_main:
        model.load_state_dict(best_weights)
    distributed.broadcast_weights(model)
    return state


def prepare_process(run_dir: Path | None, state: TrainState, seed: int, distributed: Distributed) -> MetricsLog | None:
    """In rank 0 the metrics log, truncated to the checkpoint; the others draw other dropout masks than rank 0."""
    if distributed.rank > 0:
        torch.manual_seed(int(np.random.SeedSequence([seed, distributed.rank, state.step]).generate_state(1)[0]))
        return None
    metrics = MetricsLog(run_dir / METRICS_FILE)
    metrics.truncate(state.log_bytes)
    return metrics


def add_result(state: TrainState, result: StepResult, lr: float, config: LoopConfig) -> dict:
    """Count one update; returns its row in the metrics log. A skipped update does not advance the schedule."""
    state.step += 1
    state.updates += 0 if result.skipped else 1
    state.num_seen += result.num_labels
    state.num_correct += result.num_correct
    state.loss_sum += result.loss * result.num_labels
    grad_norm = None if result.skipped else result.grad_norm  # JSON has no infinity
    row = {"update": state.updates, "loss": result.loss, "lr": lr, "grad_norm": grad_norm}
    return row | ({"smoothed_loss": result.smoothed_loss} if config.label_smoothing else {})


def add_evaluation(state: TrainState, epoch: float, scores: Scores, select_by: str) -> dict:
    """Update the best score; returns the evaluation's row in the metrics log. Training scores are with dropout."""
    if not math.isfinite(scores["loss"]):
        raise UserError(f"epoch {epoch:g}: the validation loss is {scores['loss']}; lower --lr")
    score = selection_score(scores, select_by)
    is_best = score > state.best_score
    state.evals_since_best += 1
    if is_best:
        state.best_score, state.best_epoch, state.evals_since_best = score, epoch, 0
    train = {"loss": state.loss_sum / state.num_seen, "accuracy": state.num_correct / state.num_seen}
    return {"epoch": epoch, "update": state.updates, "train": train, "valid": scores, "best": is_best}


def selection_score(scores: Scores, select_by: str) -> float:
    """What the best weights maximize: a validation score, or the negative loss."""
    return -scores["loss"] if select_by == "loss" else scores[select_by]


def out_of_patience(state: TrainState, config: LoopConfig) -> bool:
    """Whether `config.patience` evaluations in a row have not improved."""
    return config.patience is not None and state.evals_since_best >= config.patience


def format_evaluation(row: dict) -> str:
    """One line for a terminal."""
    train, valid = (
        f"loss {row[part]['loss']:.4f}, accuracy {row[part]['accuracy']:.1%}" for part in ("train", "valid")
    )
    return f"epoch {row['epoch']:g}: train {train}; validation {valid}{' (best so far)' if row['best'] else ''}"


def class_weights_of(labels: Tensor, num_classes: int, kind: str) -> Tensor:
    """(C,) float32: ones, or `balanced`, texts / (C * texts of the class), so that all classes count the same."""
    if kind == "equal":
        return torch.ones(num_classes)
    counts = torch.bincount(labels, minlength=num_classes)
    return len(labels) / (num_classes * counts.clamp_min(1).float())
