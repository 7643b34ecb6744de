"""Shared fixtures: real data, and a cache of its own for every test. `-m gpu`, `gpus` or `mps` lets tests see a GPU."""

import os
import sys
from pathlib import Path

import pytest
from gpu_marks import selects_gpu_tests

# All other tests expect the numbers of the CPU. The variable also reaches the scripts that tests start; it has to be
# set before anything asks torch for its devices.
GPU_IS_HIDDEN = not selects_gpu_tests(sys.argv)
if GPU_IS_HIDDEN:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

if GPU_IS_HIDDEN:
    torch.backends.mps.is_available = lambda: False

# One thread a process, the scripts that tests start included: on busy cores, threads that share small operations wait
# for each other far longer than they work.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need more GPUs than there are."""
    cards, apple = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    for item in items:
        for mark, needed, kind, count in (
            ("gpu", 1, "CUDA", cards),
            ("gpus", 2, "CUDA", cards),
            ("mps", 1, "MPS", apple),
        ):
            if item.get_closest_marker(mark) and count < needed:
                found = f"the GPU is hidden without -m {mark}" if GPU_IS_HIDDEN else f"this machine has {count}"
                item.add_marker(pytest.mark.skip(reason=f"needs {needed} {kind} device(s); {found}"))


def real_file(name: str) -> Path:
    """A file of the real data; the test is skipped on a machine without it."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"needs the real data: {path} is not on this machine")
    return path


@pytest.fixture(scope="session")
def imdb() -> Path:
    return real_file("aclImdb_v1.tar.gz")


@pytest.fixture(scope="session")
def real_vectors() -> Path:
    return real_file("glove.6B.100d.top2700.txt")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """Every test gets an empty cache folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MINITEXT_CACHE", str(folder))
    return folder
