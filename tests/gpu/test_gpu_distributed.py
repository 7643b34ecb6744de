"""Several processes: two on one card (gloo), one with NCCL, and two cards."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gpu_factories import assert_same_change, classifier, texts, weights_of

from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.training.distributed import SINGLE, Distributed, destroy
from minitext.training.loop import TrainConfig, fit

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(epochs=2, batch_size=7, micro_batch_size=3, optimizer="adamw", lr=1e-3)
LENGTHS = [1, 2, 30, 7, 64, 5, 9, 11, 50, 3, 18, 40, 25, 33, 2]


def train(folder: Path, device: torch.device, distributed: Distributed) -> dict:
    """The weights of a run in float32, and the validation logits of its end."""
    model, data = classifier(device), texts(LENGTHS)

    def logits() -> torch.Tensor:
        return predict_logits(model, data, 4, device, torch.float32, distributed=distributed)

    folder.mkdir(exist_ok=True)
    fit(
        model, data, lambda: classification_metrics(logits(), data.labels), CONFIG,
        seed=0, device=device, dtype=torch.float32, run_dir=folder, class_weights=torch.ones(3),
        distributed=distributed, log=str, quiet=True,
    )  # fmt: skip
    return {"logits": logits(), "weights": weights_of(model)}


def run_process(rank: int, backend: str, devices: list[str], port: int, folder: Path) -> None:
    """What each of the processes does."""
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": f"{len(devices)}", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = f"{port}"
    device = torch.device(devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, device_id=device if backend == "nccl" else None)
    distributed = Distributed(rank, len(devices))
    torch.save(train(folder, device, distributed), folder / f"{rank}.pt")
    destroy(distributed)


def assert_two_processes_train_what_one_trains(backend: str, devices: list[str], folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "two").mkdir()
    torch.multiprocessing.spawn(run_process, (backend, devices, port, folder / "two"), nprocs=2)
    first, second = (torch.load(folder / "two" / f"{rank}.pt") for rank in range(2))
    one = train(folder / "one", torch.device(devices[0]), SINGLE)
    assert torch.equal(first["logits"], second["logits"])
    assert (first["logits"] - one["logits"]).abs().max() < 0.02  # after six updates; logits of about 1
    assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())
    assert_same_change(first["weights"], one["weights"], before=weights_of(classifier(torch.device("cpu"))))


@pytest.mark.gpu
def test_two_processes_on_one_card_train_what_one_trains(device, tmp_path):
    """Everything but NCCL, which refuses two processes on one card."""
    assert_two_processes_train_what_one_trains("gloo", [str(device)] * 2, tmp_path)


@pytest.mark.gpus
def test_two_cards_train_what_one_trains(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA cards")
    assert_two_processes_train_what_one_trains("nccl", ["cuda:0", "cuda:1"], tmp_path)


# In a process of its own, in which a warning is an error. Two processes are simulated to a group of one.
WORLD_OF_ONE = """
import torch
from minitext.training import distributed
from minitext.training.device import pick_device
from minitext.training.distributed import Distributed

distributed.world_size = lambda: 2
device = pick_device("{device}")
assert distributed.init_distributed(device) == Distributed(0, 1)
group = Distributed(0, 2)
assert group.all_reduce_sum(torch.ones(3, device=device)).tolist() == [1, 1, 1]
assert group.any(True, device) and not group.any(False, device)
layer = group.wrap(torch.nn.Linear(2, 2).to(device))
layer(torch.ones(1, 2, device=device)).sum().backward()
assert layer.module.weight.grad.tolist() == [[1, 1], [1, 1]]
del layer
distributed.destroy(group)
"""


@pytest.mark.gpu
def test_a_group_of_one_process_starts_computes_and_ends_without_a_warning(device):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WORLD_OF_ONE.format(device=device.type)], cwd=ROOT, check=False,
        env={**os.environ, **variables, "MASTER_PORT": f"{port}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()


# In a process of its own: card 0 must not even have a context, which takes half a gigabyte.
SECOND_CARD = """
import sys
import torch
import train_finetune

sys.argv = ["train_finetune.py", "--device", "cuda:1", "--epochs", "1", "--subset", "0.1", "0.1", "--quiet", "--out",
            sys.argv[1]]
train_finetune.main()
assert torch.cuda.memory_allocated(1) > 0
assert not torch._C._cuda_hasPrimaryContext(0)
"""


@pytest.mark.gpus
def test_a_run_on_the_second_card_leaves_the_first_alone(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA cards")
    command = [sys.executable, "-c", SECOND_CARD, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
