"""Atomic writes, JSON files, output files, and the folder for downloads."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from minitext.utils.errors import UserError, first_line
from minitext.utils.lock import lock

MAX_NAME = 230  # bytes of a file name: file systems allow 255, and temporary files have longer names


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; if the block succeeds, sync it to disk and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # some writers (safetensors) make files that only their owner may read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"{path}: cannot be written ({first_line(error)}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Delete the temporary files of killed processes in a folder, all or those for `name`; its lock must be held."""
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.\d+\.tmp")
    for path in list(folder.iterdir()):
        if pattern.fullmatch(path.name) and path.is_file():
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut (POSIX: a directory is synced like a file)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError with the file and the line if it holds something else."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file; replace it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); fix or replace the file") from error
    except (ValueError, RecursionError) as error:  # not UTF-8; a number of 5,000 digits; deeper than Python's stack
        raise UserError(f"{path}: not JSON ({first_line(error)}); fix or replace the file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}; fix or replace the file")
    return value


def check_place(option: str, path: Path) -> None:
    """Raise UserError unless a file or folder of this path, a value of `option`, can be created. Creates nothing."""
    if "\0" in str(path) or path.name in ("", ".."):
        raise UserError(f"{option} {str(path)!r}: not the name of a file or folder; pass another one")
    if any(len(os.fsencode(part)) > MAX_NAME for part in path.parts):
        raise UserError(f"{option} {path}: a name of more than {MAX_NAME} bytes; pass a shorter one")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise UserError(f"{option} {path}: {existing} is not a folder; pass another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: no permission to write in {existing}; pass another path")


def check_output(option: str, path: Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raise UserError if an output file cannot be created, exists (unless `overwrite`), or is one of the inputs.

    An input folder stands for the files in it.
    """
    check_place(option, path)
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; pass a file")
    for source in map(Path, inputs):
        if path.exists() and source.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"{option} {path}: is the input, or a file of it; pass another file")
    if path.exists() and not overwrite:
        raise UserError(f"{option} {path}: already exists; pass another file, or --overwrite to replace it")


@contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Hold the lock of an output file or folder in the block. Raises UserError if another process is writing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(lock(path.with_name(f".{path.name}.lock"), wait=False))
        except BlockingIOError as error:
            raise UserError(f"{path}: another process is writing it; wait for it, or pass another path") from error
        remove_temporaries(path.parent, path.name)
        yield


def cache_folder() -> Path:
    """`$MINITEXT_CACHE`, else `minitext` in the user's cache folder; created if missing."""
    try:
        user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(os.environ.get("MINITEXT_CACHE") or user_cache / "minitext")
        folder.mkdir(parents=True, exist_ok=True)
    except (RuntimeError, OSError) as error:  # RuntimeError: the user has no home folder
        raise UserError(f"no folder for downloads ({first_line(error)}); set MINITEXT_CACHE to one") from error
    return folder
