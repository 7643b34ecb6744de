"""Tests of the package: the public API, what importing it costs, and the Python snippet of the README."""

import ast
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


@pytest.mark.slow
@pytest.mark.parametrize("module", ["minitext", "train_static", "train_scratch", "train_finetune"])
def test_importing_does_not_import_matplotlib_or_huggingface_hub(module: str):
    code = f"import sys, {module}; print([name for name in ('matplotlib', 'huggingface_hub') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
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


# Other systems

SOURCES = [*(ROOT / "minitext").rglob("*.py"), *ROOT.glob("train_*.py")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_opened_with_their_encoding(source: Path):
    """The default is that of the system, on Windows not UTF-8; and a text file that is written ends its lines alike."""
    for call in (
        node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        keywords = {keyword.arg for keyword in call.keywords}
        if name == "open" and isinstance(call.func, ast.Name):
            mode = call.args[1].value if len(call.args) > 1 else "r"
            needed = set() if "b" in mode else {"encoding"} if mode == "r" else {"encoding", "newline"}
        else:
            needed = {"read_text": {"encoding"}, "write_text": {"encoding", "newline"}}.get(name, set())
        if name in ("read_text", "write_text") and isinstance(call.func, ast.Name):
            continue  # functions of minitext
        assert needed <= keywords, f"{source.name}, line {call.lineno}"


@pytest.mark.parametrize("name", ["os.fork", "/dev/shm", "multiprocessing", "SIGKILL"])
def test_nothing_is_used_that_other_systems_lack(name: str):
    assert [source.name for source in SOURCES if name in source.read_text(encoding="utf-8")] == []
