"""Only `pytest -m gpu`, `gpus` or `mps` sees a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_marks import selects_gpu_tests

GPU_TEST = "import pytest, torch\n@pytest.mark.{mark}\ndef test_card():\n    raise SystemExit('ran')\n"


@pytest.mark.parametrize("marks", ["gpu", "gpus", "mps", "gpu or gpus", "gpu and not slow"])
def test_the_gpu_is_seen_where_only_tests_that_need_it_are_selected(marks: str):
    assert selects_gpu_tests(["pytest", "-q", "-m", marks, "tests"])


@pytest.mark.parametrize("arguments", [[], ["-m", "not gpu"], ["-m", "slow"], ["-m", "mps or slow"], ["gpu"]])
def test_the_gpu_is_hidden_from_all_other_runs(arguments: list[str]):
    assert not selects_gpu_tests(["pytest", "-q", *arguments])


def test_this_run_and_the_processes_that_it_starts_see_no_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available() and not torch.backends.mps.is_available()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mark", "options", "reason"),
    [
        ("gpu", ["-m", "gpu"], "needs 1 CUDA device(s); this machine has 0"),
        ("gpus", [], "needs 2 CUDA device(s); the GPU is hidden without -m gpus"),
        ("mps", [], "needs 1 MPS device(s); the GPU is hidden without -m mps"),
    ],
)
def test_a_test_that_needs_a_gpu_is_skipped_with_the_reason(tmp_path, mark: str, options: list[str], reason: str):
    (tmp_path / "test_card.py").write_text(GPU_TEST.format(mark=mark))
    for name in ("conftest.py", "gpu_marks.py"):
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    (tmp_path / "setup.cfg").write_text(f"[tool:pytest]\nmarkers =\n    {mark}: needs a card\n")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # also where this machine has a card
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert reason in found.stdout
