"""The folders of a run: renamed and deleted so that a kill loses no run, and nothing else is ever deleted."""

import json
import os
from pathlib import Path

import pytest
from run_factories import SETTINGS, contents, kill, round_of, start

from minitext.utils import run_folders
from minitext.utils.errors import UserError
from minitext.utils.run_dir import RunDir, check_finished
from minitext.utils.run_folders import CHECKPOINT_FILE, REPLACED

# Commit


def test_a_committed_run_has_its_files_and_leaves_nothing_else(tmp_path):
    start(tmp_path / "runs" / "mlp").commit()
    assert sorted(contents(tmp_path / "runs" / "mlp")) == ["metrics.jsonl", "scores.json", "settings.json"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mlp"]


def test_settings_are_saved_as_given(tmp_path):
    start(tmp_path / "mlp").commit()
    assert json.loads((tmp_path / "mlp" / "settings.json").read_text(encoding="utf-8")) == SETTINGS


def test_checkpoints_are_deleted_after_the_renames(tmp_path, monkeypatch):
    """A run that is killed before it has its name keeps what it needs to be resumed."""
    run = start(tmp_path / "mlp")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run.commit()
    assert {CHECKPOINT_FILE, "settings.json"} <= contents(run.folder).keys()
    assert RunDir(tmp_path / "mlp", resume=True).resumes


@pytest.mark.parametrize("killed_at", ["rename", "sync_folder"])
def test_a_kill_while_committing_loses_no_run(tmp_path, monkeypatch, killed_at: str):
    start(tmp_path / "mlp", round="first").commit()
    run, rename = start(tmp_path / "mlp", overwrite=True, round="second"), Path.rename

    def killed(path: Path, *target: Path) -> Path:
        if killed_at == "sync_folder" or path.name == "mlp.partial":
            raise KeyboardInterrupt
        return rename(path, *target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*((Path, "rename") if killed_at == "rename" else (run_folders, "sync_folder")), killed)
        run.commit()
    assert {round_of(path.parent) for path in tmp_path.glob("*/settings.json")} == {"first", "second"}
    kill(run)
    with pytest.raises(UserError, match="contains a finished run"):  # the next command completes the commit
        RunDir(tmp_path / "mlp")
    assert round_of(tmp_path / "mlp") == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]
    assert sorted(contents(tmp_path / "mlp")) == ["metrics.jsonl", "scores.json", "settings.json"]


def test_a_reader_says_what_to_do_about_a_run_killed_between_the_two_renames(tmp_path):
    start(tmp_path / "mlp").commit()
    start(tmp_path / "mlp", overwrite=True)
    (tmp_path / "mlp" / REPLACED).touch()
    (tmp_path / "mlp").rename(tmp_path / "mlp.old")
    expected = (
        r"mlp: a run was killed while it replaced this one; repeat its command with --resume, or rename .*partial"
    )
    with pytest.raises(UserError, match=expected):
        check_finished(tmp_path / "mlp")


@pytest.mark.parametrize("damage", ["no partial folder", "no scores", "other settings"])
def test_a_replaced_run_comes_back_where_the_new_one_is_not_complete(tmp_path, damage: str):
    start(tmp_path / "mlp", round="first").commit()
    (tmp_path / "mlp" / REPLACED).touch()
    (tmp_path / "mlp").rename(tmp_path / "mlp.old")
    if damage != "no partial folder":
        kill(start(tmp_path / "new", round="second"))
        (tmp_path / "new.partial").rename(tmp_path / "mlp.partial")
        broken = tmp_path / "mlp.partial" / ("scores.json" if damage == "no scores" else "settings.json")
        broken.unlink() if damage == "no scores" else broken.write_text('{"versions": 3}')
    with pytest.raises(UserError, match="contains a finished run"):
        RunDir(tmp_path / "mlp")
    assert round_of(tmp_path / "mlp") == "first"


# What is never deleted


