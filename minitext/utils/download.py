"""Download public files once.

Inputs: an address, or a file's name in a repository of the Hugging Face Hub. Outputs: the path of the complete file.
"""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from torch.hub import download_url_to_file

from minitext.utils.errors import UserError, first_line
from minitext.utils.lock import lock

LOGIN = "log in with `hf auth login` or set HF_TOKEN"
SILENCE = 30.0  # seconds without a byte after which a server is given up


def download(url: str, path: Path, sha256: str) -> Path:
    """Download `url` to `path` unless that exists; atomic, and only if the file has this SHA-256, else UserError.

    Of several processes on a machine one downloads, and the others wait for the file. (huggingface-hub does the same.)
    """
    if path.exists():
        return path
    try:
        with lock(path.with_name(f"{path.name}.lock")), limited_silence():
            if not path.exists():
                download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (RuntimeError, OSError, HTTPException) as error:  # RuntimeError: the SHA-256 is another one
        remedy = f"try again, or put the file at {path}"
        raise UserError(f"{url}: cannot be downloaded ({first_line(error)}); {remedy}") from error
    return path


@contextmanager
def limited_silence() -> Iterator[None]:
    """Give up connections in the block after SILENCE; `download_url_to_file` has no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def limit_silence(request: Any) -> None:
    """Give a request of huggingface-hub that would wait for ever a limit. `request` is one of its HTTP library's."""
    seconds = request.extensions["timeout"]  # of connect, read, write and pool
    request.extensions["timeout"] = {name: SILENCE if value is None else value for name, value in seconds.items()}


@contextmanager
def hub_errors(source: str) -> Iterator[None]:
    """Turn the errors of huggingface-hub into one line that names `source` and the remedy."""
    from huggingface_hub import errors, get_session

    hooks = get_session().event_hooks["request"]
    if limit_silence not in hooks:
        hooks.append(limit_silence)
    messages = {  # a subclass comes before its parent
        errors.HFValidationError: "neither a file, a folder nor a Hub id such as google-bert/bert-base-uncased",
        errors.GatedRepoError: f"gated; request access on its page, then {LOGIN}",
        errors.RevisionNotFoundError: "the repository has no such revision",
        errors.RepositoryNotFoundError: f"no such repository on the Hub, or a private one ({LOGIN})",
        errors.LocalEntryNotFoundError: "not (completely) in the Hub's cache, and the Hub cannot be reached; "
        "try again later, or give a folder",
        errors.EntryNotFoundError: "the Hub has no such file; check the name",
    }
    try:
        yield
    except Exception as error:  # a failed connection has a class of the HTTP library in use
        other = f"request to the Hub failed ({first_line(error)}); try again later, or {LOGIN}"
        if "Timeout" in type(error).__name__:
            other = "the Hub did not answer in time; try again later"
        elif isinstance(error, OSError) and error.filename is not None:  # the cache cannot be written
            other = f"{first_line(error)}; make it accessible, or set HF_HOME to another folder"
        message = next((message for kind, message in messages.items() if isinstance(error, kind)), other)
        raise UserError(f"{source}: {message}") from error


def download_from_hub(repository: str, name: str) -> Path:
    """A file of a repository in huggingface-hub's cache, downloaded if necessary. Raises UserError if it cannot be."""
    from huggingface_hub import hf_hub_download  # imported late: it costs half a second

    with hub_errors(f"{repository}/{name}"):
        return Path(hf_hub_download(repository, name))
