"""Tests of the law itself: what the fuzz tests must not let pass."""

import sys
import time

import malformed
import numpy as np
import pytest
from malformed import TooSlow, error_of

from minitext.utils.errors import UserError, exit_status


def raises(error: BaseException) -> int:
    def program() -> None:
        raise error

    return exit_status(program)


def test_a_program_that_works_has_no_error():
    assert error_of(lambda: 0) == ""


def test_an_error_of_the_input_is_its_line():
    assert error_of(lambda: raises(UserError("a.csv, line 1: no\nlabel"))) == r"error: a.csv, line 1: no\nlabel"


@pytest.mark.parametrize("error", [KeyError("a"), RecursionError(), MemoryError(), UserError("can't allocate memory")])
def test_another_error_fails(error: Exception):
    with pytest.raises(AssertionError):
        error_of(lambda: raises(error))


@pytest.mark.parametrize(("status", "printed"), [(1, ""), (2, ""), (0, "Traceback\n"), (2, "error: a\nb\n")])
def test_other_lines_and_statuses_fail(status: int, printed: str):
    with pytest.raises(AssertionError):
        error_of(lambda: sys.stderr.write(printed) * 0 + status)


def test_a_program_that_takes_too_long_fails(monkeypatch):
    monkeypatch.setattr(malformed, "SECONDS", 0.05)
    with pytest.raises(TooSlow):
        error_of(lambda: exit_status(lambda: time.sleep(5)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_a_program_that_takes_too_much_memory_fails():
    with pytest.raises(AssertionError):
        error_of(lambda: exit_status(lambda: np.empty(2 * malformed.MEMORY, np.uint8)))
