"""Tests on a real card, without network or data: `python -m pytest -q -m gpu tests/gpu`, under three minutes."""

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The card. Everything that a test computes on is created through this fixture."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card")
    return torch.device("cuda", 0)
