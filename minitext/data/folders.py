"""Folders of text files: `folder/<class>/*.txt`, or `folder/<split>/<class>/*.txt`, as the unpacked IMDB has them.

Inputs: a folder. Outputs: (origin, text, label, split) of each file. Hidden files and folders are skipped; other files
that are not read are counted and reported.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from minitext.data.imdb import clean_html
from minitext.data.text_input import read_text, replace_surrogates
from minitext.utils.terminal import note

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
IMDB_FILES = ("labeledBow.feat", "urls_pos.txt", "unsup")  # beside the classes of aclImdb/train or aclImdb/test


def read_folder(folder: Path, encoding: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Yield (origin, text, label, split) of all text files, of a class also those in folders below it."""
    folders = visible_folders(folder)
    splits = [entry for entry in folders if entry.name.lower() in SPLIT_NAMES]
    imdb = is_imdb(folder)
    num_skipped = 0
    for split_folder in splits or [folder]:
        split = SPLIT_NAMES[split_folder.name.lower()] if splits else ""
        for class_folder in visible_folders(split_folder):
            if imdb and class_folder.name == "unsup":
                continue
            for path in files_below(class_folder):
                if path.suffix.lower() != ".txt":
                    num_skipped += 1
                    continue
                text = read_text(path, encoding)
                origin = replace_surrogates(path.relative_to(folder).as_posix())
                yield origin, clean_html(text) if imdb else text, replace_surrogates(class_folder.name), split
    if num_skipped:
        note(f"{folder}: files that do not end in .txt were skipped: {num_skipped:,}")
    if splits and len(splits) < len(folders):
        others = ", ".join(entry.name for entry in folders if entry not in splits)
        note(f"{folder}: only {', '.join(entry.name for entry in splits)} were read, not {others}")


def visible_folders(folder: Path) -> list[Path]:
    """The sorted folders in a folder, without hidden ones (`.ipynb_checkpoints`) and those of macOS archives."""
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and is_visible(entry.name)]


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all visible files of a folder and of the folders below it; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(filter(is_visible, folders))
        yield from (Path(parent, name) for name in sorted(filter(is_visible, files)))


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def is_imdb(folder: Path) -> bool:
    """Whether a folder is the unpacked IMDB, or its train or test part: their texts are cut from web pages."""
    parts = [folder / split for split in ("train", "test")]
    if all((part / label).is_dir() for part in parts for label in ("pos", "neg")):
        return True
    classes = {entry.name for entry in visible_folders(folder)}
    return {"pos", "neg"} <= classes <= {"pos", "neg", "unsup"} and any((folder / name).exists() for name in IMDB_FILES)
