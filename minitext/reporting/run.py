"""A run's folder: settings, journal, scores, predictions, figures, report.

In: what a script did. Out: `<out>/`, which is there whole or not at all: until a run is finished, its files grow in
`<out>.partial/`, and what stood in `<out>` before stays untouched.
"""

import csv
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import minitext
from minitext.data.dataset import Dataset, Splits
from minitext.evaluation.calibration import (
    apply_temperature,
    brier_scores,
    calibration_scores,
    expected_calibration_error,
    fit_temperature,
)
from minitext.evaluation.metrics import log_losses, score
from minitext.evaluation.significance import is_overfitted, train_test_gap
from minitext.evaluation.subgroups import subgroup_accuracy, write_mistakes
from minitext.reporting.report import write_report
from minitext.training.checkpoint import BEST
from minitext.training.checkpoint import NAME as CHECKPOINT
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.io import atomic, sync_folder, write_text
from minitext.utils.metrics_log import MetricsLog


@dataclass(frozen=True)
class OutputConfig:
    """run"""

    out: str = option("runs/run", "folder of the run")
    overwrite: bool = option(False, "replace a finished run in --out")
    seed: int = option(0, "of whatever is drawn: splits, weights, dropout, the order of batches, intervals")
    device: str = option("auto", "auto, cpu, cuda or mps")
    quiet: bool = option(False, "print nothing but errors")
    debug: bool = option(False, "show the traceback of an error")

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: not below 0")


@dataclass(frozen=True)
class RunConfig(OutputConfig):
    """run"""

    num_seeds: int = option(1, "run so many seeds, from --seed on, each into <out>/seed<N>, and sum them up")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_seeds < 1:
            raise UserError(f"--num-seeds {self.num_seeds}: at least 1")

    def folder(self, name: str = "") -> Path:
        """Where the run `name` of this seed goes."""
        return Path(self.out) / name / (f"seed{self.seed}" if self.num_seeds > 1 else "")


# settings that may change between a run's start and its resumption: they do not decide on its result
WITHOUT_EFFECT = {
    "command",
    "started",
    "machine",
    "versions",
    "run.out",
    "run.overwrite",
    "run.resume",
    "run.quiet",
    "run.debug",
}


def say(message: str = "", quiet: bool = False) -> None:
    """Print a line of a script's account, at once, so that a log file shows it when it happens."""
    if not quiet:
        print(message, flush=True)


class Cost(NamedTuple):
    """What a run took, and what its model takes."""

    parameters: int  # numbers in the model, word vectors included
    train_seconds: float
    predict_seconds: float  # from raw texts to probabilities, for `texts` texts
    texts: int


