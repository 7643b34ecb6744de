"""Evaluation of a finished run on new labeled texts.

Inputs: the folder of a run, or of its seeds, and labeled texts. Outputs: a folder with scores, predictions, figures and
a report, without a model and learning curves, which `compare`, `plot` and `report` read like a run.
Shapes: B texts, C classes.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minitext.data.dataset import SOURCES, Dataset, SourceConfig, check_labels, to_dataset
from minitext.data.readers import Row, read_rows
from minitext.evaluation.predict_file import CHUNK
from minitext.evaluation.predictor import Predictor
from minitext.evaluation.score import score_new_data
from minitext.reporting.formats import format_score, text_table
from minitext.reporting.report import OVERLAP, score_rows, write_results
from minitext.reporting.saved_run import SavedRun, read_run, with_seeds
from minitext.training.device import compute_settings
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.io import check_place
from minitext.utils.run_dir import Notes, RunDir, evaluated_run, run_settings
from minitext.utils.terminal import list_names

NOT_COMPARED = "single texts were not compared, as a run keeps no training texts"
ARCHIVES = (".gz", ".tgz", ".tar")


@dataclass(frozen=True)
class LabeledDataConfig(SourceConfig):
    """data"""

    data: str = option(None, f"{SOURCES}; if the texts have splits, only test is used", required=True)


@dataclass(frozen=True)
class ResultConfig:
    """output"""

    out: str | None = option(None, "folder of the results (default: <run>-on-<data>, beside the run)")
    overwrite: bool = option(False, "replace the results of an earlier evaluation in --out")

    def __post_init__(self) -> None:
        if self.out is not None:
            check_place("--out", Path(self.out))


@dataclass(frozen=True)
class Config:
    """All settings of an evaluation."""

    data: LabeledDataConfig
    run: ResultConfig


def evaluate(folder: str | Path, config: Config, device: str = "auto") -> list[Path]:
    """Evaluate a finished run, or each of its seeds, on labeled texts; returns the folders of the results.

    The probabilities are those of `predict`. Raises UserError if the run, the data or the output cannot be used; a
    label that is no class of the run is named with its line.
    """
    folder = Path(folder)
    runs, out = with_seeds(folder), Path(config.run.out or default_out(folder, config.data.data))
    outs = [out / run.relative_to(folder) for run in runs]
    if outs != [out] and (out / "scores.json").exists():
        raise UserError(f"--out {out}: contains a single run, but {folder} has several seeds; pass another folder")
    for result in outs:
        check_out(result, Path(config.data.data))
    results = [RunDir(result, config.run.overwrite) for result in outs]
    trained = [read_run(run) for run in runs]  # wrong runs fail before the data are read
    with Notes().phase(f"reading {config.data.data}"):
        rows, has_splits = read_test_rows(config.data)
    for run, result in zip(trained, results, strict=True):
        evaluate_run(run, rows, has_splits, config, result, device)
    return outs


def evaluate_run(
    trained: SavedRun, rows: Sequence[Row], has_splits: bool, config: Config, result: RunDir, device: str
) -> None:
    """Score one run on the texts of `rows`, which are the test part if the source has splits."""
    notes, seed = Notes(), trained.settings["run"]["seed"]  # the seed of the resamples and simulations
    predictor = Predictor.load(trained.folder, device)
    check_labels(rows, predictor.class_names, str(trained.folder))
    test = to_dataset(list(rows), predictor.class_names)
    note_data(trained, test, has_splits, config.data.data, notes)
    origin = {"folder": relative_path(trained.folder, result.out), "started": trained.settings["started"]}
    found = {"test": {"texts": len(test), "fingerprint": test.fingerprint()}}
    run = asdict(config.run) | {"out": str(result.out), "seed": seed}
    compute = compute_settings(predictor.device, torch.float32)
    result.start(run_settings(config, found, test.class_names, run=run, evaluated_run=origin, **compute))

    start = time.perf_counter()
    with notes.phase(f"predicting {len(test):,} texts on {predictor.device}"):
        calibrated = predict_logits(predictor, test.texts)
    cost = trained.cost._replace(predict_seconds=time.perf_counter() - start, texts=len(test))
    # the saved weights have been divided by the temperature; the scores before it are shown as well
    temperature = trained.scores["before_temperature"]["temperature"]
    logits = calibrated.double() * temperature
    with notes.phase("scoring"):
        scores = score_new_data(test, logits, temperature, seed)
    write_results(result, scores, test, logits, temperature, notes, cost)
    notes.print(f"\n{result.out}/report.md\n{text_table(score_rows(scores))}")


def predict_logits(predictor: Predictor, texts: Sequence[str]) -> Tensor:
    """`(B, C)` float32 logits, in the chunks of `predict --output`, so that the probabilities are the same."""
    starts = tqdm(range(0, len(texts), CHUNK), "predicting", leave=False, disable=None)
    return torch.cat([predictor.predict_logits(texts[start : start + CHUNK]) for start in starts])


def read_test_rows(config: LabeledDataConfig) -> tuple[list[Row], bool]:
    """All rows or, if the source has splits, those of test; and whether it has splits."""
    rows = read_rows(config.data, config.text_column, config.label_column, config.table_format())
    if not any(row.split for row in rows):
        return rows, False
    test = [row for row in rows if row.split == "test"]
    if not test:
        raise UserError(f"{config.data}: has splits but no test text; mark rows as split test, or remove the splits")
    return test, True


def note_data(trained: SavedRun, test: Dataset, has_splits: bool, source: str, notes: Notes) -> None:
    """Note what was evaluated on which texts, and what is known of their overlap with the texts of the run."""
    own = trained.scores
    notes.add("run", f"{trained.folder}; on its own {own['count']:,} test texts {format_score(own['accuracy'], True)}")
    used = "those marked as test; the other splits are not used" if has_splits else "all texts of the source"
    notes.add("data", f"{source}; test {len(test):,}: {used}")
    counts = np.bincount(test.labels, minlength=len(test.class_names))
    if absent := [name for name, count in zip(test.class_names, counts, strict=True) if not count]:
        notes.add("classes without texts", f"{len(absent):,} of {len(test.class_names):,}: {list_names(absent)}")
    notes.add(OVERLAP, describe_overlap(trained.settings, test.fingerprint(), source, has_splits))


def describe_overlap(settings: Mapping[str, Any], fingerprint: str, source: str, has_splits: bool) -> str:
    """What is known of texts that these and the run's have in common; a run keeps the fingerprints of its parts."""
    parts = {name: part.get("fingerprint") for name, part in settings["data_found"].items() if isinstance(part, dict)}
    if part := next((name for name, known in parts.items() if known == fingerprint), None):
        found = f"these are the {part} texts of the run, with the same labels"
        if part == "test":
            return f"{found}: the scores repeat its own"
        return f"warning: {found}: the scores say nothing about new texts"
    own = [settings["data"].get(name) for name in ("data", "valid_data")]
    if not has_splits and any(isinstance(path, str) and Path(path).resolve() == Path(source).resolve() for path in own):
        return f"warning: the run was trained on texts of {source}, and some of these may be among them"
    return f"these are not the {', '.join(parts)} texts of the run as a whole (by fingerprint); {NOT_COMPARED}"


def default_out(folder: Path, source: str) -> Path:
    """`<run>-on-<data>`, beside the run: `runs/mlp-on-reviews` for `runs/mlp` and `new/reviews.csv.gz`."""
    folder, data = (path if path.name not in ("", "..") else path.resolve() for path in (folder, Path(source)))
    name = data
    while name.suffix in ARCHIVES:
        name = name.with_suffix("")
    return folder.with_name(f"{folder.name}-on-{name.name if data.is_dir() else name.stem}")


def check_out(out: Path, data: Path) -> None:
    """Raises UserError if --out holds a trained run, which --overwrite would delete with its model, or the data."""
    check_place("--out", out)
    if (out / "scores.json").exists() and not evaluated_run(out):
        raise UserError(f"--out {out}: contains a trained run, and no evaluation; pass another folder")
    if out.resolve() in (data.resolve(), *data.resolve().parents):
        raise UserError(f"--out {out}: contains the data {data}; pass another folder")


def relative_path(run: Path, out: Path) -> str:
    """The path from `out` to the run, which stays valid if both are moved; absolute if they are on other drives."""
    run, out = run.resolve(), out.resolve()
    return Path(os.path.relpath(run, out)).as_posix() if run.drive == out.drive else str(run)
