"""A card that is full: an update goes on with fewer texts at once, and what cannot go on ends with one line."""

import gc
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gpu_factories import assert_same_change, batch_of, classifier, texts, update, weights_of
from saved_models import save_finetuned
from torch import Tensor

from minitext.evaluation.predictor import Predictor
from minitext.training.distributed import SINGLE
from minitext.training.micro_batches import MicroBatches
from minitext.training.optim import build_optimizers
from minitext.utils.errors import UserError

pytestmark = pytest.mark.gpu
LENGTHS = [250 + number % 7 for number in range(64)]
UNLIMITED = 2**60  # bytes
LARGE = {"hidden_size": 256, "num_heads": 4, "intermediate_size": 1024, "num_layers": 4}


@pytest.fixture
def limit(device) -> Iterator[Callable[[int], None]]:
    """Call it with the bytes that torch may reserve on the card; the limit ends with the test."""
    total = torch.cuda.get_device_properties(device).total_memory
    yield lambda size: torch.cuda.set_per_process_memory_fraction(min(size / total, 1.0), device)
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    torch.cuda.empty_cache()


def release() -> int:
    """Give unused memory back to the card; returns the bytes that tensors occupy."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


class Trained(NamedTuple):
    """What one update left."""

    weights: dict[str, Tensor]
    max_texts: int  # per forward pass, at the end
    reserved: int  # most bytes that torch reserved
    remaining: int  # bytes that are occupied after it


def train(device: torch.device, max_texts: int, log: Callable[[str], None] = str) -> Trained:
    """One update of a new model from 64 texts."""
    release()
    torch.cuda.reset_peak_memory_stats()
    model = classifier(device, **LARGE)
    optimizers = build_optimizers(model, "adamw", 1e-3, 0.01)
    batches = MicroBatches(texts(LENGTHS), [np.arange(64)], [0], max_texts, device, SINGLE)
    for parts in batches:
        batches.run(lambda micro_batches: update(model, micro_batches, optimizers), parts, log)
    del parts
    return Trained(weights_of(model), batches.max_texts, torch.cuda.max_memory_reserved(), release())


def test_a_batch_that_does_not_fit_is_halved_with_the_same_update_and_nothing_left_behind(device, limit):
    train(device, 8)  # creates what remains on the card, such as workspaces
    eight, whole, lines = train(device, 8), train(device, 64), []
    limit((eight.reserved + whole.reserved) // 2)
    found = train(device, 64, lines.append)
    assert 8 <= found.max_texts < 64
    assert lines[0] == "out of memory: continuing with --micro-batch-size 32 (same update)"
    assert found.remaining <= eight.remaining + 2**20
    assert_same_change(found.weights, whole.weights, weights_of(classifier(torch.device("cpu"), **LARGE)))


def test_moments_that_do_not_fit_are_one_line(device, limit):
    model = classifier(device, **LARGE)
    limit(release() + sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
    with pytest.raises(UserError, match="out of memory: the optimizer needs twice as much"):
        build_optimizers(model, "adamw", 1e-3, 0.01)


def test_memory_that_ends_in_the_step_of_the_optimizer_does_not_end_the_run(device, limit, monkeypatch):
    expected, step, attempts = train(device, 64), torch.optim.AdamW.step, []

    def step_on_a_full_card(optimizer: torch.optim.Optimizer) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            limit(release())
            try:
                torch.zeros(2**28, device=device)
            finally:
                limit(UNLIMITED)
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step_on_a_full_card)
    found = train(device, 64)
    assert len(attempts) == 2
    assert_same_change(found.weights, expected.weights, weights_of(classifier(torch.device("cpu"), **LARGE)))


def test_a_model_that_does_not_fit_gets_one_line_that_does_not_speak_of_damage(device, limit, tmp_path):
    save_finetuned(tmp_path / "run")
    limit(release())
    with pytest.raises(UserError, match="too large for the memory of cuda.*--device cpu") as error:
        Predictor.load(tmp_path / "run", "cuda")
    assert "corrupt" not in str(error.value) and "\n" not in str(error.value)


def test_batches_of_changing_lengths_do_not_fragment_the_memory(device):
    """200 updates reserve at most 1.2 times as much as the first 20, among which are the longest texts."""
    generator = torch.Generator().manual_seed(0)
    model = classifier(device, **LARGE)
    optimizers = build_optimizers(model, "adamw", 1e-4, 0.01)
    longest = torch.randint(16, 513, (200,), generator=generator).tolist()
    reserved = []
    release()
    torch.cuda.reset_peak_memory_stats()
    for number, length in enumerate(longest):
        lengths = [512] * 32 if number == 3 else torch.randint(1, length + 1, (32,), generator=generator).tolist()
        update(model, [batch_of(lengths, device)], optimizers, dtype=torch.bfloat16)
        reserved.append(torch.cuda.max_memory_reserved())
    assert reserved[-1] <= 1.2 * reserved[19]
