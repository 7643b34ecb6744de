"""The saved numbers of a finished run, read and checked without loading its model.

Inputs: a run's folder. Outputs: settings, scores, evaluations, costs and test predictions.
Shapes: N test texts, C classes.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minitext.utils.errors import UserError, first_line
from minitext.utils.io import read_json
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import check_finished

# files that describe a run; the others are the model
DESCRIPTION_FILES = {"settings.json", "scores.json", "costs.json"}
DESCRIPTION_SUFFIXES = {".jsonl", ".csv", ".png", ".md", ".html"}
COMPARED = ("accuracy", "macro_f1", "log_loss", "ece")
# what the figures and the comparison look up: a corrupt run is refused before anything is computed
REQUIRED = (
    *(f"settings {key}" for key in ("data data", "run seed", "data_found test fingerprint", "versions torch")),
    *(f"settings {key}" for key in ("classes", "command", "started", "machine")),
    *(f"scores test {key}" for key in ("count", "confusion", "before_temperature temperature")),
    *(f"scores test {key} {end}" for key in (*COMPARED, "generalization_gap") for end in ("value", "low", "high")),
    "scores test generalization_gap significant",
)


@dataclass(frozen=True)
class SavedRun:
    """The saved numbers of one run."""

    folder: Path
    name: str  # the shortest end of its path that no other run of the comparison has
    class_names: tuple[str, ...]  # the C classes
    settings: dict
    scores: dict  # of the test texts
    evaluations: list[dict]  # at least one
    costs: dict  # parameters, train_seconds, predict_seconds, texts; empty where they were not measured
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
    def confusion(self) -> np.ndarray:
        """(C, C) counts, true classes in rows."""
        return np.array(self.scores["confusion"])

    @property
    def temperature(self) -> float:
        return self.scores["before_temperature"]["temperature"]

    @property
    def fingerprint(self) -> str:
        """Of the test texts and their labels."""
        return self.settings["data_found"]["test"]["fingerprint"]

    def uncalibrated(self) -> np.ndarray:
        """(N, C) probabilities before the temperature T was applied: softmax(T log p), which is p^T, normalized."""
        powers = self.probabilities**self.temperature
        return powers / powers.sum(1, keepdims=True)

    def texts_per_second(self) -> float | None:
        seconds = self.costs.get("predict_seconds")
        return self.costs["texts"] / seconds if seconds else None

    def model_bytes(self) -> int:
        """The size of the model's files."""
        files = [path for path in self.folder.iterdir() if path.is_file() and path.name not in DESCRIPTION_FILES]
        return sum(path.stat().st_size for path in files if path.suffix not in DESCRIPTION_SUFFIXES)


def read_runs(folders: Sequence[str | Path]) -> list[SavedRun]:
    """Read every run; a folder with subfolders `seed0`, `seed1` … means the runs in them.

    Raises UserError when a folder is no run, unfinished, corrupt, or given twice.
    """
    expanded = [run for folder in folders for run in with_seeds(Path(folder))]
    seen: set[Path] = set()
    for folder in expanded:
        if folder.resolve() in seen:
            raise UserError(f"{folder}: given twice; give each run once")
        seen.add(folder.resolve())
    return [read_run(folder, name) for folder, name in zip(expanded, short_names(expanded), strict=True)]


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
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def read_run(folder: Path, name: str = "") -> SavedRun:
    """Read and check one run. Raises UserError, naming the file, when it is unfinished or corrupt."""
    check_finished(folder)
    try:
        settings, scores = (read_json(folder / f"{part}.json") for part in ("settings", "scores"))
        check_required({"settings": settings, "scores": scores})
        names = tuple(settings["classes"])
        run = SavedRun(
            folder=folder,
            name=name or folder.name,
            class_names=names,
            settings=settings,
            scores=scores["test"],
            evaluations=MetricsLog(folder / "metrics.jsonl").evaluations(),
            costs=read_json(folder / "costs.json") if (folder / "costs.json").exists() else {},
            **read_predictions(folder / "predictions.csv", names),
        )
        if not run.evaluations or not all({"loss", "accuracy"} <= row["valid"].keys() for row in run.evaluations):
            raise ValueError("metrics.jsonl: expected evaluations with loss and accuracy")
        if len(run.labels) != run.scores["count"]:
            raise ValueError(f"predictions.csv has {len(run.labels)} rows for {run.scores['count']} texts")
        return run
    # a missing file, a file that is not JSON, a missing key, a cell that is not a number
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{folder}: corrupt ({reason}); re-train the model") from error


def check_required(files: Mapping) -> None:
    """Raises KeyError, or TypeError where a mapping is expected, unless everything in REQUIRED is there."""
    for path in REQUIRED:
        inside = files
        for key in path.split():
            if key not in inside:
                raise KeyError(path.replace(" ", ".json ", 1))
            inside = inside[key]


def read_predictions(path: Path, names: Sequence[str]) -> dict:
    """The columns of `predictions.csv`, as fields of SavedRun. Raises ValueError with the line that is wrong."""
    index = {name: i for i, name in enumerate(names)}
    columns = [f"p({name})" for name in names]
    ids, tags, labels, predicted, probabilities = [], [], [], [], []
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if missing := {"id", "label", "predicted", *columns} - set(rows.fieldnames or ()):
            raise ValueError(f"{path.name} has no column {min(missing)}")
        for row in rows:
            place = f"{path.name} line {rows.line_num}"
            if None in row or None in row.values() or row["label"] not in index or row["predicted"] not in index:
                raise ValueError(f"{place}: not a row of this run")
            values = [float(row[column]) for column in columns]
            if not abs(sum(values) - 1) < 1e-3:  # NaN is not below either
                raise ValueError(f"{place}: probabilities do not add up to 1")
            ids.append(row["id"])
            tags.append(row.get("tag", ""))
            labels.append(index[row["label"]])
            predicted.append(index[row["predicted"]])
            probabilities.append(values)
    return {
        "ids": ids,
        "tags": tags if any(tags) else None,
        "labels": np.array(labels, dtype=np.int64),
        "predicted": np.array(predicted, dtype=np.int64),
        "probabilities": np.array(probabilities),
    }
