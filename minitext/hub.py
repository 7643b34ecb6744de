"""Checkpoints from the Hub and to it, through huggingface-hub: its cache, progress bar, offline mode and token.

In: a Hub id, `id@revision`, or a folder. Out: a folder with the checkpoint's files. And back: a repository.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minitext.errors import UserError, first_line
from minitext.pretrained import WEIGHTS, shards

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def fetch_checkpoint(source: str) -> Path:
    """The folder of a checkpoint: `source` itself where it is one, else the Hub's files in huggingface-hub's cache.

    Safetensors are preferred to a legacy `pytorch_model.bin`; shards follow their index. Raises UserError for an
    unknown id, a gated one, or when the Hub cannot be reached and nothing is cached.
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise UserError(f"{source}: a file; give the folder with its config.json, or a Hub id")
    repository, _, revision = source.partition("@")
    config = download(repository, "config.json", revision, source)
    if config is None:
        raise UserError(f"{source}: the repository has no config.json, so it is not a model for transformers")
    for name in TOKENIZER_FILES:
        download(repository, name, revision, source)
    for name in WEIGHTS:
        found = download(repository, name, revision, source)
        if found and name.endswith("index.json"):
            for shard in shards(found):
                download(repository, shard, revision, source)
        if found:
            break
    return config.parent


def download(repository: str, name: str, revision: str, source: str) -> Path | None:
    """One file of a Hub repository; None where the repository does not have it."""
    from huggingface_hub import hf_hub_download  # imported late: it costs half a second
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with hub_errors(source):
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except LocalEntryNotFoundError:
            if name == "config.json":
                raise
            return None  # offline, and this one is not in the cache: the weights' absence is noticed when they are read
        except EntryNotFoundError:
            return None


@contextmanager
def hub_errors(source: str) -> Iterator[None]:
    """Turn what huggingface-hub raises into one line that names `source` and the remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{source}: neither a folder nor a Hub id such as google-bert/bert-base-uncased") from error
    except GatedRepoError as error:  # before its parent RepositoryNotFoundError
        raise UserError(
            f"{source}: gated; ask for access on its page, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{source}: the repository has no such revision") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{source}: no such repository on the Hub, or a private one (HF_TOKEN)") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{source}: not in the Hub's cache, and the Hub cannot be reached; "
            "connect once, or give a folder with the checkpoint"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"{source}: the Hub refused ({first_line(error)})") from error


def open_repository(repository: str) -> None:
    """Make a repository on the Hub if there is none; called before training, so that a wrong name fails at once."""
    from huggingface_hub import create_repo

    with hub_errors(repository):
        create_repo(repository, exist_ok=True)


def push(folder: Path, repository: str) -> str:
    """Upload a finished run to the Hub, its report as the model card; returns the address.

    Raises UserError when nobody is logged in, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "settings.json",
             "scores.json", "curves.png", "confusion.png", "probabilities.png")  # fmt: skip
    files = {name: folder / name for name in names} | {"README.md": folder / "report.md"}
    with hub_errors(repository):
        api = HfApi()
        api.create_commit(
            repository,
            [CommitOperationAdd(name, str(path)) for name, path in files.items()],
            commit_message="Trained by minitext",
        )
        return f"{api.endpoint}/{repository}"
