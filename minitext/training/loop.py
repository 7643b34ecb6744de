"""The training loop, every step in plain sight; the from-scratch network and BERT are trained by the same lines.

In: a model that maps `(B, T)` ids and their mask to `(B, C)` logits, and batches. Out: the weights of the best check on
validation, and a journal. A window is what one update (`step.py`) sees, `--batch-size` texts; it is worked off in
micro-batches, as many texts as fit into memory (`--micro-batch-size`), and gives the same gradient whatever their size.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from minitext.data.batching import PackCollator, epoch_batches, load_batches
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.training.checkpoint import NAME, TrainState, load_best, load_checkpoint, save_best, save_checkpoint
from minitext.training.distributed import SINGLE, Distributed
from minitext.training.interrupt import DelayedInterrupt
from minitext.training.optim import SCHEDULES, build_optimizers, lr_factor, set_lr, warmup_updates
from minitext.training.step import IGNORE_INDEX, step_with_oom_retry, train_step
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog


@dataclass(frozen=True)
class LoopConfig:
    """training"""

    epochs: int = option(10, "passes over the training texts")
    batch_size: int = option(64, "texts that one update sees")
    micro_batch_size: int | None = option(
        None, "texts in memory at once; the update stays the same (default: --batch-size)"
    )
    max_tokens_per_batch: int | None = option(None, "most tokens, padding included, that one update sees")
    optimizer: str = option("adam", "adam or adamw", choices=("adam", "adamw"))
    lr: float = option(3e-3, "peak learning rate")
    weight_decay: float = option(0.0, "of matrices; biases and norms do not decay")
    warmup: float = option(0.1, "updates until the peak rate: a share below 1, or a number")
    schedule: str = option("linear", "the rate after warmup", choices=SCHEDULES)
    max_grad_norm: float = option(1.0, "most L2 norm of the gradients")
    label_smoothing: float = option(0.0, "share of a label's probability that is spread over all classes")
    eval_every: int | None = option(None, "updates between checks on validation (default: an epoch)")
    select_by: str = option("accuracy", "what decides on the best check", choices=("accuracy", "macro_f1", "loss"))
    patience: int | None = option(None, "stop after this many checks without a better one")
    precision: str = option("auto", "of matrix products", choices=("auto", "fp32", "bf16", "fp16"))

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_size", "max_tokens_per_batch", "eval_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: at least 1")
        for name in ("lr", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # written so that NaN is refused as well
                raise UserError(f"--{name.replace('_', '-')} must be > 0 (got {value})")
        if not (0 <= self.warmup < math.inf and 0 <= self.weight_decay < math.inf):
            raise UserError(f"--warmup {self.warmup} --weight-decay {self.weight_decay}: numbers not below 0")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label-smoothing {self.label_smoothing}: a share lies from 0 to below 1")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise UserError(f"--micro-batch-size {self.micro_batch_size}: more than --batch-size {self.batch_size}")


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """training"""

    class_weights: str = option("equal", "balanced: rare classes weigh more", choices=("equal", "balanced"))
    pad: str = option(
        "longest", "pad a batch to its longest text, or all to --max-length", choices=("longest", "fixed")
    )


class Task(NamedTuple):
    """What is learned, where it is not the class of a text."""

    check: Callable[[], dict[str, float]]  # scores on validation, `loss` among them, in nats a label
    weights: Tensor  # (classes,) float32, of each label in the loss


def plan_steps(lengths: np.ndarray, options: TrainConfig, seed: int) -> tuple[list[list[np.ndarray]], int, int]:
    """Of each epoch, the rows of its windows; the number of updates in all; those of them that warm up.

    Raises UserError when the warmup is longer than the training.
    """
    plans = [
        epoch_batches(lengths, options.batch_size, seed, epoch, options.max_tokens_per_batch)
        for epoch in range(options.epochs)
    ]
    updates = sum(map(len, plans))
    return plans, updates, warmup_updates(options.warmup, updates)


def fit(
    model: nn.Module,
    train: PackCollator,
    valid: PackCollator,
    options: TrainConfig,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    folder: Path,
    say: Callable[[str], None],
    quiet: bool = False,
    team: Distributed = SINGLE,
    groups: list[dict] | None = None,
    task: Task | None = None,
) -> TrainState:
    """Train until the last epoch, or until patience ends; `model` then holds the weights of the best check.

    `folder` gets `metrics.jsonl` and, at every check, `checkpoint.pt`; where there is one, training goes on from it. A
    stopped and resumed run ends with the same bits as an uninterrupted one (on the CPU), since the order of batches
    depends on (seed, epoch) alone and the checkpoint holds everything else. Raises KeyboardInterrupt after Ctrl-C, when
    the state is saved, and UserError when the loss is not finite. `groups` are the optimizer's parameter groups where
    the usual two do not serve, `task` what is learned where it is not the class of a text. In a team every process
    calls this; the first one writes.
    """
    first = team.rank == 0
    lengths = train.data.lengths().numpy()
    plans, updates, warmup = plan_steps(lengths, options, seed)
    optimizers = build_optimizers(model, options.optimizer, options.lr, options.weight_decay, groups)
    scaler = GradScaler(device.type, enabled=precision == torch.float16)
    weights = task.weights if task else class_weights_of(train.labels, valid.labels, options.class_weights)
    weights = weights.to(device)
    journal = MetricsLog(folder / "metrics.jsonl") if first else None
    progress = load_checkpoint(folder, model, optimizers, scaler) if (folder / NAME).exists() else TrainState()
    if first:
        journal.truncate(progress.journal_bytes)
    else:  # other dropout than the first process's, which the checkpoint brought or the seed gave
        torch.manual_seed(int(np.random.SeedSequence([seed, team.rank, progress.updates]).generate_state(1)[0]))
    team.wait()  # until all have read the checkpoint that the first will replace
    member, at_once = team.wrap(model), options.micro_batch_size or options.batch_size
    limit = at_once
    clock = time.perf_counter() - progress.seconds

    def check() -> None:
        """Score validation, note it, keep the weights if they are the best so far."""
        done = progress.window / len(plans[progress.epoch])
        if task:
            scores = task.check()
        else:
            scores = classification_metrics(
                predict_logits(model, valid, at_once, device, precision, team=team), valid.labels
            )
        if not math.isfinite(scores["loss"]):
            raise UserError(f"epoch {progress.epoch + done:g}: the validation loss is {scores['loss']}; lower --lr")
        score = -scores["loss"] if options.select_by == "loss" else scores[options.select_by]
        better = score > progress.best_score
        if better:
            progress.best_score, progress.best_epoch, progress.checks_since_best = score, progress.epoch + done, 0
            if first:
                save_best(folder, model)
        else:
            progress.checks_since_best += 1
        learned = {"loss": progress.loss_sum / progress.seen, "accuracy": progress.correct / progress.seen}
        row = {
            "epoch": progress.epoch + done,
            "update": progress.updates,
            "train": learned,
            "valid": scores,
            "best": better,
        }
        if first:
            journal.write(row)
        say(
            f"epoch {row['epoch']:g}: train loss {learned['loss']:.4f}, accuracy {learned['accuracy']:.1%}; validation "
            f"loss {scores['loss']:.4f}, accuracy {scores['accuracy']:.1%}{' (best so far)' if better else ''}"
        )

    def save() -> None:
        if not first:
            return
        progress.journal_bytes = journal.flush()
        progress.seconds = time.perf_counter() - clock
        save_checkpoint(folder, progress, model, optimizers, scaler)

    def patience_is_over() -> bool:
        return options.patience is not None and progress.checks_since_best >= options.patience

    with DelayedInterrupt() as interrupt:
        while progress.epoch < options.epochs and not patience_is_over():
            plan = plans[progress.epoch]
            windows = plan[progress.window :]
            pieces = split_windows([shard_rows(rows, team) for rows in windows], options.micro_batch_size)
            batches = load_batches(
                train.at_epoch(progress.epoch),
                [rows for window in pieces for rows in window],
                pin=device.type == "cuda",
            )
            bar = tqdm(
                zip(windows, pieces, strict=True), f"epoch {progress.epoch + 1}/{options.epochs}", len(plan),
                initial=progress.window, unit=" updates", leave=False, disable=quiet or None,
            )  # fmt: skip
            tokens, started = 0, time.perf_counter()
            for window, own in bar:
                rate = options.lr * lr_factor(progress.updates, updates, warmup, options.schedule)
                set_lr(optimizers, rate)
                batch = [next(batches).to(device) for _ in own]
                if team.rank >= len(window):  # fewer texts than processes: this one has a text to keep pace, no more
                    batch = [piece._replace(labels=torch.full_like(piece.labels, IGNORE_INDEX)) for piece in batch]
                try:
                    step, limit = step_with_oom_retry(
                        lambda parts: train_step(member, parts, optimizers, scaler, precision, options.max_grad_norm,
                                                 weights, options.label_smoothing, team),
                        batch, limit, team, say,
                    )  # fmt: skip
                except FloatingPointError as error:
                    kept = f" (the last good state is {folder / NAME})" if (folder / NAME).exists() else ""
                    raise UserError(
                        f"epoch {progress.epoch + 1}, update {progress.updates + 1}, rate {rate:.2e}: {error}; "
                        f"lower --lr or use --precision fp32{kept}"
                    ) from error
                progress.updates += step.stepped
                progress.window += 1
                progress.seen += step.labels
                progress.correct += step.correct
                progress.loss_sum += step.loss * step.labels
                norm = step.norm if step.stepped else None  # JSON has no infinity
                if first:
                    journal.write({"update": progress.updates, "loss": step.loss, "rate": rate, "norm": norm})
                tokens += int(lengths[window].sum())
                bar.set_postfix(
                    loss=f"{progress.loss_sum / progress.seen:.3f}", accuracy=f"{progress.correct / progress.seen:.1%}",
                    rate=f"{rate:.1e}", tokens_s=f"{tokens / (time.perf_counter() - started):,.0f}", refresh=False,
                )  # fmt: skip
                due = options.eval_every and progress.window % options.eval_every == 0 and progress.window < len(plan)
                asked = (
                    interrupt.asked if team.size == 1 else team.total(torch.tensor(int(interrupt.asked), device=device))
                )
                if due:
                    check()
                if due or asked:
                    save()
                if asked:
                    bar.close()
                    raise KeyboardInterrupt(f"the state is saved in {folder}; go on with the same command and --resume")
                if due and patience_is_over():
                    break
            if not patience_is_over():
                check()
                progress.epoch, progress.window = progress.epoch + 1, 0
                progress.loss_sum, progress.correct, progress.seen = 0.0, 0, 0
                save()
    team.wait()  # until the first process has written the best weights
    load_best(folder, model)
    return progress


def shard_rows(rows: np.ndarray, team: Distributed) -> np.ndarray:
    """This process's rows of a window; the window's first where there are too few for all."""
    return team.share(rows) if team.rank < len(rows) else rows[:1]


def split_windows(plan: Sequence[np.ndarray], micro_batch_size: int | None) -> list[list[np.ndarray]]:
    """Each window's rows in micro-batches of at most `micro_batch_size`."""
    return [
        [
            rows[first : first + (micro_batch_size or len(rows))]
            for first in range(0, len(rows), micro_batch_size or len(rows))
        ]
        for rows in plan
    ]


def class_weights_of(train: Tensor, valid: Tensor, how: str) -> Tensor:
    """(C,) float32: ones, or `balanced`, N / (C * texts of the class), so that every class weighs the same in all."""
    classes = int(max(train.max(), valid.max())) + 1
    if how == "equal":
        return torch.ones(classes)
    counts = torch.bincount(train, minlength=classes)
    return len(train) / (classes * counts.clamp_min(1).float())
