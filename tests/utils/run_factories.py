"""Runs in progress, for the tests of their folders."""

import json
from pathlib import Path

from minitext.utils.run_dir import RunDir
from minitext.utils.run_folders import CHECKPOINT_FILE

SETTINGS = {"run": {"seed": 3}, "loop": {"lr": 0.1}, "command": "train.py --out é", "versions": {"minitext": "0.2.0"}}


def start(out: Path, overwrite: bool = False, **settings) -> RunDir:
    """A run with metrics, a checkpoint and scores, ready to be committed."""
    run = RunDir(out, overwrite)
    run.start(SETTINGS | settings)
    run.log.write({"update": 1})
    for name in (CHECKPOINT_FILE, "scores.json"):
        (run.folder / name).write_text("{}")
    return run


def kill(run: RunDir) -> None:
    """What the end of the process does to a run."""
    run.held.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def round_of(folder: Path) -> str:
    return json.loads((folder / "settings.json").read_text())["round"]
