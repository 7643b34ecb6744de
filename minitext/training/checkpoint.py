"""Checkpoints: everything that the next step depends on, written atomically, and a delayed Ctrl-C.

Inputs: model, optimizers, loss scaler, progress and the best weights so far. Outputs: `checkpoint.pt`.
A resumed run ends with the same bits as an uninterrupted one (on the CPU).
"""

import pickle
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minitext.training.distributed import SINGLE, Distributed
from minitext.utils.errors import UserError, first_line
from minitext.utils.io import atomic
from minitext.utils.run_folders import CHECKPOINT_FILE

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class TrainState:
    """How far a run has come. All of it is saved; nothing else decides what comes next."""

    step: int = 0  # steps of the plan that are done
    updates: int = 0  # optimizer steps so far, without skipped ones
    loss_sum: float = 0.0  # of this epoch's training texts so far, in nats
    num_correct: int = 0  # of them, predicted correctly during training
    num_seen: int = 0  # of them
    best_score: float = -float("inf")
    best_epoch: float = 0.0  # epoch of the best weights, with a fraction when evaluated within an epoch
    evals_since_best: int = 0
    log_bytes: int = 0  # size of the metrics log
    seconds: float = 0.0  # spent in training and evaluation

    def describe_best(self, select_by: str, epochs: int) -> str:
        """One line: the epoch of the best weights, the length of training, and whether a longer one may be better."""
        line = (
            f"epoch {self.best_epoch:g} (by validation {select_by}); {self.updates:,} updates in {self.seconds:.1f} s"
        )
        return line + (f"; still improving: try --epochs {2 * epochs}" if self.best_epoch == epochs else "")


def save_checkpoint(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizers: list[Optimizer],
    scaler: torch.amp.GradScaler,
    best_weights: dict[str, Tensor] | None,
) -> None:
    """Write `checkpoint.pt` atomically. A full disk raises OSError and keeps the old file."""
    device = next(model.parameters()).device
    content = {
        "state": asdict(state),
        "model": model.state_dict(),
        "best_weights": best_weights,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "scaler": scaler.state_dict(),
        "random": {kind: random_module(kind).get_rng_state() for kind in ("cpu", device.type)},
    }
    path = folder / CHECKPOINT_FILE
    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error


def load_checkpoint(
    folder: Path | None,
    model: nn.Module,
    optimizers: list[Optimizer],
    scaler: torch.amp.GradScaler,
    distributed: Distributed = SINGLE,
) -> tuple[TrainState, dict[str, Tensor] | None]:
    """Restore everything in place; returns the progress, that of a new run without a checkpoint, and the best weights.

    Rank 0 alone reads `folder` and keeps the best weights. The others get from it all but the model's weights, which
    DistributedDataParallel sends. Raises UserError if the file is corrupt or only one of the two runs scales its loss.
    """
    state, best_weights = TrainState(), None
    if distributed.rank == 0 and (folder / CHECKPOINT_FILE).exists():
        content = read_checkpoint(folder / CHECKPOINT_FILE, scaler.is_enabled())
        state, best_weights = TrainState(**content["state"]), content["best_weights"]
        model.load_state_dict(content["model"])
        for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        scaler.load_state_dict(content["scaler"])
        for kind in {"cpu", next(model.parameters()).device.type} & content["random"].keys():
            random_module(kind).set_rng_state(content["random"][kind])
    state, scaling = distributed.broadcast((state, scaler.state_dict()))
    scaler.load_state_dict(scaling)
    for optimizer in optimizers if state.step else ():  # a new run's moments are zero in all processes
        distributed.broadcast_optimizer(optimizer)
    return state, best_weights


def read_checkpoint(path: Path, scales_loss: bool) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, whatever device it was saved from."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(f"{path}: corrupt ({first_line(error)}); start again without --resume") from error
    if scales_loss != bool(content["scaler"]):
        before, now = ("another precision", "fp16") if scales_loss else ("fp16", "another precision")
        raise UserError(f"{path}: trained with {before}, but this run uses {now}; resume with the same --precision")
    return content


def random_module(kind: str) -> ModuleType:
    """The module with the random state of the current device of this type: torch.cuda, torch.mps, or torch itself."""
    return torch if kind == "cpu" else torch.get_device_module(kind)


class DelayedInterrupt:
    """The first Ctrl-C or SIGTERM sets `requested`, so that training stops between steps; a second stops at once."""

    requested = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        self.previous = {number: signal.signal(number, self.request) for number in SIGNALS if in_main_thread}
        return self

    def request(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
