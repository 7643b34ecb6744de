"""Malformed inputs for the fuzz tests: damaged bytes, fields and JSON values, and the law that holds for all of them.

The law: a program works, or gives one line and status 2, within SECONDS and MEMORY. Every run of the tests draws the
same inputs; `FUZZ_FACTOR=10` draws other ones, and ten times as many.
"""

import faulthandler
import io
import json
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from minitext.utils.terminal import printable

SECONDS = 10  # of one program
MEMORY = 1 << 30  # bytes of address space that one program may add
FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
VALUES = [
    None, True, False, 0, -1, 1, 2, 10**12, 10**400, 1e308, -0.5, 2.0, math.nan, math.inf, "", "x", "[CLS]", "a b",
    "$A", "\ud800", "\0", "\x1b[2J\n", "y" * 3000, [], [1], ["a"], {}, {"content": "[CLS]"}, {"content": 1}, {"a": 1},
    [["a", 1.0]], [[["x"]]], "BPE", "Unigram",
]  # fmt: skip
PIECES = [
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\x1b[2J", b"\x1a", b'"', b'""',
    b"\\", b"\r", b"\n", b"\n\n", b"\t", b",", b";", b" ", b"{", b"]", b"[" * 3000, b"0", b"-1", b"1e400", b"nan",
    b"-inf", b"9" * 30, b"9" * 5000, b"word " * 20_000, b"__label__", b"\\ud83d", b"null", b"\x1f\x8b", b"PK\x03\x04",
]  # fmt: skip


class TooSlow(BaseException):
    """A program took longer than SECONDS. Not an Exception, so that no handler takes it for an error of the input."""


def fuzz(examples: int) -> settings:
    """Settings of a fuzz test. Each example has a time limit of its own, `bounded`."""
    return settings(
        max_examples=FACTOR * examples, derandomize=FACTOR == 1, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@contextmanager
def bounded() -> Iterator[None]:
    """Raise TooSlow after SECONDS, and let more than MEMORY be refused (on Linux).

    SIGALRM cannot interrupt a function in C or Rust; if one does not return, faulthandler ends the process.
    """

    def expired(*_: object) -> None:
        raise TooSlow(f"longer than {SECONDS} s")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True, file=sys.__stderr__)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def error_of(program: Callable[[], int]) -> str:
    """Run a program that returns its exit status; returns its line of error, or "" if it works. Nothing else passes."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err), bounded():
        status = program()
        sys.stderr.flush()
    *lines, end = err.buffer.getvalue().decode("utf-8").split("\n")
    errors = [line for line in lines if not line.startswith(("note: ", "warning: "))]
    assert status in (0, 2) and not end, (status, lines)
    assert len(errors) == status // 2, errors
    error = errors[0] if errors else ""
    assert error == printable(error) and error.startswith("error: "[: len(error)])
    assert "allocate memory" not in error and "out of memory" not in error, error
    return error


def damage(content: bytes, data: st.DataObject) -> bytes:
    """Change bytes in one to three ways."""
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        kind = data.draw(
            st.sampled_from(("byte", "cut", "remove", "repeat", "insert", "field", "field", "line")), "how"
        )
        at = data.draw(st.integers(0, max(len(content) - 1, 0)), "at")
        end = at + data.draw(st.integers(1, 40), "length")
        if kind == "byte":
            content = content[:at] + bytes([data.draw(st.integers(0, 255), "byte")]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "remove":
            content = content[:at] + content[end:]
        elif kind == "repeat":
            content = content[:end] + content[at:]
        elif kind == "insert":
            content = content[:at] + data.draw(st.sampled_from(PIECES), "piece") + content[at:]
        else:
            content = change_part(content, data, rb"[^\s,;]+" if kind == "field" else rb"[^\n]*\n")
    return content


def change_part(content: bytes, data: st.DataObject, pattern: bytes) -> bytes:
    """Remove, double or replace a field or a line."""
    parts = [match.span() for match in re.finditer(pattern, content)][:200]
    if not parts:
        return content
    start, end = data.draw(st.sampled_from(parts), "part")
    new = data.draw(st.sampled_from([b"", 2 * content[start:end], *PIECES]), "new")
    return content[:start] + new + content[end:]


def change_value(value: object, data: st.DataObject) -> None:
    """Replace, remove or add one value of a JSON object or list, at any depth."""
    parent = value
    while True:
        keys = sorted(parent)[:60] if isinstance(parent, dict) else list(range(min(len(parent), 20)))
        key = data.draw(st.sampled_from(keys), "key")
        if not parent[key] or not isinstance(parent[key], dict | list) or data.draw(st.booleans(), "stop"):
            break
        parent = parent[key]
    if data.draw(st.booleans(), "remove"):
        del parent[key]
    else:
        parent[key] = data.draw(st.sampled_from(VALUES), "value")


def damage_file(path: Path, data: st.DataObject) -> None:
    """Damage a file: the bytes of any, or a value of a `.json` or of a line of a `.jsonl` file."""
    if path.suffix not in (".json", ".jsonl") or not data.draw(st.integers(0, 3), "as JSON"):
        path.write_bytes(damage(path.read_bytes(), data))
        return
    whole = path.suffix == ".json"
    text = path.read_text(encoding="utf-8")
    records = [json.loads(line) for line in ([text] if whole else text.splitlines())]
    change_value(records[0] if whole else records, data)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
