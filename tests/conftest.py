"""Shared fixtures and factories: real data, packed batches, and a cache of its own for every test."""

import os
from pathlib import Path

import pytest
import torch

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts

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


def tokenized(*texts: list[int]) -> TokenizedTexts:
    """Token ids as a tokenizer gives them."""
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return TokenizedTexts(torch.tensor([token for text in texts for token in text], dtype=torch.int32), offsets)


def pack(*texts: list[int], pad_id: int | None = None, masked: list[int] | None = None) -> Batch:
    """A packed batch of texts given as token ids. `masked`: flat indices of masked tokens."""
    collator = PackCollator(tokenized(*texts), torch.zeros(len(texts), dtype=torch.int64), pad_id)
    batch = collator(range(len(texts)))
    return batch if masked is None else batch._replace(masked=torch.tensor(masked, dtype=torch.int64))
