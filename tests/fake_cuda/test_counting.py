"""What would wait, launch or fail on a GPU is seen on fake tensors."""

import pytest
import torch
from torch import Tensor, nn

from fake_cuda.counting import CUDA, Usage, fake_cuda, fake_model, multi_tensor_launches

WAITS = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "a condition": lambda x: bool(x.any()),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from memory that is not pinned": lambda x: torch.zeros(3).to(CUDA, non_blocking=True),
    "a blocking copy from pinned memory": lambda x: torch.zeros(3).pin_memory().to(CUDA),
}
NO_WAITS = {
    "arithmetic": lambda x: (x + 1).sum(),
    "an asynchronous copy from pinned memory": lambda x: torch.zeros(3).pin_memory().to(CUDA, non_blocking=True),
    "an index of integers": lambda x: x[torch.zeros(2, dtype=torch.int64, device=CUDA)],
    "a mask of equal shape": lambda x: torch.where(x > 0, x, 0),
    "a sparse tensor": lambda x: sparse(x)._values(),
}
ERRORS = {
    "numbers to the device": lambda x: torch.tensor([1.0, 2.0], device=CUDA),
    "the sum of repeated sparse rows": lambda x: sparse(x).coalesce(),
}


def sparse(values: Tensor) -> Tensor:
    rows = torch.zeros(1, len(values), dtype=torch.int64, device=values.device)
    return torch.sparse_coo_tensor(rows, values, (5,), check_invariants=False)


def usage_of(table: str, name: str) -> tuple[list[str], int]:
    with fake_cuda() as usage:
        x = torch.ones(4, device=CUDA)
        usage.launches.clear()
        globals()[table][name](x)
    return usage.waits, usage.launches.total()


@pytest.mark.parametrize("name", WAITS)
def test_a_read_of_the_device_is_one_wait(on_fake_cuda, name: str):
    assert len(on_fake_cuda(usage_of, "WAITS", name)[0]) == 1


@pytest.mark.parametrize("name", NO_WAITS)
def test_work_that_stays_on_the_device_is_no_wait(on_fake_cuda, name: str):
    assert on_fake_cuda(usage_of, "NO_WAITS", name)[0] == []


@pytest.mark.parametrize("name", ERRORS)
def test_a_wait_that_fake_tensors_cannot_do_is_an_error(on_fake_cuda, name: str):
    with pytest.raises(RuntimeError, match="NotImplementedError"):
        on_fake_cuda(usage_of, "ERRORS", name)


def test_every_operator_with_a_kernel_is_one_launch(on_fake_cuda):
    assert on_fake_cuda(usage_of, "NO_WAITS", "arithmetic")[1] == 2
    assert on_fake_cuda(usage_of, "NO_WAITS", "a sparse tensor")[1] == 1  # zeros; the rest are views


def wrong_device() -> None:
    with fake_cuda():
        nn.Linear(4, 4)(torch.ones(2, 4, device=CUDA))


def wrong_dtype() -> None:
    with fake_cuda():
        fake_model(lambda: nn.Linear(4, 4))(torch.ones(2, 4, device=CUDA, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("function", "message"),
    [(wrong_device, "FakeTensorDeviceMismatchError"), (wrong_dtype, "addmm of different dtypes")],
)
def test_tensors_that_do_not_fit_together_are_an_error(on_fake_cuda, function, message: str):
    with pytest.raises(RuntimeError, match=message):
        on_fake_cuda(function)


def backward() -> tuple[str, int]:
    with fake_cuda() as usage:
        model = fake_model(lambda: nn.Linear(4, 4))
        model(torch.ones(2, 4, device=CUDA)).sum().backward()
    return model.weight.grad.device.type, len(usage.waits)


def test_a_backward_pass_runs_on_the_device_without_a_wait(on_fake_cuda):
    assert on_fake_cuda(backward) == ("cuda", 0)


def test_operators_on_lists_launch_by_number_and_size_of_their_tensors():
    small, large = [torch.empty(3, device="meta")] * 200, [torch.empty(65536 * 700, device="meta")]
    assert multi_tensor_launches((small,)) == 2  # 110 in a launch
    assert multi_tensor_launches((small, small, small, small, [], [torch.empty((), device="meta")] * 200)) == 6  # 36
    assert multi_tensor_launches((large,)) == 3  # 320 blocks of 65,536 elements in a launch


def test_the_suites_own_process_has_no_fake_cuda():
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)), Usage():
        torch.ones(1, device=CUDA)
