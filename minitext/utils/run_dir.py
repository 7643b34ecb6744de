"""Run directory: options, settings, notes, and the atomic commit of a finished run.

Inputs: the settings of a run. Outputs: `<out>/`, complete or absent: `<out>.partial/` is renamed at the end.
"""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import minitext
from minitext.utils.config import MAX_INTEGER, option, require
from minitext.utils.errors import UserError
from minitext.utils.io import check_place, lock_output, read_json, remove_temporaries, write_json
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_folders import (
    REPLACED,
    UNFINISHED,
    delete_marked,
    is_complete,
    is_marked,
    old_of,
    partial_of,
    refuse_links,
    rename_finished,
    repair,
)
from minitext.utils.terminal import printable

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
        check_place("--out", Path(self.out))


@dataclass(frozen=True)
class RunConfig(OutputConfig):
    """run"""

    num_seeds: int = option(1, "train with N consecutive seeds and report mean and standard deviation")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: value >= 1, "at least 1", "num_seeds")
        require(self, lambda value: value <= MAX_INTEGER - self.seed, "less: the last seed is too large", "num_seeds")

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
    """Print and flush, unless `quiet`. Output that nobody reads any more, or a full disk below it, ends no training."""
    if not quiet:
        with suppress(OSError):
            print(printable(message, "\n\t"), flush=True)


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

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print that a phase begins and, at its end, the seconds that it took; also where no progress bar is shown."""
        self.print(f"{name} …")
        start = time.perf_counter()
        yield
        self.print(f"{name}: {time.perf_counter() - start:.1f} s")


class RunDir:
    """A run in progress, written to `folder` until `commit`; `resumes`: whether `start` continues an unfinished run."""

    def __init__(self, out: str | Path, overwrite: bool = False, resume: bool = False, final_file: str = "scores.json"):
        """Raises UserError if `out` is a finished run (unless `overwrite`), or something else; creates nothing."""
        self.out, self.overwrite, self.final_file = Path(out), overwrite, final_file
        check_place("--out", self.out)
        self.folder, self.old = partial_of(self.out), old_of(self.out)
        self.log = MetricsLog(self.folder / METRICS_FILE)
        self.held = ExitStack()  # the lock, from `start` to `commit` or the end of the process
        repair(self.out, final_file)
        self.resumes = resume and (self.folder / UNFINISHED).exists() and (self.folder / "settings.json").exists()
        if self.resumes:  # `overwrite` need not be given again
            before = read_json(self.folder / "settings.json").get("run")
            self.overwrite |= isinstance(before, dict) and before.get("overwrite") is True
        self.check()

    def check(self) -> None:
        """Raises UserError, naming the folder, if the run would have to delete or to change what is not minitext's."""
        refuse_links(self.out)
        if self.folder.exists() and not is_marked(self.folder, UNFINISHED):
            raise UserError(f"{self.folder}: not an unfinished run of minitext; move it away, or pass another --out")
        if not self.out.exists():
            return
        if not is_complete(self.out, self.final_file):
            raise UserError(f"{self.out}: exists and is not a finished run; pass another --out")
        if not self.overwrite:
            raise UserError(f"{self.out}: contains a finished run; pass another --out, or --overwrite to replace it")
        if self.old.exists() and not is_marked(self.old, REPLACED):
            raise UserError(f"{self.old}: not made by --overwrite, which needs the name; move it away")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Create the folder with `settings.json`, or resume one; lock it until `commit` or the end of the process.

        Raises UserError if an unfinished run has other settings, or if another process is writing the run.
        """
        with ExitStack() as held:
            held.enter_context(lock_output(self.out))
            self.check()  # again: another process may have written here since
            if self.resumes:
                before = read_json(self.folder / "settings.json")
                if changed := "; ".join(changed_settings(before, json.loads(json.dumps(settings)))):
                    problem = f"cannot resume: settings changed ({changed})"
                    raise UserError(f"{self.folder}: {problem}; restore them or drop --resume")
                remove_temporaries(self.folder)
            else:
                delete_marked(self.folder, UNFINISHED)  # an unfinished run that is not resumed
                self.folder.mkdir()
                (self.folder / UNFINISHED).touch()
                write_json(self.folder / "settings.json", settings)
            self.held = held.pop_all()

    def commit(self) -> None:
        """Rename the folder to `out`, then delete the run that it replaces and the checkpoint."""
        self.check()
        remove_temporaries(self.folder)
        rename_finished(self.out)
        self.held.close()


def check_finished(folder: Path) -> None:
    """Raises UserError unless `folder` is a finished run; says what to do where a run is unfinished or inside it."""
    if (folder / "scores.json").exists():
        return
    new, old = partial_of(folder), old_of(folder)
    if not folder.exists() and (old / REPLACED).exists():
        remedy = f"repeat its command with --resume, or rename {new} (the new run) or {old} to {folder}"
        raise UserError(f"{folder}: a run was killed while it replaced this one; {remedy}")
    state = "unfinished run" if (folder / "settings.json").exists() else "not a finished run"
    inside = sorted(path.parent.name for path in folder.glob("*/scores.json") if path.parent.suffix != ".partial")
    hint = f"did you mean {folder / inside[0]}?" if inside else "pass the --out of a training script"
    if not folder.exists() and (new / UNFINISHED).exists():
        state, hint = "unfinished run", f"repeat its command{'' if evaluated_run(new) else ' with --resume'}"
    raise UserError(f"{folder}: {state}; {hint}")


def evaluated_run(folder: Path) -> Path | None:
    """The run whose evaluation on new data `folder` holds; None if it holds a run, or nothing."""
    try:
        return Path(os.path.normpath(folder / read_json(folder / "settings.json")["evaluated_run"]["folder"]))
    except (OSError, UserError, KeyError, TypeError):
        return None


def how_to_replace(folder: Path) -> str:
    """The remedy for a corrupt finished folder. An evaluation has neither a model nor a log of its training."""
    if run := evaluated_run(folder):
        return f"evaluate the run again: minitext evaluate {run} --data FILE --out {folder} --overwrite"
    is_trained = any((folder / name).exists() for name in ("config.json", "model.safetensors", METRICS_FILE))
    return "re-train the model" if is_trained else "delete it and run minitext evaluate again"


def already_finished(config: Any, folders: Sequence[Path], final_file: str = "scores.json") -> bool:
    """With --resume: whether `folders` are finished runs with these options, and no unfinished run could be resumed.

    `config` is a dataclass of groups of options, with a `run: RunConfig`. Raises UserError if a finished run has other
    options, which are named, and may not be replaced. The texts themselves are not compared.
    """
    if not getattr(config.run, "resume", False):
        return False
    for folder in folders:
        check_place("--out", folder)
        repair(folder, final_file)
    if any((partial_of(folder) / UNFINISHED).exists() for folder in folders):
        return False
    if not all(is_complete(folder, final_file) for folder in folders):
        return False
    options = json.loads(json.dumps(asdict(config)))
    for folder in folders:
        before = read_json(folder / "settings.json")
        if changed := "; ".join(changed_settings({name: before.get(name) for name in options}, options)):
            if config.run.overwrite:
                return False
            problem = f"contains a finished run with other settings ({changed})"
            raise UserError(f"{folder}: {problem}; restore them, pass another --out, or add --overwrite")
    return True


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
        "machine": f"{platform.machine()}, {usable_cores()} cores, {platform.system()}",
    }


def usable_cores() -> int:
    """The cores that this process may use; a job or a container has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
