"""Fetch a public file once: resumed where it broke off, checked against its published digest, atomic.

In: an address. Out: a file in the cache folder that is whole and right, or an error and no file.
"""

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from minitext.utils.errors import UserError, first_line
from minitext.utils.io import sync_folder

TRIES = 4  # a connection that breaks is taken up again this often before we give up
BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 30  # seconds without a byte


class Remote(NamedTuple):
    """A public file: where it is, and what is known about it."""

    url: str
    size: int  # bytes
    md5: str


def fetch(remote: Remote, path: Path, quiet: bool = False) -> Path:
    """Download `remote` to `path` unless it is there already; returns `path`.

    What has arrived waits in `path` + `.part`, so that the next call goes on from there with a Range request. The
    file gets its name only when its size and its MD5 are as published.

    Raises UserError when the server cannot be reached, or when what it sent is not the published file.
    """
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    for last in [False] * (TRIES - 1) + [True]:
        try:
            receive(remote, part, quiet)
            break
        except urllib.error.HTTPError as error:
            raise UserError(f"{remote.url}: the server answered {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            if last or isinstance(getattr(error, "reason", None), OSError) and not part.exists():
                raise UserError(
                    f"{remote.url}: cannot be downloaded ({error}); run again to go on where it stopped, "
                    f"or put the file at {path} yourself"
                ) from error
    check(remote, part)
    part.replace(path)
    sync_folder(path.parent)
    return path


def receive(remote: Remote, part: Path, quiet: bool) -> None:
    """Append what is missing to `part`."""
    start = part.stat().st_size if part.exists() else 0
    if start >= remote.size:
        return
    request = urllib.request.Request(remote.url, headers={"User-Agent": "minitext"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        with (
            open(part, "ab" if resumed else "wb") as file,  # a server that ignores Range sends all of it again
            tqdm(
                desc=remote.url.rsplit("/", 1)[-1],
                total=remote.size,
                initial=start if resumed else 0,
                unit="B",
                unit_scale=True,
                disable=quiet or None,  # None: silent where stderr is not a terminal
            ) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if part.stat().st_size < remote.size:
        raise HTTPException(f"the connection ended after {part.stat().st_size:,} of {remote.size:,} bytes")


def check(remote: Remote, part: Path) -> None:
    """Compare size and MD5 with what is published; a wrong file is removed, so that the next try starts anew."""
    with open(part, "rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    size = part.stat().st_size
    if (size, md5) != (remote.size, remote.md5):
        part.unlink()
        raise UserError(
            f"{remote.url}: expected {remote.size:,} bytes with MD5 {remote.md5}, got {size:,} bytes with MD5 {md5}; "
            "what arrived was removed: run again"
        )


def download_from_hub(repository: str, name: str) -> Path:
    """A file of a repository, downloaded to huggingface-hub's cache unless it is there; resumes a partial download.

    Raises:
        UserError: the Hub has no such file, or it cannot be reached and the cache does not have the file.
    """
    from huggingface_hub import hf_hub_download  # imported late: it costs half a second
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{repository}/{name}: not in the Hub's cache, and the Hub cannot be reached; connect or try again later"
        ) from error
    except Exception as error:  # no such file, no connection: the classes of several libraries
        raise UserError(f"{repository}/{name}: request to the Hub failed ({first_line(error)}); try again") from error
