"""Each text gets its own logits, whatever the batch size, the order and the number of processes; scores by hand.

Here the processes are threads that add up values in a list; `training/test_distributed.py` has real ones.
"""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.evaluation.predict import classification_metrics, predict_logits, probabilities
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training.distributed import Distributed

CPU = torch.device("cpu")
LENGTHS = [5, 1, 9, 2, 2, 7, 3, 1, 8, 4, 6]


def numbered(lengths: list[int], pad_id: int | None = None) -> PackCollator:
    """Text i consists of the token i, repeated."""
    ids = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)], dtype=torch.int32)
    offsets = F.pad(torch.tensor(lengths, dtype=torch.int64).cumsum(0), (1, 0))
    return PackCollator(TokenizedTexts(ids, offsets), torch.zeros(len(lengths)).long(), pad_id)


class Echo(nn.Module):
    """The logits of a text: its first token, its length, and a one under dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(1, 3)  # only its size is used
        self.batches: list[Batch] = []

    def forward(self, batch: Batch) -> Tensor:
        self.batches.append(batch)
        assert torch.is_inference_mode_enabled()
        first = batch.ids[batch.cu_seqlens[:-1]].float()
        ones = F.dropout(torch.ones(len(first)), 0.9, self.training)
        return torch.stack([first, batch.cu_seqlens.diff().float(), ones], dim=1)


def expected(lengths: list[int]) -> list[list[float]]:
    return [[index, length, 1] for index, length in enumerate(lengths)]


@dataclass(frozen=True)
class Threads(Distributed):
    """Several processes, simulated by threads."""

    all_here: Barrier = dataclasses.field(default_factory=lambda: Barrier(1))
    values: list = dataclasses.field(default_factory=list)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        self.values.append(value.clone())
        self.all_here.wait()
        value.copy_(torch.stack(self.values).sum(dim=0))
        self.all_here.wait()
        return value


class WindowEcho(Echo):
    """The logits of a text are those of its first window."""

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch)[batch.windows.cumsum(0) - batch.windows]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_texts_of_several_windows_get_their_own_logits_from_batches_of_bounded_size(batch_size: int):
    data, model = numbered(LENGTHS), WindowEcho()
    data = dataclasses.replace(data, data=data.data._replace(window=4))
    found = predict_logits(model, data, batch_size, CPU, torch.float32)
    assert found.tolist() == [[index, min(length, 4), 1] for index, length in enumerate(LENGTHS)]
    assert all(len(batch.indices) == 1 or len(batch.ids) <= 4 * batch_size for batch in model.batches)


def predict_in_threads(processes: int, data: PackCollator, batch_size: int) -> tuple[list[Tensor], list[int]]:
    """The logits that each process returns, and the number of texts that it computed."""
    barrier, values, models = Barrier(processes, timeout=20), [], [Echo() for _ in range(processes)]

    def predict(rank: int) -> Tensor:
        threads = Threads(rank, processes, barrier, values)
        return predict_logits(models[rank], data, batch_size, CPU, torch.float32, distributed=threads)

    with ThreadPoolExecutor(processes) as pool:
        logits = list(pool.map(predict, range(processes)))
    return logits, [sum(len(batch.lengths) for batch in model.batches) for model in models]


# Logits


@pytest.mark.parametrize("batch_size", [1, 2, 4, 11, 64])
def test_logits_are_in_the_order_of_the_texts(batch_size: int):
    assert predict_logits(Echo(), numbered(LENGTHS), batch_size, CPU, torch.float32).tolist() == expected(LENGTHS)


@pytest.mark.parametrize("batch_size", [1, 3, 11, 64])
def test_the_batch_size_does_not_change_the_logits(batch_size: int):
    torch.manual_seed(0)
    data, model = numbered(LENGTHS), EmbeddingBagClassifier(11, 2, NetworkConfig(8, 8, ngrams=1)).eval()
    alone = torch.cat([model(data([index])) for index in range(11)]).detach()
    assert (predict_logits(model, data, batch_size, CPU, torch.float32) - alone).abs().max() < 1e-6  # float32


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize(("count", "batch_size"), [(11, 1), (11, 2), (11, 4), (11, 64), (1, 4), (2, 1)])
def test_several_processes_compute_each_text_once_and_return_all_logits(processes: int, count: int, batch_size: int):
    logits, computed = predict_in_threads(processes, numbered(LENGTHS[:count]), batch_size)
    assert [part.tolist() for part in logits] == [expected(LENGTHS[:count])] * processes
    assert sum(computed) == count
    batches = math.ceil(count / batch_size)
    assert sum(number > 0 for number in computed) == min(processes, batches)  # the others have no batch


@pytest.mark.parametrize("processes", [1, 2])
def test_no_texts_have_no_logits(processes: int):
    logits, computed = predict_in_threads(processes, numbered([]), 4)
    assert [part.shape for part in logits] == [(0, 3)] * processes
    assert computed == [0] * processes


def test_an_empty_text_has_logits():
    found = predict_logits(Echo(), numbered([2, 0, 1], pad_id=99), 2, CPU, torch.float32)
    assert found.tolist() == [[0, 2, 1], [99, 1, 1], [2, 1, 1]]  # one padding token


def test_the_longest_texts_come_first():
    model = Echo()
    predict_logits(model, numbered(LENGTHS), 3, CPU, torch.float32)
    longest = [max(batch.lengths) for batch in model.batches]
    assert longest == sorted(longest, reverse=True)
    assert longest[0] == 9


def test_dropout_is_turned_off():
    model = Echo().train()
    assert predict_logits(model, numbered(LENGTHS), 4, CPU, torch.float32)[:, 2].tolist() == [1] * 11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_float32_on_the_cpu_without_a_gradient(dtype: torch.dtype):
    class HalfPrecision(Echo):
        def forward(self, batch: Batch) -> Tensor:
            return self.output(super().forward(batch)[:, :1])

    torch.manual_seed(0)
    model = HalfPrecision()
    found = predict_logits(model, numbered(LENGTHS), 4, CPU, dtype)
    assert (found.dtype, found.device, found.requires_grad) == (torch.float32, CPU, False)
    difference = (found - predict_logits(model, numbered(LENGTHS), 4, CPU, torch.float32)).abs().max()
    assert (0 < difference < 0.1) if dtype == torch.bfloat16 else difference == 0  # bfloat16 has 8 bits


# Probabilities

# float32 logits between 1e-6 and 1e4 in size, or zero
LOGIT = st.floats(-1e4, 1e4, width=32).filter(lambda value: value == 0 or abs(value) >= 1e-6)


@settings(max_examples=300, deadline=None)
@given(
    logits=st.integers(2, 5).flatmap(lambda size: st.lists(LOGIT, min_size=size, max_size=size)),
    neighbor=st.booleans(),
    temperature=st.floats(0.05, 20),
)
def test_the_most_probable_class_is_the_argmax_of_the_logits(logits: list[float], neighbor: bool, temperature: float):
    """Also for logits that differ by one float32 rounding, at every temperature of a calibration."""
    values = torch.tensor([logits])
    if neighbor and values.max().abs() >= 1e-6:  # the last class beats the best one by the smallest possible margin
        values[0, -1] = torch.nextafter(values.max(), torch.tensor(math.inf))
    for scaled in (values, (values.double() / temperature).float(), values.double() / temperature):
        found = probabilities(scaled)
        assert found.dtype == np.float64
        assert found.sum() == pytest.approx(1)
        assert found.argmax() == scaled.argmax()
    assert found.argmax() == values.argmax()


def test_probabilities_that_are_equal_in_float32_differ():
    logits = torch.tensor([[0.1, 0.1]])
    logits[0, 1] = torch.nextafter(logits[0, 1], torch.tensor(math.inf))
    assert logits.softmax(dim=1).argmax() == 0  # a tie
    assert probabilities(logits).argmax() == logits.argmax() == 1


# Scores


def test_scores_by_hand():
    logits = torch.tensor([[0.0, 0], [0, 1], [0, 1]])  # class 0, 1, 1
    scores = classification_metrics(logits, torch.tensor([0, 1, 0]))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx(2 / 3)  # both classes: precision and recall 1 and 1/2, in either order
    e = math.e
    assert scores["loss"] == pytest.approx((math.log(2) + math.log(1 + 1 / e) + math.log(1 + e)) / 3)


def test_a_small_loss_is_not_rounded_to_zero():
    scores = classification_metrics(torch.tensor([[40.0, 0.0]]), torch.tensor([0]))
    assert scores["loss"] == pytest.approx(math.exp(-40), rel=1e-6)
    assert scores["accuracy"] == 1


def test_scores_are_python_floats():
    scores = classification_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert {type(value) for value in scores.values()} == {float}
