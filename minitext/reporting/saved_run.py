"""The saved numbers of a finished run, read and checked without loading its model.

Inputs: a run's folder. Outputs: settings, scores, evaluations, costs and test predictions.
Shapes: N test texts, C classes.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minitext.data.text_input import MAX_TEXT
from minitext.utils.errors import UserError, first_line
from minitext.utils.io import read_json
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import METRICS_FILE, Cost, check_finished, how_to_replace
from minitext.utils.run_folders import is_complete

COMPARED = ("accuracy", "macro_f1", "log_loss", "ece")


def is_number(value: Any) -> bool:
    """A finite number. JSON as Python reads it also has NaN and infinity, and true is an integer."""
    return type(value) in (int, float) and math.isfinite(value)


def is_score(value: Any) -> bool:
    """`{"value": 0.5, "low": 0.4, "high": 0.6}`; the limits may be missing or None."""
    return (
        isinstance(value, dict)
        and is_number(value.get("value"))
        and all(value.get(key) is None or is_number(value[key]) for key in ("low", "high"))
    )


TEXT = ("text", lambda value: isinstance(value, str))
NUMBER = ("a finite number", is_number)
POSITIVE = ("a number above 0", lambda value: is_number(value) and value > 0)
COUNT = ("a number of texts", lambda value: type(value) is int and 0 <= value < 2**53)
SETTINGS = {
    "classes": [TEXT], "command": TEXT, "started": TEXT, "machine": TEXT, "versions": {"torch": TEXT},
    "data": {"data": TEXT}, "run": {"seed": COUNT}, "data_found": {"test": {"fingerprint": TEXT}},
}  # fmt: skip
TEST_SCORES = {
    **dict.fromkeys(COMPARED, ("a score", is_score)),
    "count": COUNT, "confusion": [[COUNT]], "before_temperature": {"temperature": POSITIVE},
    "ece_if_calibrated": {"mean": NUMBER, "percentile_95": NUMBER, "verdict": TEXT},
}  # fmt: skip
# what a run has beside these, and what the evaluation of a run on new data (`evaluate`) has
TRAINED_SCORES = {"generalization_gap": {"value": NUMBER, "low": NUMBER, "high": NUMBER}}
EVALUATED = {"evaluated_run": {"folder": TEXT, "started": TEXT}}
COSTS = {"parameters": COUNT, "train_seconds": NUMBER, "predict_seconds": POSITIVE, "texts": COUNT}


class SavedRun(NamedTuple):
    """The saved numbers of one run, or of its evaluation on new data."""

    folder: Path
    name: str  # the shortest end of its path that no other run of the comparison has
    class_names: tuple[str, ...]  # the C classes
    settings: dict
    fingerprint: str  # of the test texts and their labels
    scores: dict  # of the test texts
    evaluations: list[dict]  # on validation, while training; none if the run was evaluated on new data
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

    @property
    def model_folder(self) -> Path | None:
        """The folder of the model that predicted; None if the evaluated run is gone or was trained again."""
        if (evaluated := self.settings.get("evaluated_run")) is None:
            return self.folder
        found = self.folder / evaluated["folder"]
        same = is_complete(found) and read_json(found / "settings.json").get("started") == evaluated["started"]
        return found if same else None


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
    with corrupt(folder):
        settings, scores, costs = (read_json(folder / f"{part}.json") for part in ("settings", "scores", "costs"))
        conform(settings, SETTINGS, "settings.json")
        names = settings["classes"]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("settings.json, classes: expected two or more different names")
        is_trained = "evaluated_run" not in settings
        conform(settings, {} if is_trained else EVALUATED, "settings.json")
        conform(scores, {"test": TEST_SCORES | (TRAINED_SCORES if is_trained else {})}, "scores.json")
        if {len(names)} != {len(scores["test"]["confusion"]), *map(len, scores["test"]["confusion"])}:
            raise ValueError(f"scores.json, test, confusion: expected {len(names)} rows and columns")
        conform(costs, COSTS, "costs.json")
        evaluations = MetricsLog(folder / METRICS_FILE).evaluations() if is_trained else []
        if is_trained:
            conform_evaluations(evaluations)
        run = SavedRun(
            folder=folder,
            name=name or folder.resolve().name,
            class_names=tuple(names),
            settings=settings,
            fingerprint=settings["data_found"]["test"]["fingerprint"],
            scores=scores["test"],
            evaluations=evaluations,
            cost=Cost(**{field: costs[field] for field in Cost._fields}),
            mistakes=read_mistakes(folder / "mistakes.csv"),
            **read_predictions(folder / "predictions.csv", names),
        )
        if len(run.labels) != run.scores["count"]:
            raise ValueError(f"predictions.csv has {len(run.labels)} rows for {run.scores['count']} texts")
        return run


def read_notes(folder: Path) -> dict[str, str]:
    """The notes of a run for its report. Raises UserError when they are missing or corrupt."""
    with corrupt(folder):
        notes = read_json(folder / "notes.json")
        conform(notes, dict.fromkeys(notes, TEXT), "notes.json")
        return notes


@contextmanager
def corrupt(folder: Path) -> Iterator[None]:
    """Turn the errors of reading a run's files into one line with the file and the remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: corrupt ({Path(error.filename).name} is missing); {how_to_replace(folder)}"
        ) from error
    except OSError as error:  # no permission, a folder in place of the file, a disk that fails
        reason = error.strerror or first_line(error)
        raise UserError(f"{error.filename or folder}: cannot be read ({reason}); fix that and repeat") from error
    # bytes that are not UTF-8, a missing key, a cell that is not a number
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{folder}: corrupt ({reason}); {how_to_replace(folder)}") from error


