"""Micro-batches cover each update once, and an update is tried again in halves when memory runs out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from training_factories import (
    CPU,
    NO_CLIPPING,
    NO_SCALING,
    batch_of,
    network,
    random_texts,
    weights_of,
)

from minitext.data.batching import Batch
from minitext.training import step as step_module
from minitext.training.distributed import SINGLE, Distributed
from minitext.training.micro_batches import MicroBatches, shard_indices
from minitext.training.optim import build_optimizers
from minitext.training.sparse_adam import SparseRowAdam
from minitext.training.step import IGNORE_INDEX, StepConfig, StepResult, train_step
from minitext.utils.errors import UserError

DATA = random_texts(12)
STEPS = [np.array([3, 1, 4, 11, 5]), np.array([9, 2]), np.array([6])]


def micro_batches(max_texts: int, distributed: Distributed = SINGLE) -> MicroBatches:
    return MicroBatches(DATA, STEPS, [0, 0, 1], max_texts, CPU, distributed)


def step_of(model: nn.Module, scaler: GradScaler = NO_SCALING, lr: float = 0.0):
    """An update of a model, as a function of its micro-batches."""
    optimizers = build_optimizers(model, "adam", lr, 0.0)
    config = StepConfig(torch.float32, NO_CLIPPING, torch.ones(2))

    def step(parts: list[Batch]) -> StepResult:
        return train_step(model, parts, optimizers, scaler, config)

    return step


class LimitedMemory(nn.Module):
    """A network that runs out of memory in training with more than `max_texts` texts; it records the batch sizes."""

    def __init__(self, max_texts: int, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.network, self.max_texts, self.sizes = network().double(), max_texts, []

    def forward(self, batch: Batch) -> Tensor:
        self.sizes.append(len(batch.lengths))
        if len(batch.lengths) > self.max_texts:
            raise self.error
        return self.network(batch)


def test_each_step_is_split_into_micro_batches_with_a_short_last_one():
    found = [[batch.indices.tolist() for batch in step] for step in micro_batches(2)]
    assert found == [[[3, 1], [4, 11], [5]], [[9, 2]], [[6]]]


def test_a_micro_batch_holds_the_texts_of_its_indices():
    for step in micro_batches(2):
        for batch in step:
            expected = batch_of(DATA, batch.indices)
            for found, part in zip(batch[:3], expected[:3], strict=True):
                assert torch.equal(found, part)
            assert torch.equal(batch.labels, expected.labels)


def test_the_collator_gets_the_epoch_of_each_step():
    calls = []

    class Recorder:
        data = DATA.data

        def __call__(self, indices: np.ndarray, epoch: int = 0) -> Batch:
            calls.append((indices.tolist(), epoch))
            return DATA(indices)

    list(MicroBatches(Recorder(), STEPS, [0, 0, 1], 3, CPU, SINGLE))
    assert calls == [([3, 1, 4], 0), ([11, 5], 0), ([9, 2], 0), ([6], 1)]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_shards_of_all_processes_hold_each_text_once(world_size: int):
    ranks = [list(micro_batches(2, Distributed(rank, world_size))) for rank in range(world_size)]
    for number, indices in enumerate(STEPS):
        counted = [
            index
            for steps in ranks
            for batch in steps[number]
            for index, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
            if label != IGNORE_INDEX
        ]
        assert sorted(counted) == sorted(indices.tolist())
        assert all(steps[number] for steps in ranks)  # no process is without a batch


def test_a_process_without_a_text_gets_the_first_one_with_an_ignored_label():
    batch = list(micro_batches(2, Distributed(2, 3)))[1][0]
    assert (batch.indices.tolist(), batch.labels.tolist()) == ([9], [IGNORE_INDEX])
    indices = np.array([7, 5])
    assert [shard_indices(indices, Distributed(rank, 4)).tolist() for rank in range(4)] == [[7], [5], [7], [7]]


@pytest.mark.parametrize("max_texts", [1, 2, 5, 9])
def test_micro_batches_keep_the_order_of_the_texts(max_texts: int):
    parts = next(iter(MicroBatches(DATA, [np.arange(7)], [0], max_texts, CPU, SINGLE)))
    assert torch.cat([part.indices for part in parts]).tolist() == list(range(7))
    assert max(len(part.lengths) for part in parts) <= max_texts and len(parts) == -(-7 // max_texts)


WINDOWED = replace(DATA, data=DATA.data._replace(window=2))  # texts of 1 to 6 tokens: of up to three windows


@pytest.mark.parametrize("max_texts", [1, 2, 5, 12])
def test_a_micro_batch_has_no_more_tokens_than_as_many_texts_of_one_window(max_texts: int):
    lengths = DATA.data.lengths()
    (parts,) = MicroBatches(WINDOWED, [np.arange(12)], [0], max_texts, CPU, SINGLE)
    assert torch.cat([part.indices for part in parts]).tolist() == list(range(12))
    for part in parts:
        assert len(part.indices) <= max_texts
        assert len(part.indices) == 1 or len(part.ids) <= 2 * max_texts
        assert part.windows.tolist() == (-(-lengths[part.indices] // 2)).tolist()


def test_texts_of_several_windows_are_split_between_texts_when_memory_runs_out():
    text_counts, token_counts = [], []

    def step(parts: list[Batch]) -> None:
        text_counts.append([len(part.indices) for part in parts])
        token_counts[:] = [len(part.ids) for part in parts]
        if max(token_counts) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")

    batches = MicroBatches(WINDOWED, [np.arange(12)], [0], 12, CPU, SINGLE)
    batches.run(step, [batch_of(WINDOWED)], lambda line: None)
    assert text_counts == [[12], [6, 6], [3] * 4, [1] * 12]
    assert token_counts == DATA.data.lengths().tolist()


def test_windows_of_one_text_too_large_for_the_memory_are_refused_with_the_remedy():
    batches = MicroBatches(WINDOWED, STEPS, [0, 0, 1], 4, CPU, SINGLE)
    with pytest.raises(UserError, match="with 1 texts per forward pass; pass --gradient-checkpointing or drop --wind"):
        batches.run(step_of(LimitedMemory(0)), [batch_of(WINDOWED, range(4))], lambda line: None)


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits():
    lines: list[str] = []
    model, batches, given = LimitedMemory(3), MicroBatches(DATA, [np.arange(10)] * 2, [0, 1], 10, CPU, SINGLE), []
    for parts in batches:
        given.append([len(batch.lengths) for batch in parts])
        batches.run(step_of(model), parts, lines.append)
    assert given == [[10], [2] * 5]  # to split a batch of a GPU, the host would have to wait
    assert model.sizes == [10, 5, *[2] * 5 * 2]  # found once, and kept for the next step
    assert lines == [f"out of memory: continuing with --micro-batch-size {size} (same update)" for size in (5, 2)]


@pytest.mark.parametrize("message", ["MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory"])
def test_the_memory_of_other_devices_is_known_by_its_message(message: str):
    model, batches = LimitedMemory(5, RuntimeError(message)), micro_batches(8)
    batches.run(step_of(model), [batch_of(DATA, range(8))], lambda line: None)
    assert model.sizes == [8, 4, 4]


def test_the_gradients_of_a_failed_attempt_are_discarded():
    model = LimitedMemory(4)
    parts = [batch_of(DATA, range(3)), batch_of(DATA, range(3, 10))]  # the second one fails
    batches = micro_batches(10)
    batches.run(step_of(model), parts, lambda line: None)
    assert (batches.max_texts, model.sizes) == (3, [3, 7, 3, 3, 3, 1])
    whole = network().double()
    step_of(whole)([batch_of(DATA, range(10))])
    for parameter, expected in zip(model.network.parameters(), whole.parameters(), strict=True):
        assert (parameter.grad.to_dense() - expected.grad.to_dense()).abs().max() < 1e-7  # a loss in float32


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("where", ["first unscale_", "second unscale_", "clip_grad_norm", "optimizer"])
def test_memory_that_runs_out_after_the_backward_pass_is_retried(monkeypatch, scaled: bool, where: str):
    """Clipping and unscaling a sparse gradient sums its rows, and the step of its optimizer needs copies of rows."""
    model, plain, calls, failures = network(), network(), [], []
    scaler = GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    step = step_of(model, scaler, lr=0.1)

    def fail_once(function, call: int = 1):
        def wrapped(*arguments):
            calls.append(1)
            if len(calls) == call:
                failures.append(where)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(*arguments)

        return wrapped

    if where == "optimizer":
        monkeypatch.setattr(SparseRowAdam, "step", fail_once(SparseRowAdam.step))
    elif where.endswith("unscale_"):
        monkeypatch.setattr(scaler, "unscale_", fail_once(scaler.unscale_, 2 if where.startswith("second") else 1))
    else:
        monkeypatch.setattr(step_module, "clip_grad_norm", fail_once(step_module.clip_grad_norm))
    batches = micro_batches(8)
    result = batches.run(step, [batch_of(DATA, range(8))], lambda line: None)
    assert (failures, result.skipped, batches.max_texts) == ([where], False, 4)
    assert not scaled or scaler.get_scale() == 1024.0 and scaler.state_dict()["_growth_tracker"] == 1  # one update
    step_of(plain, lr=0.1)([batch_of(DATA, range(8))])
    for name, tensor in weights_of(plain).items():
        assert (model.state_dict()[name] - tensor).abs().max() < 1e-5, name  # float32 sums in another order


def test_one_text_too_large_for_the_memory_is_refused():
    with pytest.raises(UserError, match="with 1 texts per forward pass; lower --micro-batch-size or --max-length"):
        micro_batches(4).run(step_of(LimitedMemory(0)), [batch_of(DATA, range(4))], lambda line: None)


def test_with_several_processes_running_out_of_memory_ends_the_run():
    lines: list[str] = []
    with pytest.raises(UserError, match="with 4 texts per forward pass; lower --micro-batch-size"):
        micro_batches(8, Distributed(0, 2)).run(step_of(LimitedMemory(2)), [batch_of(DATA, range(4))], lines.append)
    assert not lines


def test_other_errors_are_not_retried():
    calls = []

    def step(parts: list[Batch]) -> StepResult:
        calls.append(len(parts))
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        micro_batches(8).run(step, [batch_of(DATA, range(4))], lambda line: None)
    assert calls == [1]
