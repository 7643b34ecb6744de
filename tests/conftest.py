"""Shared fixtures: real data, and a cache of its own for every test."""

import os
from pathlib import Path

import pytest
import torch

# One thread a process, the scripts that tests start included: on busy cores, threads that share small operations wait
# for each other far longer than they work.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


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
