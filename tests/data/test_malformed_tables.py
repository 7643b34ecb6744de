"""Damaged tables and folders of texts are read, or refused in one line."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import damage, error_of, fuzz
from malformed_tables import damaged_table

from minitext.data.corpus import CorpusConfig, load_corpus
from minitext.data.dataset import DataConfig, load_dataset
from minitext.utils.errors import exit_status

pytestmark = pytest.mark.slow
NAMES = [b"train", b"test", b"unsup", b"a\nb", b"\x1b[2J", b"\xff\xfe", b"pos.txt", b".hidden", b"x" * 200, b" "]


@fuzz(500)
@given(data=st.data())
def test_a_damaged_table(data: st.DataObject, tmp_path: Path):
    name, content, options = damaged_table(data)
    path = tmp_path / name
    path.write_bytes(content)
    more = {"test_data": str(path)} if data.draw(st.integers(0, 9), "as test data") == 0 else {}
    error_of(lambda: exit_status(lambda: load_dataset(DataConfig(data=str(path), **options, **more))))


@fuzz(150)
@given(data=st.data())
def test_a_damaged_corpus(data: st.DataObject, tmp_path: Path):
    name, content, options = damaged_table(data)
    path = tmp_path / data.draw(st.sampled_from((name, "texts.txt", "texts.txt.gz")), "name")
    path.write_bytes(content)
    error_of(lambda: exit_status(lambda: load_corpus(CorpusConfig(data=(str(path),), **options), 0)))


def change_entry(folder: Path, data: st.DataObject) -> None:
    """Damage, rename, delete or replace one file or folder below `folder`."""
    path = data.draw(st.sampled_from(sorted(folder.rglob("*"))), "entry")
    how = data.draw(
        st.sampled_from(("damage", "rename", "delete", "link", "broken link", "loop", "pipe", "folder")), "how"
    )
    if how == "damage" and path.is_file():
        path.write_bytes(damage(path.read_bytes(), data))
        return
    if how == "rename":
        other = data.draw(st.sampled_from(NAMES), "name") + (b".txt" if path.is_file() else b"")
        new = path.parent / os.fsdecode(other)
        if not os.path.lexists(new):
            path.rename(new)
        return
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how in ("link", "broken link", "loop"):
        path.symlink_to({"link": "/dev/zero", "broken link": "nowhere", "loop": path.parent}[how])


@fuzz(150)
@given(data=st.data())
def test_a_damaged_folder(data: st.DataObject, tmp_path: Path):
    folder = tmp_path / "texts"
    shutil.rmtree(folder, ignore_errors=True)
    for split in ("train", "test") if data.draw(st.booleans(), "splits") else ("",):
        for i, label in enumerate(("neg", "pos") * 3):
            path = folder / split / label / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"a {label} film, naïve<br />".encode())
    for _ in range(data.draw(st.integers(1, 3), "entries")):
        if any(folder.rglob("*")):
            change_entry(folder, data)
    encoding = data.draw(st.sampled_from((None, None, "latin-1", "utf-16", "idna")), "encoding")
    error_of(lambda: exit_status(lambda: load_dataset(DataConfig(data=str(folder), encoding=encoding))))
