"""The saved numbers of a finished run, read and checked without loading its model.

Inputs: a run's folder. Outputs: settings, scores, evaluations, costs and test predictions.
Shapes: N test texts, C classes.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitext.data.text_input import MAX_TEXT
from minitext.utils.errors import UserError, first_line
from minitext.utils.io import read_json
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import METRICS_FILE, Cost, check_finished

COMPARED = ("accuracy", "macro_f1", "log_loss", "ece")
# of the scores on test
REQUIRED = {*COMPARED, "ece_if_calibrated", "count", "confusion", "before_temperature", "generalization_gap"}


class SavedRun(NamedTuple):
    """The saved numbers of one run."""

    folder: Path
    name: str  # the shortest end of its path that no other run of the comparison has
    class_names: tuple[str, ...]  # the C classes
    settings: dict
    fingerprint: str  # of the test texts and their labels
    scores: dict  # of the test texts
    evaluations: list[dict]  # at least one
    cost: Cost
    mistakes: dict[str, str]  # id -> text of the most confident errors
    ids: list[str]  # of each test text
    tags: list[str] | None  # of each test text, where the data have tags
    labels: np.ndarray  # (N,) int64
    predicted: np.ndarray  # (N,) int64
    probabilities: np.ndarray  # (N, C) float64

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool."""
        return self.labels == self.predicted


def read_runs(folders: Sequence[str | Path]) -> list[SavedRun]:
    """Read each run once; a folder with subfolders `seed0`, `seed1` … means the runs in them.

    Raises UserError when a folder is no run, unfinished, or corrupt.
    """
    found = {run.resolve(): run for folder in folders for run in with_seeds(Path(folder))}
    return [read_run(folder, name) for folder, name in zip(found.values(), short_names(list(found)), strict=True)]


def with_seeds(folder: Path) -> list[Path]:
    """The folder itself, or if it is not a run, the runs `seed<N>` in it, ordered by N."""
    if (folder / "scores.json").exists():
        return [folder]
    seeds = [path.parent for path in folder.glob("seed*/scores.json") if path.parent.name[4:].isdecimal()]
    return sorted(seeds, key=lambda seed: int(seed.name[4:])) or [folder]


def short_names(folders: Sequence[Path]) -> list[str]:
    """For each folder the shortest end of its path that no other one has."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        ends = (own[-length:] for length in range(1, len(own) + 1))
        names.append("/".join(next(end for end in ends if sum(other[-len(end) :] == end for other in parts) == 1)))
    return names


def read_run(folder: Path, name: str = "") -> SavedRun:
    """Read and check one run. Raises UserError, naming the file, when it is unfinished or corrupt."""
    check_finished(folder)
    try:
        settings, scores, costs = (read_json(folder / f"{part}.json") for part in ("settings", "scores", "costs"))
        if missing := REQUIRED - scores["test"].keys():
            raise ValueError(f"scores.json has no {min(missing)} on test")
        csv.field_size_limit(MAX_TEXT)  # the default refuses texts over 128 KiB
        with open(folder / "mistakes.csv", encoding="utf-8", newline="") as file:
            mistakes = {row["id"]: row["text"] for row in csv.DictReader(file)}
        run = SavedRun(
            folder=folder,
            name=name or folder.name,
            class_names=tuple(settings["classes"]),
            settings=settings,
            fingerprint=settings["data_found"]["test"]["fingerprint"],
            scores=scores["test"],
            evaluations=MetricsLog(folder / METRICS_FILE).evaluations(),
            cost=Cost(**costs),
            mistakes=mistakes,
            **read_predictions(folder / "predictions.csv", settings["classes"]),
        )
        if not run.evaluations or not all({"loss", "accuracy"} <= row["valid"].keys() for row in run.evaluations):
            raise ValueError(f"{METRICS_FILE}: expected evaluations with loss and accuracy")
        if len(run.labels) != run.scores["count"]:
            raise ValueError(f"predictions.csv has {len(run.labels)} rows for {run.scores['count']} texts")
        return run
    # a missing file, a file that is not JSON, a missing key, a cell that is not a number
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{folder}: corrupt ({reason}); re-train the model") from error


def read_predictions(path: Path, names: Sequence[str]) -> dict:
    """The columns of `predictions.csv`, as fields of SavedRun. Raises ValueError with the line that is wrong."""
    index = {name: i for i, name in enumerate(names)}
    columns = [f"p({name})" for name in names]
    found = []
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if missing := {"id", "label", "predicted", *columns} - set(rows.fieldnames or ()):
            raise ValueError(f"{path.name} has no column {min(missing)}")
        for row in rows:
            if None in row or None in row.values() or row["label"] not in index or row["predicted"] not in index:
                raise ValueError(f"{path.name} line {rows.line_num}: not a row of this run")
            values = [float(row[column]) for column in columns]
            if not abs(sum(values) - 1) < 1e-3:  # NaN is not below either
                raise ValueError(f"{path.name} line {rows.line_num}: probabilities do not add up to 1")
            found.append((row["id"], row.get("tag", ""), index[row["label"]], index[row["predicted"]], values))
    ids, tags, *numbers = zip(*found, strict=True)
    labels, predicted, probabilities = map(np.array, numbers)
    tags = list(tags) if any(tags) else None
    return {"ids": list(ids), "tags": tags, "labels": labels, "predicted": predicted, "probabilities": probabilities}
