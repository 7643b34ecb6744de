"""Run directory: complete or absent, replaced only on request and only at the end; settings; notes."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from minitext.utils import run_dir
from minitext.utils.errors import UserError
from minitext.utils.run_dir import (
    CHECKPOINT_FILE,
    Notes,
    OutputConfig,
    RunConfig,
    RunDir,
    changed_settings,
    check_finished,
    log,
    run_settings,
)

SETTINGS = {"run": {"seed": 3}, "loop": {"lr": 0.1}, "command": "train.py --out é"}


def start(out: Path, overwrite: bool = False, **settings) -> RunDir:
    """A run with metrics, a checkpoint and scores, ready to be committed."""
    run = RunDir(out, overwrite)
    run.start(SETTINGS | settings)
    run.log.write({"update": 1})
    for name in (CHECKPOINT_FILE, "scores.json"):
        (run.folder / name).write_text("{}")
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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

    monkeypatch.setattr(*((Path, "rename") if killed_at == "rename" else (run_dir, "sync_folder")), killed)
    with pytest.raises(KeyboardInterrupt):
        run.commit()
    rounds = {json.loads(path.read_text())["round"] for path in tmp_path.glob("*/settings.json")}
    assert rounds == {"first", "second"}


# An existing run


def test_a_finished_run_is_refused_and_unchanged(tmp_path):
    start(tmp_path / "mlp").commit()
    before = contents(tmp_path / "mlp")
    with pytest.raises(UserError, match=r"mlp: contains a finished run; pass another --out, or --overwrite"):
        RunDir(tmp_path / "mlp")
    assert contents(tmp_path / "mlp") == before


def test_overwrite_replaces_a_finished_run(tmp_path):
    start(tmp_path / "mlp", round="first").commit()
    start(tmp_path / "mlp", overwrite=True, round="second").commit()
    assert json.loads((tmp_path / "mlp" / "settings.json").read_text())["round"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


def test_overwrite_keeps_the_old_run_until_the_commit(tmp_path):
    start(tmp_path / "mlp").commit()
    before = contents(tmp_path / "mlp")
    start(tmp_path / "mlp", overwrite=True, round="second")
    assert contents(tmp_path / "mlp") == before


def test_an_unfinished_run_has_no_folder_of_its_name(tmp_path):
    start(tmp_path / "mlp")
    assert not (tmp_path / "mlp").exists()


def test_an_unfinished_run_that_is_not_resumed_is_deleted(tmp_path):
    run = start(tmp_path / "mlp")
    (run.folder / "left.txt").write_text("from the first try")
    start(tmp_path / "mlp").commit()
    assert sorted(contents(tmp_path / "mlp")) == ["metrics.jsonl", "scores.json", "settings.json"]
    assert (tmp_path / "mlp" / "metrics.jsonl").read_text() == '{"update": 1}\n'


def test_a_kill_between_the_two_renames_does_not_block_the_next_run(tmp_path):
    start(tmp_path / "mlp").commit()
    (tmp_path / "mlp").rename(tmp_path / "mlp.old")
    start(tmp_path / "mlp").commit()
    assert (tmp_path / "mlp" / "scores.json").exists()


def test_a_kill_after_the_renames_does_not_block_the_next_run(tmp_path):
    for name in ("mlp", "mlp.old"):
        start(tmp_path / name).commit()
    start(tmp_path / "mlp", overwrite=True, round="third").commit()
    assert json.loads((tmp_path / "mlp" / "settings.json").read_text())["round"] == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_not_a_run_is_refused(tmp_path, overwrite: bool):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(UserError, match=r"thesis: exists and is not a finished run; pass another --out"):
        RunDir(tmp_path / "thesis", overwrite)
    assert contents(tmp_path / "thesis") == {"chapter1.tex": b"precious"}


def test_a_file_is_refused(tmp_path):
    (tmp_path / "mlp").write_text("precious")
    with pytest.raises(UserError, match=r"mlp: exists and is not a finished run"):
        RunDir(tmp_path / "mlp", overwrite=True)


def test_the_file_of_a_finished_run_can_be_another(tmp_path):
    start(tmp_path / "mlp").commit()
    with pytest.raises(UserError, match="is not a finished run"):
        RunDir(tmp_path / "mlp", overwrite=True, final_file="vectors.txt")


def test_no_folder_is_created_before_the_start(tmp_path):
    RunDir(tmp_path / "runs" / "mlp")
    assert list(tmp_path.iterdir()) == []


def test_check_finished_accepts_a_finished_run_only(tmp_path):
    run = start(tmp_path / "finished")
    run.commit()
    check_finished(run.out)
    (tmp_path / "unfinished").mkdir()
    shutil.copy(run.out / "settings.json", tmp_path / "unfinished")
    with pytest.raises(UserError, match="unfinished: unfinished run; pass the --out"):
        check_finished(tmp_path / "unfinished")
    with pytest.raises(UserError, match=r"not a finished run; did you mean .*finished\?"):
        check_finished(tmp_path)


# Resuming


def test_a_resumed_run_keeps_its_folder(tmp_path):
    start(tmp_path / "mlp")
    run = RunDir(tmp_path / "mlp", resume=True)
    run.start(SETTINGS | {"command": "train.py --out é --resume"})
    assert (run.folder / CHECKPOINT_FILE).exists()
    assert run.log.rows() == [{"update": 1}]


def test_resume_without_an_unfinished_run_starts_one(tmp_path):
    run = RunDir(tmp_path / "mlp", resume=True)
    assert not run.resumes
    run.start(SETTINGS)
    assert (run.folder / "settings.json").exists()


def test_a_run_is_resumed_on_other_devices(tmp_path):
    """What has to stay is the precision in use, whichever option led to it."""
    before = {"device": "H100", "processes": 8, "run": {"device": "auto"}, "loop": {"lr": 0.1, "precision": "auto"}}
    now = {"device": "cpu", "processes": 1, "run": {"device": "cpu"}, "loop": {"lr": 0.1, "precision": "bf16"}}
    start(tmp_path / "mlp", **before, precision="bf16")
    RunDir(tmp_path / "mlp", resume=True).start(SETTINGS | now | {"precision": "bf16"})
    with pytest.raises(UserError, match=r"settings changed \(precision: bf16 → fp32\); restore them"):
        RunDir(tmp_path / "mlp", resume=True).start(SETTINGS | now | {"precision": "fp32"})


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    start(tmp_path / "mlp")
    run = RunDir(tmp_path / "mlp", resume=True)
    expected = r"cannot resume: settings changed \(loop.lr: 0.1 → 0.2\); restore them or drop --resume"
    with pytest.raises(UserError, match=expected):
        run.start(SETTINGS | {"loop": {"lr": 0.2}})


def test_changed_settings_ignore_what_does_not_affect_the_result():
    before = {"command": "a", "run": {"seed": 1, "quiet": True, "num_seeds": 1}, "loop": {"lr": 0.1}}
    now = {"command": "b", "run": {"seed": 2, "quiet": False, "num_seeds": 5}, "data": {"data": "imdb"}}
    assert list(changed_settings(before, now)) == [
        "data: None → {'data': 'imdb'}",
        "loop: {'lr': 0.1} → None",
        "run.seed: 1 → 2",
    ]


# Settings, options, messages


@dataclass(frozen=True)
class LogisticConfig:
    l2: tuple[float, ...] = (1.0, 0.1)


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=lambda: RunConfig(seed=4))
    logistic: LogisticConfig = field(default_factory=LogisticConfig)


FOUND = {"train": {"texts": 3, "fingerprint": "0a"}}


def test_settings_hold_options_data_versions_and_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/here/train.py", "--seed", "4"])
    settings = run_settings(Config(), FOUND, ("neg", "pos"), pooling="mean")
    assert settings["run"]["seed"] == 4
    assert settings["logistic"] == {"l2": (1.0, 0.1)}
    assert (settings["data_found"], settings["classes"], settings["pooling"]) == (FOUND, ("neg", "pos"), "mean")
    assert settings["command"] == "train.py --seed 4"
    assert set(settings["versions"]) == {"minitext", "python", "torch", "numpy"}
    json.dumps(settings)


def test_the_command_in_the_settings_can_be_pasted_into_a_shell(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--data", "my reviews.csv"])
    assert run_settings(Config(), FOUND, ())["command"] == "train.py --data 'my reviews.csv'"


def test_several_seeds_have_a_folder_each():
    assert RunConfig(out="a", seed=4).folder("mlp") == Path("a/mlp")
    assert RunConfig(out="a", seed=4, num_seeds=2).folder("mlp") == Path("a/mlp/seed4")


@pytest.mark.parametrize(("wrong", "message"), [
    (lambda: OutputConfig(seed=-1), r"--seed must be >= 0 \(got -1\)"),
    (lambda: RunConfig(num_seeds=0), r"--num-seeds must be at least 1 \(got 0\)"),
])  # fmt: skip
def test_wrong_options_are_refused(wrong, message: str):
    with pytest.raises(UserError, match=message):
        wrong()


def test_a_quiet_log_prints_nothing(capsys):
    log("texts: 3", quiet=True)
    log("texts: 4")
    assert capsys.readouterr().out == "texts: 4\n"


def test_a_note_is_recorded_and_printed(capsys):
    notes = Notes()
    notes.add("texts", "train 404")
    assert notes == {"texts": "train 404"}
    assert capsys.readouterr().out == "texts: train 404\n"


def test_a_note_of_a_quiet_run_is_recorded_only(capsys):
    notes = Notes(quiet=True)
    notes.add("texts", "train 404")
    assert notes == {"texts": "train 404"}
    assert capsys.readouterr().out == ""
