"""Run directory: options, settings, notes, and the atomic commit of a finished run.

Inputs: the settings of a run. Outputs: `<out>/`, complete or absent: `<out>.partial/` is renamed at the end.
"""

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
from minitext.utils.config import option, require
from minitext.utils.errors import UserError
from minitext.utils.io import read_json, sync_folder, write_json
from minitext.utils.metrics_log import MetricsLog

CHECKPOINT_FILE = "checkpoint.pt"
METRICS_FILE = "metrics.jsonl"
# settings that may differ when a run is resumed, because they do not change its result, or only its rounding and the
# dropout masks: the devices. `precision` is the one in use, `loop.precision` the option, which may be "auto".
NO_EFFECT = {
    "command", "started", "machine", "versions", "device", "processes", "run.device", "loop.precision",
    "run.out", "run.overwrite", "run.resume", "run.quiet", "run.debug", "run.num_seeds", "loop.save_every",
}  # fmt: skip


@dataclass(frozen=True)
class OutputConfig:
    """run"""

    out: str = option("runs/run", "run directory")
    overwrite: bool = option(False, "replace a finished run in --out")
    seed: int = option(0, "random seed for splits, initialization, dropout, batch order and bootstrap")
    quiet: bool = option(False, "print only errors")
    debug: bool = option(False, "show the traceback of an error")

    def __post_init__(self) -> None:
        require(self, lambda value: value >= 0, ">= 0", "seed")


@dataclass(frozen=True)
class RunConfig(OutputConfig):
    """run"""

    num_seeds: int = option(1, "train with N consecutive seeds and report mean and standard deviation")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "num_seeds")

    def folder(self, name: str = "") -> Path:
        """The directory of run `name` with this seed."""
        return Path(self.out) / name / (f"seed{self.seed}" if self.num_seeds > 1 else "")


class Cost(NamedTuple):
    """Cost of a run: parameters, training and prediction time."""

    parameters: int  # word vectors included
    train_seconds: float
    predict_seconds: float  # from raw texts to logits, for `texts` texts
    texts: int


def log(message: str = "", quiet: bool = False) -> None:
    """Print and flush, unless `quiet`."""
    if not quiet:
        print(message, flush=True)


class Notes(dict[str, str]):
    """Facts about a run, name to text, for its report. Each is printed when it is added."""

    def __init__(self, quiet: bool = False):
        super().__init__()
        self.quiet = quiet

    def add(self, name: str, text: str) -> None:
        """Record `text` under `name` and print `name: text`."""
        self[name] = text
        self.print(f"{name}: {text}")

    def print(self, message: str) -> None:
        """Print without recording."""
        log(message, self.quiet)


class RunDir:
    """A run in progress, written to `folder` until `commit`; `resumes`: whether `start` continues an unfinished run."""

    def __init__(self, out: str | Path, overwrite: bool = False, resume: bool = False, final_file: str = "scores.json"):
        """Raises UserError if `out` is a finished run (unless `overwrite`), or is not a run: has no `final_file`."""
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".partial")
        self.log = MetricsLog(self.folder / METRICS_FILE)
        self.resumes = resume and (self.folder / "settings.json").exists()
        if self.out.exists() and not (self.out / final_file).exists():
            raise UserError(f"{self.out}: exists and is not a finished run; pass another --out")
        if self.out.exists() and not overwrite:
            raise UserError(f"{self.out}: contains a finished run; pass another --out, or --overwrite to replace it")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Create the folder with `settings.json`, or resume one. Raises UserError if it has other settings."""
        if self.resumes:
            before = read_json(self.folder / "settings.json")
            if changed := "; ".join(changed_settings(before, json.loads(json.dumps(settings)))):
                problem = f"cannot resume: settings changed ({changed})"
                raise UserError(f"{self.folder}: {problem}; restore them or drop --resume")
            return
        if self.folder.exists():  # an unfinished run that is not resumed
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_json(self.folder / "settings.json", settings)

    def commit(self) -> None:
        """Rename the folder to `out`, then delete the run that it replaces and the checkpoint."""
        old = self.out.with_name(self.out.name + ".old")
        if self.out.exists():
            shutil.rmtree(old, ignore_errors=True)  # left by a run that was killed in the lines below
            self.out.rename(old)
        self.folder.rename(self.out)
        sync_folder(self.out.parent)
        shutil.rmtree(old, ignore_errors=True)
        (self.out / CHECKPOINT_FILE).unlink(missing_ok=True)  # last: a run that is killed before can be resumed


def check_finished(folder: Path) -> None:
    """Raises UserError unless `folder` is a finished run; suggests a finished run inside it, if there is one."""
    if (folder / "scores.json").exists():
        return
    state = "unfinished run" if (folder / "settings.json").exists() else "not a finished run"
    inside = sorted(path.parent.name for path in folder.glob("*/scores.json") if path.parent.suffix != ".partial")
    hint = f"did you mean {folder / inside[0]}?" if inside else "pass the --out of a training script"
    raise UserError(f"{folder}: {state}; {hint}")


def run_settings(config: Any, data_found: Mapping, class_names: Sequence[str], **more: object) -> dict[str, Any]:
    """The content of `settings.json`: every option, size and fingerprint of the data, command, versions and machine."""
    versions = {"minitext": minitext.__version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        **asdict(config),
        "data_found": data_found,
        "classes": class_names,
        **more,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    }


def changed_settings(before: Mapping, now: Mapping, prefix: str = "") -> Iterator[str]:
    """Yield each setting that affects the result and has changed: `loop.lr: 0.001 → 0.01`."""
    for key in sorted(before.keys() | now.keys()):
        name = f"{prefix}{key}"
        old, new = before.get(key), now.get(key)
        if name in NO_EFFECT or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changed_settings(old, new, f"{name}.")
        else:
            yield f"{name}: {old} → {new}"
