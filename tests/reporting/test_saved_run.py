"""Tests of reading a finished run: names, folders of seeds, and the refusal of missing or corrupt files."""

import json
from pathlib import Path

import numpy as np
import pytest

from minitext.reporting.saved_run import read_run, read_runs, short_names
from minitext.utils.errors import UserError

LABELS = np.array([0, 1, 1, 0])
PROBABILITIES = np.array([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])


@pytest.fixture
def folder(tmp_path, save_run) -> Path:
    return save_run(tmp_path / "mlp", ("neg", "pos"), LABELS, PROBABILITIES)


def message_of(*folders: Path) -> str:
    with pytest.raises(UserError) as error:
        read_runs(folders)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_has_the_saved_numbers(folder):
    run = read_run(folder)
    assert (run.name, run.class_names, run.tags, run.fingerprint) == ("mlp", ("neg", "pos"), None, "abc")
    assert run.labels.tolist() == LABELS.tolist()
    assert run.predicted.tolist() == [0, 1, 0, 0]
    assert run.correct.tolist() == [True, True, False, True]
    assert run.probabilities.tolist() == PROBABILITIES.tolist()
    assert (run.cost.parameters, run.mistakes) == (10, {"reviews.csv:4": "a text"})
    assert run.scores["accuracy"]["value"] == 0.75
    assert [row["epoch"] for row in run.evaluations] == [1, 2]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/static/mlp", "y/static/mlp", "y/scratch"], ["x/static/mlp", "y/static/mlp", "scratch"]),
        (["static/mlp", "other/mlp"], ["static/mlp", "other/mlp"]),
        (["only"], ["only"]),
    ],
)
def test_names_are_the_shortest_distinct_ends_of_paths(folders: list[str], expected: list[str]):
    assert short_names([Path(folder) for folder in folders]) == expected


def test_a_folder_of_seeds_means_its_runs_in_order(tmp_path, save_run):
    for seed in (10, 2):
        save_run(tmp_path / "mlp" / f"seed{seed}", ("neg", "pos"), LABELS, PROBABILITIES)
    (tmp_path / "mlp" / "seedling").mkdir()
    assert [run.name for run in read_runs([tmp_path / "mlp"])] == ["seed2", "seed10"]


def test_a_folder_that_is_not_a_run_is_refused(folder, tmp_path):
    assert "not a finished run" in message_of(folder, tmp_path / "nothing")
    assert f"did you mean {folder}?" in message_of(tmp_path)


def test_an_unfinished_run_is_refused(folder):
    (folder / "scores.json").unlink()
    assert f"{folder}: unfinished" in message_of(folder)


def test_a_run_given_twice_is_read_once(folder):
    assert [run.name for run in read_runs([folder, folder / ".." / "mlp"])] == ["mlp"]


@pytest.mark.parametrize("name", ["settings.json", "costs.json", "predictions.csv", "mistakes.csv", "metrics.jsonl"])
def test_a_missing_file_is_refused(folder, name: str):
    (folder / name).unlink()
    message = message_of(folder)
    assert message.startswith(f"{folder}: corrupt (")
    assert name in message


@pytest.mark.parametrize("name", ["settings.json", "scores.json"])
def test_a_truncated_file_is_refused(folder, name: str):
    text = (folder / name).read_text()
    (folder / name).write_text(text[: len(text) // 2])
    assert message_of(folder).startswith(f"{folder / name}, line 1: not JSON")


@pytest.mark.parametrize("score", ["log_loss", "count", "generalization_gap"])
def test_a_missing_score_is_named(folder, score: str):
    scores = json.loads((folder / "scores.json").read_text())
    del scores["test"][score]
    (folder / "scores.json").write_text(json.dumps(scores))
    assert message_of(folder) == f"{folder}: corrupt (scores.json, test has no {score}); re-train the model"


def test_missing_costs_are_refused(folder):
    (folder / "costs.json").write_text('{"parameters": 7}')
    assert message_of(folder) == f"{folder}: corrupt (costs.json has no train_seconds); re-train the model"


def test_long_texts_are_read(folder):
    (folder / "mistakes.csv").write_text(f"id,text\nreviews.csv:4,{'long ' * 50_000}\n")
    assert len(read_run(folder).mistakes["reviews.csv:4"]) == 250_000


@pytest.mark.parametrize("line", ['{"step": 1}', '{"epoch": 1, "valid": {"loss": 1}}', '{"epoch": 1, "valid"'])
def test_metrics_without_complete_evaluations_are_refused(folder, line: str):
    (folder / "metrics.jsonl").write_text(line + "\n")
    assert message_of(folder).startswith((f"{folder}: corrupt (", f"{folder / 'metrics.jsonl'}, line 1: "))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("p(pos)", "pos", "no column p(pos)"),
        (",0.2", ",x", "could not convert"),
        (",0.2", ",nan", "do not add up to 1"),
        (",0.2", ",0.9", "do not add up to 1"),
        ("pos,pos", "pos,other", "not a row of this run"),
        ("pos,pos", "pos", "not a row of this run"),
        ("pos,pos", "pos,pos,1", "not a row of this run"),
    ],
)
def test_a_corrupt_prediction_is_refused(folder, old: str, new: str, expected: str):
    path = folder / "predictions.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    message = message_of(folder)
    assert message.startswith(f"{folder}: corrupt (")
    assert expected in message


def test_a_missing_prediction_is_refused(folder):
    path = folder / "predictions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert "3 rows for 4 texts" in message_of(folder)
