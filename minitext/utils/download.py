"""Download public files once.

Inputs: an address, or a file's name in a repository of the Hugging Face Hub. Outputs: the path of the complete file.
"""

import sys
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file

from minitext.utils.errors import UserError, first_line


def download(url: str, path: Path, sha256: str) -> Path:
    """Download `url` to `path` unless that exists; atomic, and only if the file has this SHA-256, else UserError."""
    if path.exists():
        return path
    try:
        download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (RuntimeError, OSError, HTTPException) as error:  # RuntimeError: the SHA-256 is another one
        remedy = f"try again, or put the file at {path}"
        raise UserError(f"{url}: cannot be downloaded ({first_line(error)}); {remedy}") from error
    return path


def download_from_hub(repository: str, name: str) -> Path:
    """A file of a repository in huggingface-hub's cache, downloaded if necessary. Raises UserError if it cannot be."""
    from huggingface_hub import errors, hf_hub_download  # imported late: it costs half a second

    try:
        return Path(hf_hub_download(repository, name))
    except errors.HFValidationError as error:
        raise UserError(f"{repository}: neither a file or folder here nor a Hub id such as owner/name") from error
    except errors.LocalEntryNotFoundError as error:
        problem = "not in the Hub's cache, and the Hub cannot be reached; connect or try again later"
        raise UserError(f"{repository}/{name}: {problem}") from error
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError) as error:
        raise UserError(f"{repository}/{name}: the Hub has no such file, or it is private; check the name") from error
    except Exception as error:  # a failed connection has a class of the HTTP library in use
        raise UserError(f"{repository}/{name}: request to the Hub failed ({first_line(error)}); try again") from error
