"""A finished run's saved numbers, without its model.

In: a run's folder. Out: its settings, scores, journal, costs, and what it said of each test text. Letters: N test
texts, C classes.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minitext.utils.errors import UserError, first_line
from minitext.utils.run_dir import check_finished

# what a run writes about itself; the other files of its folder are the model
ABOUT = {"settings.json", "scores.json", "costs.json"}
ABOUT_KINDS = {".jsonl", ".csv", ".png", ".md", ".html"}


COMPARED = ("accuracy", "macro_f1", "log_loss")
# what a comparison looks up, so that a damaged run is refused before anything is computed
NEEDED = (
    *(f"settings {key}" for key in ("data data", "run seed", "data_found test fingerprint", "versions torch")),
    *(f"settings {key}" for key in ("command", "started", "machine")),
    *(f"scores {part} confusion" for part in ("train", "test")),
    *(f"scores test {score} {end}" for score in COMPARED for end in ("value", "low", "high")),
)


@dataclass(frozen=True)
class SavedRun:
    """One run."""

    folder: Path
    name: str  # the shortest end of its path that no other run of the comparison has
    class_names: tuple[str, ...]  # the C classes
    settings: dict
    scores: dict  # "train", "valid", "test"
    journal: list[dict]
    costs: dict  # parameters, train_seconds, predict_seconds, texts; empty where they were not measured
    size: int  # of the model's files, in bytes
    ids: list[str]  # where each test text stands
    tags: list[str] | None  # each test text's kind, where the data say it
    labels: np.ndarray  # (N,) int64
    predicted: np.ndarray  # (N,) int64
    probabilities: np.ndarray  # (N, C)

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.labels == self.predicted

    @property
    def fingerprint(self) -> str:
        """Of the test texts and their labels."""
        return self.settings["data_found"]["test"]["fingerprint"]


def read_runs(folders: Sequence[str | Path]) -> list[SavedRun]:
    """Every run that is named; a folder of seeds (`seed0`, `seed1` …) stands for the runs in it.

    Raises UserError when a folder is no run, unfinished, damaged, or named twice.
    """
    expanded = [run for folder in folders for run in with_seeds(Path(folder))]
    seen: set[Path] = set()
    for folder in expanded:
        if folder.resolve() in seen:
            raise UserError(f"{folder}: named twice; name each run once")
        seen.add(folder.resolve())
    return [read_run(folder, name) for folder, name in zip(expanded, short_names(expanded), strict=True)]


def with_seeds(folder: Path) -> list[Path]:
    """The folder itself, or where it is none, its runs `seed<N>`, by N."""
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


def read_run(folder: Path, name: str) -> SavedRun:
    """One run's numbers. Raises UserError as `predict.load_predictor` does."""
    check_finished(folder)
    try:
        settings, scores = (read_json(folder / f"{part}.json") for part in ("settings", "scores"))
        check_complete({"settings": settings, "scores": scores})
        names = tuple(settings["classes"])
        journal = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        columns = read_predictions(folder / "predictions.csv", names)
        result = SavedRun(
            folder=folder,
            name=name,
            class_names=names,
            settings=settings,
            scores=scores,
            journal=journal,
            costs=read_json(folder / "costs.json") if (folder / "costs.json").exists() else {},
            size=sum(path.stat().st_size for path in folder.iterdir() if is_model(path)),
            **columns,
        )
        found = settings["data_found"]["test"]
        if not len(result.labels) == found["texts"] == scores["test"]["count"]:
            raise ValueError(f"predictions.csv has {len(result.labels)} rows for {found['texts']} texts")
        return result
    # a file that is missing or not JSON, a key that is missing, a cell that is no number
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{folder}: damaged ({reason}); train it again") from error


def check_complete(files: dict) -> None:
    """Raises KeyError, or TypeError where a number stands in the place of more, unless NEEDED is all there."""
    for path in NEEDED:
        inside = files
        for key in path.split():
            if key not in inside:
                raise KeyError(path.replace(" ", ".json ", 1))
            inside = inside[key]


def is_model(path: Path) -> bool:
    return path.is_file() and path.name not in ABOUT and path.suffix not in ABOUT_KINDS


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from error


def read_predictions(path: Path, names: tuple[str, ...]) -> dict:
    """The columns of `predictions.csv` that a `SavedRun` has. Raises ValueError with the line that is wrong."""
    number = {name: i for i, name in enumerate(names)}
    ids, tags, labels, predicted, probabilities = [], [], [], [], []
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"id", "label", "predicted", *(f"p({name})" for name in names)} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name} has no column {min(missing)}")
        tagged = "tag" in rows.fieldnames
        for row in rows:
            place = f"{path.name} line {rows.line_num}"
            if None in row or None in row.values() or row["label"] not in number or row["predicted"] not in number:
                raise ValueError(f"{place}: not a row of this run")
            values = [float(row[f"p({name})"]) for name in names]
            if not abs(sum(values) - 1) < 1e-3:  # NaN is not below either
                raise ValueError(f"{place}: its probabilities do not add up to 1")
            ids.append(row["id"])
            labels.append(number[row["label"]])
            predicted.append(number[row["predicted"]])
            probabilities.append(values)
            if tagged:
                tags.append(row["tag"])
    if not ids:
        raise ValueError(f"{path.name} holds no text")
    return {
        "ids": ids,
        "tags": tags if any(tags) else None,
        "labels": np.array(labels, dtype=np.int64),
        "predicted": np.array(predicted, dtype=np.int64),
        "probabilities": np.array(probabilities),
    }
