"""Tests of the package: the public API, what importing it costs, and the Python snippet of the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from saved_models import save_scratch

import minitext

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported():
    namespace: dict = {}
    exec("from minitext import *", namespace)
    assert set(minitext.__all__) <= namespace.keys()
    assert all(namespace[name].__doc__ for name in minitext.__all__)


def test_the_package_is_typed():
    assert (Path(minitext.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("module", ["minitext", "train_static", "train_scratch", "train_finetune"])
def test_importing_does_not_import_matplotlib_or_huggingface_hub(module: str):
    code = f"import sys, {module}; print([name for name in ('matplotlib', 'huggingface_hub') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_python_snippet_of_the_readme_runs(tmp_path: Path, capsys: pytest.CaptureFixture):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    save_scratch(tmp_path / "run")
    exec(snippet.replace("runs/finetune", str(tmp_path / "run")), {})
    names, probabilities, words = capsys.readouterr().out.strip().split("\n", 2)
    assert names.startswith("(") and probabilities.startswith("[[") and "WordAttribution" in words
