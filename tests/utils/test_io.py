"""Writes are atomic, JSON errors name the file and the line, the cache folder is where the user sets it."""

import os
import stat
from pathlib import Path

import pytest
from safetensors import SafetensorError

from minitext.utils.errors import UserError
from minitext.utils.io import (
    atomic,
    cache_folder,
    check_output,
    lock_output,
    read_json,
    remove_temporaries,
    sync_folder,
    write_json,
    write_text,
)


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


def test_a_full_disk_that_safetensors_reports_is_an_error_of_the_system(tmp_path: Path):
    expected = r"model.safetensors: cannot be written \(I/O error.*; is the disk full\?"
    with pytest.raises(OSError, match=expected), atomic(tmp_path / "model.safetensors") as temporary:
        temporary.write_text("half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert list(tmp_path.iterdir()) == []


# Temporary files


def test_temporary_files_of_killed_processes_are_removed_and_nothing_else(tmp_path: Path):
    removed = [".out.csv.12.tmp", ".checkpoint.pt.99999.tmp"]
    kept = ["out.csv.12.tmp", ".out.csv.tmp", ".out.csv.12.tmp.bak", "notes.tmp"]
    for name in (*removed, *kept):
        (tmp_path / name).touch()
    (tmp_path / ".folder.1.tmp").mkdir()
    remove_temporaries(tmp_path, "checkpoint.pt")
    assert not (tmp_path / removed[1]).exists() and (tmp_path / removed[0]).exists()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, ".folder.1.tmp"])


def test_the_next_writer_of_an_output_removes_what_a_killed_one_has_left(tmp_path: Path):
    (tmp_path / ".page.html.77.tmp").touch()
    with lock_output(tmp_path / "page.html"):
        write_text(tmp_path / "page.html", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# Output files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two inputs, an existing output, and a folder."""
    (tmp_path / "texts").mkdir()
    for name in ("in.csv", "old.csv", "texts/a.txt"):
        (tmp_path / name).write_text("precious")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "overwrite", "message"),
    [
        ("old.csv", False, "already exists; pass another file, or --overwrite"),
        ("in.csv", True, "is the input, or a file of it"),
        ("texts/../in.csv", True, "is the input, or a file of it"),
        ("texts/a.txt", True, "is the input, or a file of it"),
        ("texts", True, "is a folder; pass a file"),
        ("no/out.csv", True, "does not exist; create it first"),
        ("in.csv/out.csv", True, "is not a folder"),
        ("n" * 300, True, "a name of more than 230 bytes"),
        ("a\0b", True, "not the name of a file"),
        ("..", True, "not the name of a file"),
    ],
)
def test_an_output_that_must_not_be_written_is_refused(folder: Path, name: str, overwrite: bool, message: str):
    with pytest.raises(UserError, match=message) as error:
        check_output("--output", folder / name, overwrite, [folder / "in.csv", folder / "texts"])
    assert str(error.value).startswith("--output ")


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_to_the_input_is_the_input(folder: Path):
    (folder / "link.csv").symlink_to(folder / "in.csv")
    with pytest.raises(UserError, match="is the input"):
        check_output("--output", folder / "link.csv", True, [folder / "in.csv"])


def test_a_new_output_and_one_to_overwrite_are_accepted(folder: Path):
    check_output("--output", folder / "new.csv", False, [folder / "in.csv", "sample"])
    check_output("--output", folder / "old.csv", True, [folder / "in.csv", folder / "texts"])


def test_one_process_writes_an_output_at_a_time(tmp_path: Path):
    with lock_output(tmp_path / "out.csv"):
        with (
            pytest.raises(UserError, match="out.csv: another process is writing it"),
            lock_output(tmp_path / "out.csv"),
        ):
            pass
        with lock_output(tmp_path / "other.csv"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_lock_keeps_its_class(tmp_path: Path):
    with pytest.raises(BlockingIOError), lock_output(tmp_path / "out.csv"):
        raise BlockingIOError


# No home folder


def test_without_a_home_folder_the_cache_asks_for_minitext_cache(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MINITEXT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="no folder for downloads .*; set MINITEXT_CACHE"):
        cache_folder()


def test_a_cache_that_cannot_be_created_asks_for_minitext_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINITEXT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set MINITEXT_CACHE"):
        cache_folder()


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_json_that_python_cannot_hold_is_rejected(tmp_path: Path, content: bytes):
    (tmp_path / "scores.json").write_bytes(content)
    with pytest.raises(UserError, match="scores.json: not JSON"):
        read_json(tmp_path / "scores.json")


def test_a_folder_in_place_of_a_json_file_is_rejected(tmp_path: Path):
    with pytest.raises(UserError, match="not a file; replace it"):
        read_json(tmp_path)
