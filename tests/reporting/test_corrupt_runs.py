"""Attacks on the files of a finished run: every command works, or gives one line that names the file and the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from minitext import cli
from minitext.data.dataset import Dataset, Splits
from minitext.evaluation import bootstrap
from minitext.models.static import LogisticRegression, MeanEncoder, StaticClassifier
from minitext.reporting import plots
from minitext.reporting.report import finish_run
from minitext.utils.run_dir import Cost, Notes, RunDir

SETTINGS = {
    "data": {"data": "reviews.csv"}, "data_found": {"test": {"fingerprint": "abc"}}, "classes": ["neg", "pos"],
    "run": {"seed": 0}, "command": "train_static.py", "started": "2026-11-24", "machine": "x86_64, 2 cores, Linux",
    "versions": {"minitext": "0.2.0", "torch": "2.13"},
}  # fmt: skip
LABELS = np.array([0, 1, 1, 0])
LOGITS = torch.tensor([[1.0, 0.0], [0.5, 0.25], [-1.0, 1.0], [2.0, 0.0]])  # the second is wrong
REMEDIES = ("re-train the model", "fix or replace the file", "replace it", "fix that and repeat", "training script")
OTHERS = {
    "missing": ..., "null": None, "text": "x", "number": -7, "list": [], "object": {}, "true": True,
    "NaN": float("nan"), "huge": 10**400, "nested list": [[["x"]]],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run with a model, made once."""
    part = Dataset(["bad film", "so so", "good", "bad"], LABELS, ("neg", "pos"), [f"r.csv:{i}" for i in range(4)])
    run = RunDir(tmp_path_factory.mktemp("runs") / "mlp")
    run.start(SETTINGS)
    for epoch in (1, 2):
        row = {"loss": 0.5, "accuracy": 0.75}
        run.log.write({"epoch": epoch, "train": row, "valid": row, "best": epoch == 1})
    encoder = MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]]))
    StaticClassifier(encoder, LogisticRegression(1, 2), ("neg", "pos")).save(run.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", 20)
        patch.setattr(plots, "DPI", 20)
        notes = Notes(quiet=True)
        notes.add("texts", "four")
        finish_run(run, Splits(part, part, part), [LOGITS] * 3, 1.5, notes, Cost(3, 1.0, 1.0, 12))
    return run.out


@pytest.fixture
def attack(finished, tmp_path, monkeypatch, capsys) -> Callable[[], set[int]]:
    """Run every command that reads a run on `tmp_path / "mlp"`; returns their statuses."""
    shutil.copytree(finished, tmp_path / "mlp")
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    monkeypatch.setattr(plots, "DPI", 20)
    folder = str(tmp_path / "mlp")
    commands = [
        ["compare", folder, "--out", str(tmp_path / "page.html"), "--overwrite"],
        ["plot", folder],
        ["report", folder],
        ["predict", folder, "good"],
        ["explain", folder, "good"],
    ]

    def run() -> set[int]:
        statuses = set()
        for command in commands:
            monkeypatch.setattr("sys.argv", ["minitext", *command])
            status = cli.main()
            error = capsys.readouterr().err
            assert status in (0, 2), (command, error)
            if status == 2:
                assert error.startswith("error: ") and error.count("\n") == 1, error
                assert folder in error and any(remedy in error for remedy in REMEDIES), error
            statuses.add(status)
        return statuses

    return run


def test_an_intact_run_is_read_by_every_command(attack):
    assert attack() == {0}


def test_report_writes_the_report_of_the_training_again(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "mlp")
    before = (tmp_path / "mlp" / "report.md").read_bytes()
    (tmp_path / "mlp" / "report.md").unlink()
    monkeypatch.setattr("sys.argv", ["minitext", "report", str(tmp_path / "mlp")])
    assert cli.main() == 0
    assert (tmp_path / "mlp" / "report.md").read_bytes() == before


JSON_FILES = ("settings.json", "scores.json", "costs.json", "notes.json", "config.json")
FILES = (*JSON_FILES, "metrics.jsonl", "predictions.csv", "mistakes.csv", "model.safetensors", "words.txt")
CONTENTS = {
    "empty": b"", "cut off": None, "bytes": b"\xff\xfe\x00\x80", "NULs": bytes(100), "list": b"[1, 2]\n",
    "text": b"x\n", "deep": b"[" * 100_000, "long number": b'{"a": ' + b"9" * 5000 + b"}\n",
    "only a header": b"id,label\n",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_with_other_content(attack, tmp_path, name: str, content: str):
    path = tmp_path / "mlp" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 3] if content == "cut off" else CONTENTS[content])
    assert 2 in attack()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("state", ["missing", "a folder"])
def test_a_file_that_is_no_file(attack, tmp_path, name: str, state: str):
    (tmp_path / "mlp" / name).unlink()
    if state == "a folder":
        (tmp_path / "mlp" / name).mkdir()
    assert 2 in attack()


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all keys of a JSON value, and of the first item of each list."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [inner for key, child in items for inner in [(*path, key), *leaves(child, (*path, key))]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*JSON_FILES, "metrics.jsonl"])
@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_a_key_that_is_missing_or_has_another_type(attack, finished, tmp_path, name: str, number: int):
    """Some keys are not read, and some values fit; but no command fails in another way than by one line.

    Each key gets one of the attacks, in turn; train and validation have the same keys as test.
    """
    other = list(OTHERS)[number]
    lines = (finished / name).read_text(encoding="utf-8")
    whole = json.loads(lines if name.endswith(".json") else lines.splitlines()[0])
    paths = [path for path in leaves(whole) if name != "scores.json" or path[0] == "test"]
    for path in paths[number :: len(OTHERS)]:
        changed = json.loads(json.dumps(whole))
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        if other == "missing":
            del parent[path[-1]]
        else:
            parent[path[-1]] = OTHERS[other]
        rest = "" if name.endswith(".json") else "".join(lines.splitlines(keepends=True)[1:])
        (tmp_path / "mlp" / name).write_text(json.dumps(changed) + "\n" + rest, encoding="utf-8")
        attack()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("neg,neg", "neg,other"), ("neg,neg", "neg"), ("neg,neg", "neg,neg,neg"), ("0.", "x"), ("0.", "nan"),
        ("0.", "inf"), ("0.", "-0."), ("0.", "9."), ("0.", ""), ("p(pos)", "p(neg)"), ("id,", "ids,"), ("r.csv:1", '"'),
    ],
)  # fmt: skip
def test_a_changed_prediction(attack, tmp_path, old: str, new: str):
    path = tmp_path / "mlp" / "predictions.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert 2 in attack()
