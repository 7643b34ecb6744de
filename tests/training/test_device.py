"""The device and the dtype of a run, on machines that are simulated."""

import pytest
import torch

from minitext.training import device as device_module
from minitext.training.device import compute_settings, one_thread, pick_device, pick_dtype
from minitext.utils.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine; returns the list of devices that were made current."""
    current: list[torch.device] = []

    def simulate(num_gpus: int = 0, mps: bool = False, local_rank: int | None = None) -> list[torch.device]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if local_rank is not None:
            monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        return current

    return simulate


@pytest.mark.parametrize(
    ("num_gpus", "mps", "name"), [(2, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_prefers_cuda_then_mps_then_the_cpu(machine, num_gpus: int, mps: bool, name: str):
    machine(num_gpus, mps)
    assert pick_device("auto") == torch.device(name)


@pytest.mark.parametrize(("num_gpus", "mps", "name"), [(2, True, "cuda"), (0, True, "cpu"), (0, False, "cpu")])
def test_auto_is_the_cpu_rather_than_mps_for_small_models(machine, num_gpus: int, mps: bool, name: str):
    machine(num_gpus, mps)
    assert pick_device("auto", auto_mps=False) == torch.device(name)
    if mps:
        assert pick_device("mps", auto_mps=False) == torch.device("mps")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_named_device_is_used(machine, name: str):
    machine(2, mps=True)
    assert pick_device(name) == torch.device(name)


def test_a_cuda_device_with_an_index_becomes_the_current_device(machine):
    current = machine(2)
    for name in ("cpu", "cuda", "cuda:1"):
        pick_device(name)
    assert current == [torch.device("cuda:1")]


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(("local_rank", "num_gpus", "index"), [(0, 4, 0), (3, 4, 3), (3, 1, 0), (5, 4, 1)])
def test_torchrun_gives_each_process_its_gpu(machine, name: str, local_rank: int, num_gpus: int, index: int):
    """A launcher that shows each process one GPU still counts LOCAL_RANK over all of them."""
    current = machine(num_gpus, local_rank=local_rank)
    assert pick_device(name) == torch.device("cuda", index)
    assert current == [torch.device("cuda", index)]


def test_torchrun_does_not_change_a_device_with_an_index(machine):
    machine(4, local_rank=3)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("num_gpus", "mps", "name", "available"),
    [
        (0, False, "cuda", "available: cpu"),
        (0, True, "cuda:0", "available: mps, cpu"),
        (2, False, "cuda:2", "available: cuda:0, cuda:1, cpu"),
        (1, False, "mps", "available: cuda:0, cpu"),
        (0, False, "meta", "available: cpu"),
    ],
)
def test_a_missing_device_is_refused_with_the_available_ones(machine, num_gpus, mps, name: str, available: str):
    machine(num_gpus, mps, local_rank=0)
    with pytest.raises(UserError, match=f"--device {name}: this machine does not have it; {available}$"):
        pick_device(name)


@pytest.mark.parametrize("name", ["abacus", "cuda:x", ""])
def test_an_unknown_device_is_refused_in_one_line(machine, name: str):
    machine()
    with pytest.raises(UserError, match=f"--device {name}: unknown device; give auto, cpu") as error:
        pick_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_named_precision_is_used(name: str, dtype: torch.dtype):
    assert pick_dtype(name, torch.device("cpu")) == dtype


@pytest.mark.parametrize(
    ("kind", "flags", "onednn", "hidden_size", "tokens", "dtype"),
    [
        ("cpu", "avx512f amx_bf16 amx_tile", True, 384, 400, torch.bfloat16),
        ("cpu", "avx512f amx_bf16 amx_tile", True, 383, 400, torch.float32),
        ("cpu", "avx512f amx_bf16 amx_tile", True, 384, 399.5, torch.float32),
        ("cpu", "avx512f amx_bf16 amx_tile", True, 0, 0, torch.float32),
        ("cpu", "avx512f amx_bf16 amx_tile", False, 384, 400, torch.float32),
        ("cpu", "avx512f avx512_bf16", True, 384, 400, torch.float32),
        ("cpu", None, True, 384, 400, torch.float32),
        ("mps", "avx512f amx_bf16 amx_tile", True, 384, 400, torch.float32),
    ],
)
def test_without_cuda_the_automatic_precision_is_bfloat16_for_large_passes_on_cpus_with_amx(
    tmp_path,
    monkeypatch,
    kind: str,
    flags: str | None,
    onednn: bool,
    hidden_size: int,
    tokens: float,
    dtype: torch.dtype,
):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)  # whatever this build of torch has
    monkeypatch.setattr(device_module, "CPU_INFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: amx_bf16\n")
    assert pick_dtype("auto", torch.device(kind), hidden_size, tokens) == dtype


def test_settings_hold_the_precision_in_use_and_the_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    expected = {"precision": "bf16", "device": "card 1", "processes": 8}
    assert compute_settings(torch.device("cuda:1"), torch.bfloat16, 8) == expected
    expected = {"precision": "fp32", "device": "cpu", "processes": 1}
    assert compute_settings(torch.device("cpu"), torch.float32) == expected


@pytest.mark.parametrize(("computes_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_on_cuda_the_automatic_precision_depends_on_the_gpu(monkeypatch, computes_bf16: bool, dtype: torch.dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes_bf16)
    assert pick_dtype("auto", torch.device("cuda")) == dtype


def test_one_thread_restores_the_number_of_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="stop"), one_thread():
            assert torch.get_num_threads() == 1
            raise ValueError("stop")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
