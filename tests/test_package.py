"""Tests of the package: the public API, what importing it costs, and the Python snippet of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from saved_models import save_scratch

import minitext

ROOT = Path(__file__).parents[1]


def test_every_public_name_exists_and_is_documented():
    assert all(getattr(minitext, name).__doc__ for name in minitext.__all__)


def test_the_package_is_typed():
    assert (Path(minitext.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("module", ["minitext", "train_static", "train_scratch", "train_finetune"])
def test_importing_does_not_import_matplotlib_or_huggingface_hub(module: str):
    code = f"import sys, {module}; print([name for name in ('matplotlib', 'huggingface_hub') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no expandable segments")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True None"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, "backend:native None"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "None backend:native"),
    ],
)
def test_gpu_memory_grows_in_segments_unless_the_user_configured_it(given: dict[str, str], expected: str):
    code = "import minitext, os; print(*map(os.environ.get, ('PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF')))"
    environment = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_the_python_snippet_of_the_readme_runs(tmp_path: Path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    save_scratch(tmp_path / "run")
    command = [sys.executable, "-c", snippet.replace("runs/finetune", str(tmp_path / "run"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names, probabilities, words = done.stdout.strip().split("\n", 2)
    assert names.startswith("(") and probabilities.startswith("[[") and "WordAttribution" in words
