"""SparseRowAdam equals torch's optimizers and changes only the rows that a batch touches."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from minitext.training import sparse_adam
from minitext.training.sparse_adam import SparseRowAdam, merge_rows

ROWS = [[0, 2], [2, 3], [3, 0, 3], [2]]  # rows of the gradients in turn: overlapping, repeated, alone; never 1, 4, 5


def sparse_gradient(rows: list[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), 3, generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (6, 3), check_invariants=True)


def embedding() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def step(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, number: int) -> None:
    parameter.grad = sparse_gradient(ROWS[number % 4], seed=number)
    optimizer.step()


@pytest.fixture(params=[True, False], ids=["rows counted", "as on CUDA"])
def host_can_count(request, monkeypatch) -> None:
    """Also computes as on CUDA, where the number of distinct rows is not read back."""
    if not request.param:
        monkeypatch.setattr(sparse_adam, "host_can_count", lambda gradient: False)


@pytest.mark.usefixtures("host_can_count")
@pytest.mark.parametrize("rows", [*ROWS, [1, 1, 1], []], ids=str)
def test_merged_rows_are_the_same_gradient_with_the_sum_of_each_row_in_one_place(rows: list[int]):
    gradient = sparse_gradient(rows, seed=0)
    merged = merge_rows(gradient)
    assert (merged.to_dense() - gradient.to_dense()).abs().max() < 1e-12  # float64
    # nothing of a row is in a second place, where it would count twice in the norm
    assert abs(merged._values().norm() - gradient.to_dense().norm()) < 1e-12
    assert (merged._values().abs().sum(dim=1) > 0).sum() == len(set(rows))


@pytest.mark.oracle
@pytest.mark.usefixtures("host_can_count")
def test_twenty_steps_equal_torch_sparse_adam():
    ours, theirs = embedding(), embedding()
    optimizer, oracle = SparseRowAdam([ours], lr=0.1), torch.optim.SparseAdam([theirs], lr=0.1)
    for number in range(20):
        step(optimizer, ours, number)
        step(oracle, theirs, number)
    assert (ours - theirs).abs().max() < 1e-12  # float64 of values near 1
    assert (ours - embedding())[[0, 2, 3]].abs().min() > 1e-3
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.allclose(optimizer.state[ours][name], oracle.state[theirs][name], rtol=1e-12, atol=0)


@pytest.mark.oracle
def test_if_every_row_is_touched_it_equals_adam():
    ours, theirs = embedding(), embedding()
    optimizer, oracle = SparseRowAdam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for number in range(20):
        ours.grad = sparse_gradient(list(range(6)), seed=number)
        theirs.grad = ours.grad.to_dense()
        optimizer.step()
        oracle.step()
    # eps is added before the bias correction here and after it there, which shows where exp_avg_sq is small
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.usefixtures("host_can_count")
def test_rows_without_a_gradient_do_not_change():
    parameter = embedding()
    optimizer = SparseRowAdam([parameter], lr=0.1)
    for number in range(8):
        step(optimizer, parameter, number)
    assert torch.equal(parameter[[1, 4, 5]], embedding()[[1, 4, 5]])
    assert all(not optimizer.state[parameter][name][[1, 4, 5]].any() for name in ("exp_avg", "exp_avg_sq"))


@pytest.mark.usefixtures("host_can_count")
def test_a_gradient_without_rows_changes_nothing():
    parameter = embedding()
    parameter.grad = sparse_gradient([], seed=0)
    SparseRowAdam([parameter], lr=0.1).step()
    assert torch.equal(parameter, embedding())


def test_a_parameter_without_a_gradient_is_skipped():
    parameter = embedding()
    optimizer = SparseRowAdam([parameter], lr=0.1)
    optimizer.step()
    assert torch.equal(parameter, embedding())
    assert optimizer.state[parameter]["step"] == 0


class LimitedMemory(TorchDispatchMode):
    """Memory runs out in the `count`-th operator, unless it only writes into its first argument."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten" and not func.overloadpacket.__name__.endswith("_"):
            self.count -= 1
            if not self.count:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("host_can_count")
def test_an_update_that_runs_out_of_memory_changes_nothing_and_can_be_repeated():
    expected = embedding()
    step(SparseRowAdam([expected], lr=0.1), expected, 0)
    count, failed = 0, True
    while failed:
        count, failed, parameter = count + 1, False, embedding()
        optimizer = SparseRowAdam([parameter], lr=0.1)
        try:
            with LimitedMemory(count):
                step(optimizer, parameter, 0)
        except torch.OutOfMemoryError:
            failed = True
            state = optimizer.state[parameter]
            assert torch.equal(parameter, embedding())
            assert state["step"] == 0 and not state["exp_avg"].any() and not state["exp_avg_sq"].any()
            step(optimizer, parameter, 0)
        assert torch.equal(parameter, expected)
    assert count > 8


def test_a_saved_optimizer_continues_with_the_same_bits(tmp_path):
    whole, first = embedding(), embedding()
    optimizer, half = SparseRowAdam([whole], lr=0.1), SparseRowAdam([first], lr=0.1)
    for number in range(10):
        step(optimizer, whole, number)
    for number in range(5):
        step(half, first, number)
    torch.save({"weights": first.detach(), "optimizer": half.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = nn.Parameter(saved["weights"])
    resumed = SparseRowAdam([second], lr=999.0)  # the learning rate is restored as well
    resumed.load_state_dict(saved["optimizer"])
    for number in range(5, 10):
        step(resumed, second, number)
    assert torch.equal(second, whole)
