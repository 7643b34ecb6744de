"""Run directory: complete or absent, replaced only on request and only at the end; settings; notes."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from run_factories import SETTINGS, contents, kill, round_of, start

from minitext.utils.errors import UserError
from minitext.utils.run_dir import (
    Notes,
    OutputConfig,
    RunConfig,
    RunDir,
    already_finished,
    changed_settings,
    check_finished,
    log,
    run_settings,
)
from minitext.utils.run_folders import CHECKPOINT_FILE, REPLACED

ROOT = Path(__file__).parents[2]

# Locks


def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    run = start(tmp_path / "mlp", round="first")
    second = RunDir(tmp_path / "mlp")
    with pytest.raises(UserError, match=r"mlp: another process is writing it; wait for it, or pass another path"):
        second.start(SETTINGS)
    assert round_of(run.folder) == "first"
    run.commit()
    with pytest.raises(UserError, match="contains a finished run"):  # not seen when `second` was made
        second.start(SETTINGS)


def test_the_lock_ends_with_its_process(tmp_path):
    code = f"""import os, signal
from minitext.utils.run_dir import RunDir
run = RunDir({str(tmp_path / "mlp")!r})
run.start({SETTINGS!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    start(tmp_path / "mlp").commit()
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


# Names


@pytest.mark.parametrize("out", ["", ".", "..", "/", "runs/..", "a\0b", "n" * 300, "a/" + "n" * 300 + "/b", "é" * 200])
def test_an_out_that_is_no_name_is_refused_before_any_work(tmp_path, monkeypatch, out: str):
    monkeypatch.chdir(tmp_path)
    for make in (OutputConfig, RunDir):
        with pytest.raises(UserError, match="^--out .*; pass a") as error:
            make(out=out)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_out_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"file is not a folder; pass another path"):
        RunConfig(out=str(tmp_path / "file" / "a" / "b"))


def test_an_out_where_nothing_may_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match=rf"--out .*: no permission to write in {tmp_path}; pass another path"):
        RunConfig(out=str(tmp_path / "a" / "b"))


# Finished runs and --resume


@dataclass(frozen=True)
class ResumeConfig(RunConfig):
    resume: bool = True


@dataclass(frozen=True)
class LoopConfig:
    lr: float = 0.1


@dataclass(frozen=True)
class ScriptConfig:
    run: ResumeConfig
    loop: LoopConfig = field(default_factory=LoopConfig)


def finished(tmp_path: Path, lr: float = 0.1) -> Path:
    run = RunDir(tmp_path / "mlp")
    run.start(run_settings(ScriptConfig(ResumeConfig(out="elsewhere"), LoopConfig(lr)), {}, ()))
    (run.folder / "scores.json").write_text("{}")
    run.commit()
    return run.out


def resumed(out: Path, **options) -> bool:
    return already_finished(ScriptConfig(ResumeConfig(out=str(out), **options)), [out])


def test_a_finished_run_with_the_same_settings_is_not_trained_again(tmp_path):
    out = finished(tmp_path)
    assert resumed(out)
    assert resumed(out, overwrite=True)
    assert not resumed(out, resume=False)
    assert not resumed(tmp_path / "other")


def test_a_finished_run_with_other_settings_is_refused_by_their_names_or_replaced(tmp_path):
    out = finished(tmp_path, lr=0.2)
    with pytest.raises(UserError, match=r"mlp: .*other settings \(loop.lr: 0.2 → 0.1\); restore them, .*--overwrite"):
        resumed(out)
    assert not resumed(out, overwrite=True)


def test_an_unfinished_run_is_resumed_before_a_finished_one_counts(tmp_path):
    """It was started with --overwrite, which need not be given again."""
    out = finished(tmp_path)
    kill(start(out, overwrite=True, run={"seed": 3, "overwrite": True}))
    assert not resumed(out)
    run = RunDir(out, resume=True)
    run.start(SETTINGS)
    run.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


@pytest.mark.parametrize("settings", ["", "[]", '{"run": 3}', '{"run": {"overwrite": "yes"}, "versions": []}'])
def test_a_resumed_run_with_damaged_settings_is_refused(tmp_path, settings: str):
    run = start(tmp_path / "mlp")
    (run.folder / "settings.json").write_text(settings)
    kill(run)
    with pytest.raises(UserError):
        RunDir(tmp_path / "mlp", resume=True).start(SETTINGS)


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
    kill(run)
    start(tmp_path / "mlp").commit()
    assert sorted(contents(tmp_path / "mlp")) == ["metrics.jsonl", "scores.json", "settings.json"]
    assert (tmp_path / "mlp" / "metrics.jsonl").read_text() == '{"update": 1}\n'


def test_a_kill_after_the_renames_does_not_block_the_next_run(tmp_path):
    for name in ("mlp", "mlp.old"):
        start(tmp_path / name).commit()
    (tmp_path / "mlp.old" / REPLACED).touch()
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


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_output_that_cannot_be_written_ends_no_training(monkeypatch, code: int):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(code, "closed")

    monkeypatch.setattr("sys.stdout", Closed())
    log("epoch 1")


def test_escape_sequences_of_names_do_not_reach_the_terminal(capsys):
    log("class \x1b[31mred\x9b\nnext\tcell")
    assert capsys.readouterr().out == "class \\x1b[31mred\\x9b\nnext\tcell\n"


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
