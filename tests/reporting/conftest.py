"""Finished runs without training: the files that a script writes, from labels and probabilities."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from minitext.data.dataset import DataConfig, load_dataset
from minitext.models.static import LogisticRegression, MeanEncoder, StaticClassifier

REVIEWS = [("pos", "a good film"), ("neg", "a bad film"), ("pos", "good, not bad"), ("neg", "bad, not good"),
           ("pos", "good good"), ("neg", "bad bad")]  # fmt: skip
COSTS = {"parameters": 10, "train_seconds": 3.0, "predict_seconds": 0.5, "texts": 50}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_run(
    folder: Path, names: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, ids: Sequence[str] = (), **more
) -> Path:
    """The files of a run, except its model; `more` has settings, costs, tags, texts or evaluations."""
    folder.mkdir(parents=True)
    count, predicted = len(labels), probabilities.argmax(1)
    accuracy = float((labels == predicted).mean())
    score = {"value": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05}
    matrix = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(matrix, (labels, predicted), 1)
    test = {
        **dict.fromkeys(("accuracy", "macro_f1", "log_loss"), score), "ece": {"value": accuracy},
        "count": count, "confusion": matrix.tolist(), "before_temperature": {"temperature": 1.5},
        "ece_if_calibrated": {"mean": 0.03, "percentile_95": 0.06, "verdict": "above"},
        "generalization_gap": {"value": 0.1, "low": -0.05, "high": 0.2},
    }  # fmt: skip
    settings = {
        "data": {"data": "reviews.csv"}, "run": {"seed": 0}, "data_found": {"test": {"fingerprint": "abc"}},
        "classes": list(names), "command": "train_static.py", "started": "2026-11-24", "machine": "x86_64",
        "versions": {"torch": "2.13"},
    }  # fmt: skip
    rows = [{"epoch": i, "train": {"loss": 1 / i, "accuracy": 0.8}, "valid": {"loss": 1.0, "accuracy": 0.7},
             "best": i == 1} for i in (1, 2)]  # fmt: skip
    write_json(folder / "settings.json", settings | more.get("settings", {}))
    write_json(folder / "scores.json", {"test": test})
    lines = [json.dumps(row) + "\n" for row in [{"step": 1, "loss": 2.0}, *more.get("evaluations", rows)]]
    (folder / "metrics.jsonl").write_text("".join(lines))
    write_json(folder / "costs.json", {**COSTS, **more.get("costs", {})})
    texts = more.get("texts", ["a text"] * count)
    ids, tags = ids or [f"reviews.csv:{i + 2}" for i in range(count)], more.get("tags", [])
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "predicted", *(f"p({name})" for name in names), *(["tag"] if tags else [])])
        for i in range(count):
            writer.writerow([ids[i], names[labels[i]], names[predicted[i]], *probabilities[i], *tags[i : i + 1]])
    with open(folder / "mistakes.csv", "w", newline="", encoding="utf-8") as file:
        rows = [(ids[i], texts[i]) for i in np.flatnonzero(labels != predicted)]
        csv.writer(file).writerows([("id", "text"), *rows])
    return folder


@pytest.fixture
def save_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def data(tmp_path) -> Path:
    """24 labeled texts, of which a third become the test set."""
    path = tmp_path / "reviews.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "text"), *REVIEWS * 4])
    return path


@pytest.fixture
def save_run_on() -> Callable[..., Path]:
    """A function that writes a run with a model, tested on a data file; all predictions but `wrong` are right."""

    def save(folder: Path, data: Path, wrong: Sequence[int] = (), seed: int = 0, fraction: float = 1.0, **more) -> Path:
        options = {"data": str(data), "test_fraction": 0.34, "subset": (1.0, fraction)}
        test = load_dataset(DataConfig(**options), seed).test
        of_label = np.where(np.isin(np.arange(len(test)), wrong), 0.2, 0.8)
        probabilities = np.where(np.eye(2)[test.labels] == 1, of_label[:, None], 1 - of_label[:, None])
        more["settings"] = {
            "data": options, "run": {"seed": seed}, "data_found": {"test": {"fingerprint": test.fingerprint()}}
        }  # fmt: skip
        write_run(folder, test.class_names, test.labels, probabilities, test.ids, texts=test.texts, **more)
        encoder = MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]]))
        StaticClassifier(encoder, LogisticRegression(1, 2), test.class_names).save(folder)
        return folder

    return save


@pytest.fixture
def two_runs(tmp_path, data, save_run_on) -> list[Path]:
    """Eight test texts: the first run has one wrong, the second three."""
    runs = tmp_path / "runs"
    return [save_run_on(runs / "first", data, [0]), save_run_on(runs / "second", data, [1, 2, 3])]
