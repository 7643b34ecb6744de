"""A script exits with the status and the one line that a shell and a user expect."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minitext.utils.errors import UserError, after_training, exit_status, first_line
from minitext.utils.io import read_json

ROOT = Path(__file__).parents[2]
FREE_SPACE = "free some space and repeat the command (with --resume if it was training)"


def status_of(error: BaseException | None, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])

    def main() -> None:
        if error is not None:
            raise error

    return exit_status(main)


def test_success_is_status_0_without_output(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    assert status_of(None, monkeypatch) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("data.csv, line 3: no label"), 2, "error: data.csv, line 3: no label"),
        (OSError(13, "Permission denied", "runs"), 2, "error: [Errno 13] Permission denied: 'runs'"),
        (OSError(24, "Too many open files", "v.txt"), 2, "error: [Errno 24] Too many open files: 'v.txt'"),
        (
            OSError(28, "No space left on device", "runs"),
            2,
            f"error: [Errno 28] No space left on device: 'runs'; {FREE_SPACE}",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("state saved in runs/1"), 130, "interrupted: state saved in runs/1"),
        (UserError("a\nb\x1b[31mc"), 2, "error: a\\nb\\x1b[31mc"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to"),
            2,
            "error: out of memory (CUDA out of memory.); use smaller batches or less data, or another --device",
        ),
        (
            RuntimeError("MPS backend out of memory"),
            2,
            "error: out of memory (MPS backend out of memory); use smaller batches or less data, or another --device",
        ),
        (
            MemoryError(),
            2,
            "error: out of memory (MemoryError); use smaller batches or less data, or another --device",
        ),
    ],
)
def test_an_error_that_a_user_can_fix_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
):
    assert status_of(error, monkeypatch) == status
    assert capsys.readouterr() == ("", line + "\n")


def test_a_tensor_too_large_for_the_machine_is_one_line(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert exit_status(lambda: torch.empty(2**60, dtype=torch.int8)) == 2
    assert re.fullmatch(
        r"error: out of memory \(.*can't allocate memory.*\); use smaller .*\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("error", [UserError("bad"), OSError("bad"), ValueError("bad")])
def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception):
    with pytest.raises(type(error), match="bad"):
        status_of(error, monkeypatch, "--debug")


def test_a_closed_pipe_is_no_error(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # exit_status replaces it
    assert status_of(BrokenPipeError(), monkeypatch) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [ValueError("a bug\nin detail"), KeyError("x"), IndexError(), RecursionError("deep")])
def test_a_bug_is_one_line_with_its_place_and_status_1(capsys, monkeypatch: pytest.MonkeyPatch, error: Exception):
    assert status_of(error, monkeypatch) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(rf"error: unexpected {type(error).__name__} in test_errors.py, line \d+: .*--debug.*\n", err)


def test_the_place_of_a_bug_is_the_innermost_line_of_minitext(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert exit_status(lambda: read_json("not a path")) == 1
    assert "unexpected AttributeError in io.py, line " in capsys.readouterr().err


# After a training


def test_a_step_that_fails_after_a_training_is_reported_and_gives_status_1(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    done = []

    def main() -> None:
        with after_training("drawing the figures", "minitext plot runs/mlp"):
            raise ValueError("no font\nat all")
        with after_training("the upload", "hf upload me/mlp runs/mlp"):
            raise UserError("me/mlp: no such repository")
        done.append(True)

    assert exit_status(main) == 1
    assert done == [True]
    end = "model, scores and predictions are saved; repeat it with: "
    assert capsys.readouterr().err.splitlines() == [
        f"error: drawing the figures failed (ValueError: no font); {end}minitext plot runs/mlp",
        f"error: the upload failed (me/mlp: no such repository); {end}hf upload me/mlp runs/mlp",
    ]
    assert exit_status(lambda: None) == 0  # a later program is not concerned


def test_an_interrupt_after_a_training_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt), after_training("drawing", "minitext plot"):
        raise KeyboardInterrupt


# Terminals

PRINT = """import sys
from minitext.utils.errors import UserError, exit_status

def main():
    print("café █ 良い \\ud83d")
    raise UserError("良い.csv: no label")

sys.exit(exit_status(main))
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii", "latin-1"])
def test_text_that_a_terminal_cannot_show_is_replaced(encoding: str):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stdout.decode(encoding).startswith("caf")
    assert done.stderr.decode(encoding).endswith(".csv: no label" + os.linesep)
    assert b"Traceback" not in done.stderr


def test_the_status_of_argparse_passes_through(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit) as end:
        status_of(SystemExit(2), monkeypatch)
    assert end.value.code == 2


def test_the_first_line_of_an_empty_message_is_the_class():
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