class RunDir:
    """A run's folder while it is being filled."""

    def __init__(self, out: str | Path, overwrite: bool = False, resume: bool = False):
        """Raises UserError when `out` is a finished run (unless `overwrite`), or something else altogether."""
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".partial")
        self.journal = MetricsLog(self.folder / "metrics.jsonl")
        self.resumes = resume and (self.folder / "settings.json").exists()
        if self.out.exists() and not (self.out / "scores.json").exists():
            raise UserError(f"{self.out}: exists and is not a run of minitext; choose another --out")
        if self.out.exists() and not overwrite:
            raise UserError(f"{self.out}: holds a finished run; choose another --out, or replace it with --overwrite")

    def start(self, settings: Mapping) -> None:
        """Make the folder with `settings.json`. A run that resumes keeps its folder, if its settings are the same; else
        an unfinished run of the same name is dropped.
        """
        start_folder(self.folder, self.resumes, settings)

    def finish(
        self, splits: Splits, probabilities: Sequence[np.ndarray], run_notes: Mapping[str, str], costs: Cost
    ) -> dict:
        """Score the three parts, (N, C) probabilities each; write everything that is made from them; take the name.

        The probabilities are calibrated first, by a temperature that validation chooses and `config.json` keeps.
        `run_notes` are lines for the report, name to text. Returns the scores.
        """
        seed = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))["run"]["seed"]
        temperature = fit_temperature(splits.valid.labels, probabilities[1])
        keep_temperature(self.folder / "config.json", temperature)
        scores, calibrated = {}, [apply_temperature(part, temperature) for part in probabilities]
        for name, part, before, after in zip(Splits._fields, splits, probabilities, calibrated, strict=True):
            scores[name] = score(part.labels, after, part.class_names, seed) | calibration_scores(
                part.labels, after, seed
            )
            scores[name]["before_temperature"] = {
                "temperature": temperature,
                "log_loss": float(log_losses(part.labels, before).mean()),
                "ece": expected_calibration_error(part.labels, before),
                "brier": float(brier_scores(part.labels, before).mean()),
            }
        gap = train_test_gap(np.array(scores["train"]["confusion"]), np.array(scores["test"]["confusion"]), seed)
        low, high = gap.interval()
        scores["test"]["gap_to_train"] = {"value": gap.value, "low": low, "high": high,
                                          "overfitting": is_overfitted(gap)}  # fmt: skip
        scores["test"]["subgroup_accuracy"] = subgroup_accuracy(splits.test, splits.train, calibrated[-1])
        write_text(self.folder / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
        write_text(self.folder / "costs.json", json.dumps(costs._asdict(), indent=2) + "\n")
        write_predictions(self.folder / "predictions.csv", splits.test, calibrated[-1])
        write_mistakes(self.folder / "mistakes.csv", splits.test, calibrated[-1])
        from minitext.reporting.plots import (
            draw,  # here: matplotlib is slow to import, and the first step need not wait for it
        )

        draw(self.folder)
        write_report(self.folder, self.out.name, run_notes)
        commit(self.folder, self.out)
        return scores


def start_folder(folder: Path, resumes: bool, settings: Mapping) -> None:
    """Make `folder` anew with `settings.json`; one that resumes is kept. Raises UserError where its settings differ."""
    if resumes:
        before = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        changed = list(changed_settings(before, json.loads(json.dumps(settings))))
        if changed:
            raise UserError(
                f"{folder}: cannot be resumed with other settings: {'; '.join(changed)}; "
                "give the old ones, or leave --resume away"
            )
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_text(folder / "settings.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def check_finished(folder: Path) -> None:
    """Raises UserError unless `folder` holds a finished run; names one that stands in it, if any."""
    if (folder / "scores.json").exists():
        return
    state = "unfinished" if (folder / "settings.json").exists() else "not a finished run"
    inside = sorted(path.parent.name for path in folder.glob("*/scores.json") if path.parent.suffix != ".partial")
    hint = f"did you mean {folder / inside[0]}?" if inside else "give the folder that a script wrote (--out)"
    raise UserError(f"{folder}: {state}; {hint}")


def commit(folder: Path, out: Path) -> None:
    """Drop the training state and rename `folder` to `out`; what stood there is deleted after that."""
    for name in (CHECKPOINT, BEST):  # a finished run needs them no more
        (folder / name).unlink(missing_ok=True)
    old = out.with_name(out.name + ".old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)  # left there by a run that was killed in the lines below
        out.rename(old)
    folder.rename(out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def describe(options: Any, splits: Splits, **more: object) -> dict:
    """What goes into `settings.json`: every option, the data's fingerprint, the versions, the command."""
    return {
        **asdict(options),
        "data_found": {
            part: {"texts": len(corpus), "fingerprint": corpus.fingerprint()}
            for part, corpus in zip(Splits._fields, splits, strict=True)
        },
        "classes": splits.train.class_names,
        **more,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "minitext": minitext.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    }


def changed_settings(before: Mapping, now: Mapping, path: str = "") -> Iterator[str]:
    """Name each setting that decides on the result and is not what it was: `loop.lr was 0.001, is 0.01`."""
    for key in sorted(before.keys() | now.keys()):
        name = f"{path}{key}"
        old, new = before.get(key), now.get(key)
        if name in WITHOUT_EFFECT or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changed_settings(old, new, f"{name}.")
        else:
            yield f"{name} was {old}, is {new}"


def keep_temperature(config: Path, temperature: float) -> None:
    """Write the temperature beside what else `predict` needs to know of the model."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.get("minitext", settings)["temperature"] = temperature
    write_text(config, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def write_predictions(path: Path, corpus: Dataset, probabilities: np.ndarray) -> None:
    """A row a text: where it stands, its label, the predicted class, each class's probability, its tag if any."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        tag = ["tag"] if corpus.tags else []
        writer.writerow(["id", "label", "predicted", *(f"p({name})" for name in corpus.class_names), *tag])
        for i, (place, label, row) in enumerate(zip(corpus.ids, corpus.labels, probabilities, strict=True)):
            predicted, tag = corpus.class_names[row.argmax()], corpus.tags[i : i + 1]
            writer.writerow([place, corpus.class_names[label], predicted, *(f"{value:.9g}" for value in row), *tag])
