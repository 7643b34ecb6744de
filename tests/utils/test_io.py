"""Writes are atomic, JSON errors name the file and the line, the cache folder is where the user sets it."""

import os
import stat
from pathlib import Path

import pytest

from minitext.utils.errors import UserError
from minitext.utils.io import atomic, cache_folder, read_json, sync_folder, write_json, write_text


def test_a_finished_block_leaves_the_new_file_and_nothing_else(tmp_path: Path):
    with atomic(tmp_path / "scores.json") as temporary:
        temporary.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"scores.json": "new"}


def test_a_failed_block_leaves_the_old_file_and_no_temporary(tmp_path: Path):
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"scores.json": "old"}


def test_an_interrupted_block_leaves_no_temporary(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "scores.json") as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path: Path):
    path = tmp_path / "scores.json"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_temporary_file_is_in_the_same_folder(tmp_path: Path):
    """A rename is atomic only within one file system."""
    with atomic(tmp_path / "scores.json") as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_file_that_its_writer_made_private_gets_the_default_permissions(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    before = os.umask(0o027)
    try:
        with atomic(path) as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_text_is_written_as_utf_8(tmp_path: Path):
    write_text(tmp_path / "report.md", "café — 良い\n")
    assert (tmp_path / "report.md").read_bytes() == "café — 良い\n".encode()


def test_syncing_a_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


def test_json_is_read_as_it_was_written(tmp_path: Path):
    value = {"name": "café", "values": [0.1, None, True]}
    write_json(tmp_path / "scores.json", value)
    assert read_json(tmp_path / "scores.json") == value
    assert "café" in (tmp_path / "scores.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', "scores.json, line 2: not JSON"),
        (b"", "scores.json, line 1: not JSON"),
        (b"\xff{}", "scores.json: not JSON"),
        (b"[1, 2]", "scores.json: expected a JSON object, found list"),
    ],
)
def test_a_file_without_a_json_object_is_rejected_by_name_and_line(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "scores.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "scores.json")


def test_the_cache_folder_is_created_at_minitext_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINITEXT_CACHE", str(tmp_path / "deep" / "cache"))
    assert cache_folder() == tmp_path / "deep" / "cache"
    assert cache_folder().is_dir()


def test_without_minitext_cache_the_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MINITEXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "minitext"


def test_without_any_setting_the_cache_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MINITEXT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "minitext"
