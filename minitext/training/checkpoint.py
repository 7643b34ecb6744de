"""A training state on disk: complete, so that a resumed run ends with the same bits, and whole or not there.

In: everything that the next step depends on. Out: one file; it is replaced by a rename only when the new one is on
disk.
"""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from minitext.utils.errors import UserError, first_line
from minitext.utils.io import atomic

NAME = "checkpoint.pt"
BEST = "best.pt"


@dataclass
class TrainState:
    """How far a run has come. All of it is saved; nothing else decides what comes next."""

    epoch: int = 0  # the epoch under way, from 0
    window: int = 0  # windows of it that are done
    updates: int = 0  # optimizer steps so far; a skipped one does not count
    loss_sum: float = 0.0  # of this epoch's training texts so far, in nats
    correct: int = 0  # of them, predicted right in training
    seen: int = 0  # of them, seen
    best_score: float = -float("inf")
    best_epoch: float = 0.0  # where the best weights are from; not whole after a check in mid-epoch
    checks_since_best: int = 0
    journal_bytes: int = 0
    seconds: float = 0.0  # spent in training and checks


def save_checkpoint(
    folder: Path, progress: TrainState, model: nn.Module, optimizers: list[Optimizer], scaler: torch.amp.GradScaler
) -> None:
    """Write `checkpoint.pt` atomically. Raises OSError when the disk is full; the old one then stays."""
    write(
        folder / NAME,
        {
            "progress": asdict(progress),
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "scaler": scaler.state_dict(),
            "random_cpu": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    )


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[Optimizer], scaler: torch.amp.GradScaler
) -> TrainState:
    """Put everything back as it was saved; returns how far the run had come."""
    state = read(folder / NAME)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random_cpu"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return TrainState(**state["progress"])


def save_best(folder: Path, model: nn.Module) -> None:
    """Keep the weights of the best epoch so far beside the checkpoint."""
    write(folder / BEST, model.state_dict())


def load_best(folder: Path, model: nn.Module) -> None:
    model.load_state_dict(read(folder / BEST))


def write(path: Path, state: dict) -> None:
    with atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error


def read(path: Path) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(f"{path}: damaged ({first_line(error)}); start again without --resume") from error
