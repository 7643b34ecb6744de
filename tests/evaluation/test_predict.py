"""Proves that each text gets its own logits whatever the batch, the order and the number of processes that share the
work, and that scores are what is counted by hand.

Here the processes of a team are threads that add up in a list; `test_team.py` has real ones.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.training.distributed import SINGLE, Distributed

CPU = torch.device("cpu")


def numbered(lengths: list[int]) -> PackCollator:
    """Text i is the number i, as often as its length says."""
    ids = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)], dtype=torch.int32)
    return PackCollator(
        TokenizedTexts(ids, F.pad(torch.tensor(lengths).cumsum(0), (1, 0))), torch.zeros(len(lengths)).long(), 99
    )


class Echo(nn.Module):
    """The logits of a text: its first token, its length, and a class that is dropped out in training."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.sizes.append(len(ids))
        assert torch.is_inference_mode_enabled()
        ones = F.dropout(torch.ones(len(ids)), 0.9, self.training)
        return torch.stack([ids[:, 0].float(), mask.sum(dim=1).float(), ones], dim=1)


@dataclass(frozen=True)
class Threads(Distributed):
    """A team in one process."""

    barrier: Barrier = dataclasses.field(default_factory=lambda: Barrier(1))
    values: list = dataclasses.field(default_factory=list)

    def total(self, value: Tensor) -> Tensor:
        self.values.append(value.clone())
        self.barrier.wait()
        value.copy_(torch.stack(self.values).sum(dim=0))
        self.barrier.wait()
        if self.rank == 0:
            self.values.clear()
        self.barrier.wait()
        return value


def in_threads(size: int, data: PackCollator, batch: int) -> tuple[list[Tensor], list[int]]:
    """What each of a team gets, and the number of texts that it computed."""
    barrier, values, models = Barrier(size, timeout=20), [], [Echo() for _ in range(size)]

    def member(rank: int) -> Tensor:
        return predict_logits(models[rank], data, batch, CPU, torch.float32, team=Threads(rank, size, barrier, values))

    with ThreadPoolExecutor(size) as pool:
        logits = list(pool.map(member, range(size)))
    return logits, [sum(model.sizes) for model in models]


LENGTHS = [5, 1, 9, 2, 2, 7, 3, 1, 8, 4, 6]


def expected(lengths: list[int]) -> list[list[float]]:
    return [[row, length, 1] for row, length in enumerate(lengths)]


@pytest.mark.parametrize("batch", [1, 2, 4, 11, 64])
def test_logits_stand_in_the_texts_own_order(batch: int):
    assert predict_logits(Echo(), numbered(LENGTHS), batch, CPU, torch.float32).tolist() == expected(LENGTHS)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(("count", "batch"), [(11, 1), (11, 2), (11, 4), (11, 64), (1, 4), (2, 1)])
def test_a_team_computes_each_text_once_and_all_get_all_logits(size: int, count: int, batch: int):
    logits, computed = in_threads(size, numbered(LENGTHS[:count]), batch)
    assert [part.tolist() for part in logits] == [expected(LENGTHS[:count])] * size
    assert sum(computed) == count
    batches = math.ceil(count / batch)
    assert sum(number > 0 for number in computed) == min(size, batches)  # the others' shares were empty


def test_a_text_without_tokens_has_logits_too():
    found = predict_logits(Echo(), numbered([2, 0, 1]), 2, CPU, torch.float32)
    assert found[:, 1].tolist() == [2, 0, 1]
    assert found.isfinite().all()


def test_the_longest_texts_come_first_so_that_too_little_memory_shows_at_once():
    seen = []

    class Widths(Echo):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            seen.append(ids.shape[1])
            return super().forward(ids, mask)

    predict_logits(Widths(), numbered(LENGTHS), 3, CPU, torch.float32, team=SINGLE)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 9


def test_logits_are_float32_on_the_cpu_and_need_no_gradient_in_half_precision_too():
    model = nn.Linear(1, 2)
    model.forward = lambda ids, mask: F.linear(ids[:, :1].float(), model.weight, model.bias)
    found = predict_logits(model, numbered(LENGTHS), 4, CPU, torch.bfloat16)
    assert (found.dtype, found.device, found.requires_grad) == (torch.float32, CPU, False)
    whole = predict_logits(model, numbered(LENGTHS), 4, CPU, torch.float32)
    assert 0 < (found - whole).abs().max() < 0.1  # bfloat16 has 8 bits, of values up to 10


def test_a_loss_that_float32_would_round_away_is_there():
    scores = classification_metrics(torch.tensor([[40.0, 0.0]]), torch.tensor([0]))
    assert scores["loss"] == pytest.approx(math.exp(-40), rel=1e-6)
    assert scores["accuracy"] == 1


def test_scores_are_plain_numbers_that_json_knows():
    assert {
        type(value) for value in classification_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).values()
    } == {float}
