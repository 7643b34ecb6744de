"""User-facing errors: one line without a traceback, and the exit status of a program.

0 success; 1 a bug, or a step after a finished training failed; 2 something that a user can fix; 130 interrupted.
"""

import errno
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from minitext.utils.terminal import printable

PACKAGE = Path(__file__).parents[1]
failures: list[str] = []  # what failed after a training whose results are saved


class UserError(Exception):
    """The input is wrong; the message names the file, the line and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine was too small; only CUDA has a class of its own for that."""
    messages = ("out of memory", "can't allocate memory")  # of MPS and of the CPU
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
    )


@contextmanager
def after_training(step: str, remedy: str) -> Iterator[None]:
    """A step whose failure must not cost the training before it: it is reported, and the program continues.

    The program then exits with status 1. `remedy` is the command that repeats the step.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
        if "--debug" in sys.argv:
            traceback.print_exc()
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        failures.append(step)
        print_error(f"{step} failed ({reason}); model, scores and predictions are saved; repeat it with: {remedy}")


def exit_status(main: Callable[[], None]) -> int:
    """Run `main`; return its exit status. An error is one line on stderr; with `--debug` it is raised."""
    replace_unencodable()
    failures.clear()
    try:
        main()
    except BrokenPipeError:  # the reader of our output, such as `head`, has finished
        sys.stdout = None  # nothing is left to flush into the closed pipe
        return 0
    except KeyboardInterrupt as interrupt:
        print_error(str(interrupt), "interrupted")
        return 130
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        status, message = explain_error(error)
        print_error(message)
        return status
    return 1 if failures else 0


def explain_error(error: Exception) -> tuple[int, str]:
    """The exit status and the line for an error."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 2, f"{error}; free some space and repeat the command (with --resume if it was training)"
    if isinstance(error, UserError | OSError):
        return 2, str(error) or type(error).__name__
    if is_out_of_memory(error):
        return 2, f"out of memory ({first_line(error)}); use smaller batches or less data, or another --device"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if PACKAGE in Path(frame.filename).parents and frame.name != "exit_status"]
    frame = (ours or frames)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return 1, f"unexpected {type(error).__name__} in {place}: {first_line(error)}; repeat with --debug and report it"


def print_error(message: str, kind: str = "error") -> None:
    """Print one line to stderr."""
    print(f"{kind}: {printable(message)}" if message else kind, file=sys.stderr, flush=True)


def replace_unencodable() -> None:
    """Let stdout and stderr replace what the encoding of the terminal lacks, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
