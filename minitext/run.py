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
from types import SimpleNamespace

import numpy as np
import torch

import minitext
from minitext.checkpoint import BEST
from minitext.checkpoint import NAME as CHECKPOINT
from minitext.corpus import Corpus, Splits
from minitext.errors import UserError
from minitext.files import atomic, sync_folder, write_text
from minitext.journal import Journal
from minitext.metrics import score
from minitext.options import option
from minitext.report import write_report


@dataclass(frozen=True)
class RunOptions:
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


class Run:
    """A run's folder while it is being filled."""

    def __init__(self, out: str | Path, overwrite: bool = False, resume: bool = False):
        """Raises UserError when `out` is a finished run (unless `overwrite`), or something else altogether."""
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".partial")
        self.journal = Journal(self.folder / "journal.jsonl")
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

    def finish(self, splits: Splits, probabilities: Sequence[np.ndarray], facts: Mapping[str, str]) -> dict:
        """Score the three parts, (N, C) probabilities each; write everything that is made from them; take the name.

        `facts` are lines for the report, name to text. Returns the scores.
        """
        seed = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))["run"]["seed"]
        scores = {
            name: score(part.labels, predicted, part.names, seed)
            for name, part, predicted in zip(Splits._fields, splits, probabilities, strict=True)
        }
        write_text(self.folder / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
        write_predictions(self.folder / "predictions.csv", splits.test, probabilities[-1])
        from minitext.plots import draw  # here: matplotlib is slow to import, and the first step need not wait for it

        draw(self.folder)
        write_report(self.folder, self.out.name, facts)
        take_name(self.folder, self.out)
        return scores


def start_folder(folder: Path, resumes: bool, settings: Mapping) -> None:
    """Make `folder` anew with `settings.json`; one that resumes is kept. Raises UserError where its settings differ."""
    if resumes:
        before = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        changed = list(differences(before, json.loads(json.dumps(settings))))
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


def take_name(folder: Path, out: Path) -> None:
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


def describe(options: SimpleNamespace, splits: Splits, **more: object) -> dict:
    """What goes into `settings.json`: every option, the data's fingerprint, the versions, the command."""
    return {
        **{name: asdict(group) for name, group in vars(options).items()},
        "data_found": {
            part: {"texts": len(corpus), "fingerprint": corpus.fingerprint()}
            for part, corpus in zip(Splits._fields, splits, strict=True)
        },
        "classes": splits.train.names,
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


def differences(before: Mapping, now: Mapping, path: str = "") -> Iterator[str]:
    """Name each setting that decides on the result and is not what it was: `loop.lr was 0.001, is 0.01`."""
    for key in sorted(before.keys() | now.keys()):
        name = f"{path}{key}"
        old, new = before.get(key), now.get(key)
        if name in WITHOUT_EFFECT or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}.")
        else:
            yield f"{name} was {old}, is {new}"


def write_predictions(path: Path, corpus: Corpus, probabilities: np.ndarray) -> None:
    """A row a text: where it stands, its label, the predicted class, each class's probability."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "predicted", *(f"p({name})" for name in corpus.names)])
        for place, label, row in zip(corpus.places, corpus.labels, probabilities, strict=True):
            writer.writerow(
                [place, corpus.names[label], corpus.names[row.argmax()], *(f"{value:.9g}" for value in row)]
            )
