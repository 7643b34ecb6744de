"""Checkpoints: everything that the next step depends on, written atomically, and a delayed Ctrl-C.

Inputs: model, optimizers, loss scaler and progress. Outputs: `checkpoint.pt` and the best weights in `best.pt`.
A resumed run ends with the same bits as an uninterrupted one (on the CPU).
"""

import pickle
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minitext.utils.errors import UserError, first_line
from minitext.utils.io import atomic
from minitext.utils.run_dir import BEST_FILE, CHECKPOINT_FILE

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

    def start_epoch(self) -> None:
        """Reset the running sums of an epoch."""
        self.loss_sum, self.num_correct, self.num_seen = 0.0, 0, 0


def save_checkpoint(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizers: list[Optimizer],
    scaler: torch.amp.GradScaler,
    best_weights: dict[str, Tensor] | None,
) -> None:
    """Write `best.pt`, then `checkpoint.pt`, each atomically. A full disk raises OSError and keeps the old files."""
    if best_weights is not None:
        save(folder / BEST_FILE, best_weights)
    device = next(model.parameters()).device
    content = {
        "state": asdict(state),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "scaler": scaler.state_dict(),
        "random_cpu": torch.get_rng_state(),
        "random_device": get_device_rng_state(device),
    }
    save(folder / CHECKPOINT_FILE, content)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[Optimizer], scaler: torch.amp.GradScaler
) -> tuple[TrainState, dict[str, Tensor] | None]:
    """Restore everything in place; returns the progress and the best weights so far."""
    content = load(folder / CHECKPOINT_FILE)
    model.load_state_dict(content["model"])
    for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if scaler.is_enabled() != bool(content["scaler"]):
        raise UserError(f"{folder}: the checkpoint was trained with another --precision; resume with the same one")
    scaler.load_state_dict(content["scaler"])
    torch.set_rng_state(content["random_cpu"])
    set_device_rng_state(next(model.parameters()).device, content["random_device"])
    best_weights = load(folder / BEST_FILE) if (folder / BEST_FILE).exists() else None
    return TrainState(**content["state"]), best_weights


def get_device_rng_state(device: torch.device) -> Tensor | None:
    """The state of the device's own random generator; None on the CPU, whose state is saved anyway."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def set_device_rng_state(device: torch.device, state: Tensor | None) -> None:
    """Restore it; a state of another kind of device is left out."""
    if device.type == "cuda" and state is not None:
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps" and state is not None:
        torch.mps.set_rng_state(state)


def save(path: Path, content: dict) -> None:
    """`torch.save`, atomic."""
    with atomic(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error


def load(path: Path) -> dict:
    """`torch.load` of weights only, onto the CPU."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(f"{path}: corrupt ({first_line(error)}); start again without --resume") from error


class DelayedInterrupt:
    """A context in which the first Ctrl-C or SIGTERM only sets `requested`; a second one stops at once.

    Training then stops between two steps, with a complete state to save.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        self.in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        if self.in_main_thread:
            self.previous = {number: signal.signal(number, self.request) for number in SIGNALS}
        return self

    def request(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *error: object) -> None:
        if self.in_main_thread:
            for number, handler in self.previous.items():
                signal.signal(number, handler)
