"""A script exits with the status and the one line that a shell and a user expect."""

import sys

import pytest

from minitext.utils.errors import UserError, exit_status, first_line


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
        (OSError(28, "No space left on device", "runs"), 2, "error: [Errno 28] No space left on device: 'runs'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("state saved in runs/1"), 130, "interrupted: state saved in runs/1"),
    ],
)
def test_an_error_that_a_user_can_fix_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
):
    assert status_of(error, monkeypatch) == status
    assert capsys.readouterr() == ("", line + "\n")


@pytest.mark.parametrize("error", [UserError("bad"), OSError("bad")])
def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception):
    with pytest.raises(type(error), match="bad"):
        status_of(error, monkeypatch, "--debug")


def test_a_closed_pipe_is_no_error(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # exit_status replaces it
    assert status_of(BrokenPipeError(), monkeypatch) == 0
    assert capsys.readouterr().err == ""


def test_a_bug_is_not_reported_as_a_user_error(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="a bug"):
        status_of(ValueError("a bug"), monkeypatch)


def test_the_status_of_argparse_passes_through(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit) as end:
        status_of(SystemExit(2), monkeypatch)
    assert end.value.code == 2


def test_the_first_line_of_an_empty_message_is_the_class():
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
