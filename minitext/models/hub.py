"""Checkpoints from the Hub and to it, through huggingface-hub: its cache, progress bar, offline mode and token.

In: a Hub id, `id@revision`, or a folder. Out: a folder with the checkpoint's files. And back: a repository.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minitext.models.hf_checkpoint import WEIGHTS, shards
from minitext.utils.errors import UserError, first_line

TIMEOUT = 10  # seconds until an unreachable Hub is given up
SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "bert"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def fetch_checkpoint(source: str) -> Path:
    """The folder of a checkpoint: `sample`, which travels with minitext, or `source` itself where it is a folder, else
    the Hub's files in huggingface-hub's cache.

    Safetensors are preferred to a legacy `pytorch_model.bin`; shards follow their index. Where the Hub cannot be
    reached, the cache has to do. Raises UserError for an unknown id, a gated one, or when nothing is cached.
    """
    if source == "sample":
        return SAMPLE
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise UserError(f"{source}: a file; give the folder with its config.json, or a Hub id")
    from huggingface_hub import hf_hub_download  # imported late: it costs half a second
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    with hub_errors(source):
        revision = revision or "main"
        listed = list_files(repository, revision)

        def fetch(name: str) -> Path | None:
            if listed is not None and name not in listed:
                return None
            try:
                return Path(hf_hub_download(repository, name, revision=revision, local_files_only=listed is None))
            except LocalEntryNotFoundError:
                if name == "config.json" or listed is not None:
                    raise
                return None  # not in the cache: if these were the weights, reading them will say so

        config = fetch("config.json")
        if config is None:
            raise UserError(f"{source}: the repository has no config.json, so it is not a model for transformers")
        for name in TOKENIZER_FILES:
            fetch(name)
        weights = next(filter(None, map(fetch, WEIGHTS)), None)
        for shard in shards(weights) if weights and weights.suffix == ".json" else ():
            fetch(shard)
    return config.parent


def list_files(repository: str, revision: str) -> set[str] | None:
    """The files of a repository at a revision; None where the Hub cannot be reached, is out of order or too busy.

    One question for all: asked for file by file, an unreachable Hub would be waited for each time.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
    except HfHubHTTPError as error:
        if error.response.status_code >= 500 or error.response.status_code == 429:
            return None
        raise
    except HFValidationError:  # it was never asked
        raise
    except Exception:  # noqa: BLE001 (no connection, or offline mode: the class is that of some HTTP library)
        return None
    return {sibling.rfilename for sibling in info.siblings or ()}


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
            "connect or try again later, or give a folder with the checkpoint"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise UserError(
                f"{source}: the Hub asks for a valid token; log in with `hf auth login` or set HF_TOKEN"
            ) from error
        raise UserError(f"{source}: the Hub refused ({first_line(error)})") from error
    except UserError:
        raise
    except Exception as error:  # offline, or a connection broke: the class is that of some HTTP library
        raise UserError(f"{source}: the exchange with the Hub failed ({first_line(error)}); try again") from error


def open_repository(repository: str) -> None:
    """Make a repository on the Hub if there is none; called before training, so that a wrong name fails at once."""
    from huggingface_hub import create_repo

    if "/" not in repository:  # would be made in the user's name, but a push needs the whole id
        raise UserError(f"{repository}: not a Hub repository to push to; give user/name")
    with hub_errors(repository):
        create_repo(repository, exist_ok=True)


def push(folder: Path, repository: str) -> str:
    """Upload a finished run to the Hub, its report as the model card; returns the address.

    Raises UserError when nobody is logged in, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "settings.json",
             "scores.json", "curves.png", "confusion.png", "probabilities.png", "reliability.png")  # fmt: skip
    files = {name: folder / name for name in names} | {"README.md": folder / "report.md"}
    with hub_errors(repository):
        api = HfApi()
        api.create_commit(
            repository,
            [CommitOperationAdd(name, str(path)) for name, path in files.items()],
            commit_message="Trained by minitext",
        )
        return f"{api.endpoint}/{repository}"
