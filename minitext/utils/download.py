"""Download public files once.

Inputs: an address, or a file's name in a repository of the Hugging Face Hub. Outputs: the path of the complete file.
"""

import sys
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file

from minitext.utils.errors import UserError, first_line


def download(url: str, path: Path, sha256: str) -> Path:
    """Download `url` to `path` unless that exists; atomic, and only if the file has this SHA-256.

    Raises:
        UserError: the server cannot be reached, or what it sends is another file; `path` does not exist then.
    """
    if path.exists():
        return path
    try:
        download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except RuntimeError as error:  # the SHA-256 is another one
        raise UserError(f"{url}: {first_line(error)}; nothing was kept, try again") from error
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{url}: cannot be downloaded ({first_line(error)}); try again, or put the file at {path}"
        ) from error
    return path


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