def conform(value: Any, form: Any, place: str) -> None:
    """Raise ValueError or TypeError, naming the place, unless a JSON value has this form.

    A form is a dict of the keys that an object must have, with their forms; a list of the one form of all items; or
    what is expected in words and a function that tells it.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{place}: expected an object, found {type(value).__name__}")
        for key, inner in form.items():
            if key not in value:
                raise ValueError(f"{place} has no {key}")
            conform(value[key], inner, f"{place}, {key}")
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise TypeError(f"{place}: expected a list, found {type(value).__name__}")
        for item in value:
            conform(item, form[0], place)
    elif not form[1](value):
        raise ValueError(f"{place}: expected {form[0]}, found {str(value)[:40]!r}")


def conform_evaluations(rows: Sequence[dict]) -> None:
    """Raise ValueError unless there are rows, each with losses and accuracies, and all count in the same unit."""
    if not rows:
        raise ValueError(f"{METRICS_FILE}: expected evaluations with loss and accuracy")
    unit = "epoch" if "epoch" in rows[0] else "iteration"
    for row in rows:
        parts = {part: {"loss": NUMBER, "accuracy": NUMBER} for part in ("train", "valid") if part in row}
        conform(row, {unit: NUMBER, **parts}, METRICS_FILE)


def read_mistakes(path: Path) -> dict[str, str]:
    """Text by id. Raises ValueError with the line that is wrong."""
    csv.field_size_limit(MAX_TEXT)  # the default refuses texts over 128 KiB
    found = {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if missing := {"id", "text"} - set(rows.fieldnames or ()):
            raise ValueError(f"{path.name} has no column {min(missing)}")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"{path.name} line {rows.line_num}: not a row of this run")
            found[row["id"]] = row["text"]
    return found


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
            if min(values) < 0 or not abs(sum(values) - 1) < 1e-3:  # NaN is not below either
                raise ValueError(f"{path.name} line {rows.line_num}: probabilities do not add up to 1")
            found.append((row["id"], row.get("tag", ""), index[row["label"]], index[row["predicted"]], values))
    if not found:
        raise ValueError(f"{path.name} has no rows")
    ids, tags, *numbers = zip(*found, strict=True)
    labels, predicted, probabilities = map(np.array, numbers)
    tags = list(tags) if any(tags) else None
    return {"ids": list(ids), "tags": tags, "labels": labels, "predicted": predicted, "probabilities": probabilities}