@pytest.mark.parametrize("name", ["mlp.old", "mlp.partial"])
@pytest.mark.parametrize("content", ["a finished run", "notes.txt", "a file"])
def test_a_folder_that_no_run_has_made_is_never_deleted(tmp_path, name: str, content: str):
    """`mv runs/mlp runs/mlp.old` makes a backup."""
    backup = tmp_path / name
    if content == "a finished run":
        start(tmp_path / "other", round="backup").commit()
        (tmp_path / "other").rename(backup)
    elif content == "notes.txt":
        backup.mkdir()
        (backup / content).write_text("precious")
    else:
        backup.write_text("precious")
    before = backup.read_bytes() if content == "a file" else contents(backup)
    if name == "mlp.old":
        start(tmp_path / "mlp").commit()  # does not need the name
        with pytest.raises(UserError, match=r"mlp.old: not made by --overwrite.*move it away"):
            RunDir(tmp_path / "mlp", overwrite=True)
    else:
        with pytest.raises(UserError, match=r"mlp.partial: not an unfinished run of minitext; move it away"):
            RunDir(tmp_path / "mlp", overwrite=True, resume=True)
    assert (backup.read_bytes() if content == "a file" else contents(backup)) == before


def test_a_backup_that_appears_during_the_training_is_not_deleted(tmp_path):
    start(tmp_path / "mlp", round="first").commit()
    run = start(tmp_path / "mlp", overwrite=True, round="second")
    (tmp_path / "mlp.old").mkdir()
    (tmp_path / "mlp.old" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"mlp.old: not made by --overwrite"):
        run.commit()
    assert contents(tmp_path / "mlp.old") == {"thesis.tex": b"precious"}
    assert CHECKPOINT_FILE in contents(run.folder)  # so that the run can be resumed


@pytest.mark.parametrize("settings", ["{}", '{"versions": {"torch": "2.8"}}', "[1]", "", None])
def test_overwrite_deletes_complete_runs_of_minitext_only(tmp_path, settings: str | None):
    (tmp_path / "mlp").mkdir()
    (tmp_path / "mlp" / "scores.json").write_text("{}")
    if settings is not None:
        (tmp_path / "mlp" / "settings.json").write_text(settings)
    before = contents(tmp_path / "mlp")
    with pytest.raises(UserError, match="mlp: exists and is not a finished run"):
        RunDir(tmp_path / "mlp", overwrite=True)
    assert contents(tmp_path / "mlp") == before


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
@pytest.mark.parametrize("name", ["mlp", "mlp.partial", "mlp.old"])
@pytest.mark.parametrize("target", ["a run", "nothing"])
def test_a_symbolic_link_is_refused(tmp_path, name: str, target: str):
    start(tmp_path / "target", round="target").commit()
    (tmp_path / "target" / REPLACED).touch()
    (tmp_path / name).symlink_to(tmp_path / ("target" if target == "a run" else "nowhere"))
    with pytest.raises(UserError, match=rf"{name}: a symbolic link to .*(target|nowhere)"):
        RunDir(tmp_path / "mlp", overwrite=True)
    assert round_of(tmp_path / "target") == "target"
    assert (tmp_path / name).is_symlink()


def test_temporary_files_of_killed_processes_do_not_get_into_the_finished_run(tmp_path):
    run = start(tmp_path / "mlp")
    for name in (".checkpoint.pt.123.tmp", ".model.safetensors.9.tmp", ".scores.json.77.tmp"):
        (run.folder / name).write_text("half")
    (run.folder / "notes.tmp").write_text("not one of them")
    kill(run)
    run = RunDir(tmp_path / "mlp", resume=True)
    run.start(SETTINGS)
    assert sorted(path.name for path in run.folder.glob("*.tmp")) == ["notes.tmp"]
    (run.folder / ".curves.png.5.tmp").write_text("half")
    run.commit()
    assert sorted(contents(tmp_path / "mlp")) == ["metrics.jsonl", "notes.tmp", "scores.json", "settings.json"]
