"""The commands on an Apple GPU: `python -m pytest -q -m mps tests/gpu`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW_TEXTS = ("--subset", "0.2", "0.2", "--quiet")


@pytest.mark.mps
def test_the_commands_end_with_status_0_on_an_apple_gpu(tmp_path):
    scripts = {
        "static": ("train_static.py",),
        "scratch": ("train_scratch.py", "--device", "mps", "--epochs", "1"),
        "finetune": ("train_finetune.py", "--device", "mps", "--epochs", "1"),
    }
    for name, (script, *options) in scripts.items():
        run(script, *options, *FEW_TEXTS, "--out", tmp_path / name)
    for name in ("static/logistic", "static/mlp", "scratch", "finetune"):
        run("-m", "minitext", "explain", "--device", "mps", tmp_path / name, "Not the worst film of the year.")


def run(*command: object) -> None:
    """Run a Python command in the root of the repository; its status must be 0."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
