"""Checkpoints from the Hugging Face Hub and runs to it, with huggingface-hub's cache, progress bars and token.

Inputs: a Hub id, `id@revision`, or a folder. Outputs: a folder with the checkpoint's files; the address of an upload.
"""

from functools import partial
from pathlib import Path

from minitext.utils.download import hub_errors
from minitext.utils.errors import UserError

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "bert"
CONFIG_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt")  # fmt: skip
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
LEGACY_WEIGHTS = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]
RUN_FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "settings.json",
             "scores.json", "curves.png", "confusion.png", "probabilities.png", "reliability.png")  # fmt: skip


def fetch_checkpoint(source: str) -> Path:
    """The folder of a checkpoint: the bundled `sample`, a folder, or a Hub id's files in huggingface-hub's cache."""
    folder = SAMPLE if source == "sample" else Path(source)
    if not folder.exists():
        from huggingface_hub import snapshot_download  # imported late: it takes half a second

        repository, _, revision = source.partition("@")
        fetch = partial(snapshot_download, repository, revision=revision or None)
        with hub_errors(source):
            folder = Path(fetch(allow_patterns=[*CONFIG_FILES, *SAFETENSORS]))
            if (folder / "config.json").exists() and not any(folder.glob("model*.safetensors")):
                fetch(allow_patterns=LEGACY_WEIGHTS)
    if not (folder / "config.json").exists():
        raise UserError(f"{source}: has no config.json; give a folder with a checkpoint, or a Hub id")
    return folder


def open_repository(repository: str) -> None:
    """Create a repository on the Hub if it does not exist. Run before training, so that a wrong name fails early."""
    from huggingface_hub import create_repo

    if "/" not in repository:  # the Hub would create it for the user, but an upload needs the full id
        raise UserError(f"{repository}: not a full Hub id; give user/name")
    with hub_errors(repository):
        create_repo(repository, exist_ok=True)


def push(folder: Path, repository: str) -> str:
    """Upload a finished run in one commit, with its report as the model card; returns the address."""
    from huggingface_hub import CommitOperationAdd, HfApi  # upload_folder cannot rename report.md to README.md

    files = {name: name for name in RUN_FILES} | {"README.md": "report.md"}
    with hub_errors(repository):
        operations = [CommitOperationAdd(name, str(folder / source)) for name, source in files.items()]
        HfApi().create_commit(repository, operations, commit_message="Trained by minitext")
    return f"{HfApi().endpoint}/{repository}"
