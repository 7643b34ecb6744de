"""Proves that two processes train what one trains, whatever the window's size, that each text is evaluated once, that
one process writes, and that a Ctrl-C to any of them stops all with a state that goes on.

Two real processes (gloo, on the CPU) go through all cases once; the tests read what they left.
"""

import gc
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.evaluation.predict import predict_logits
from minitext.models.bert import BertClassifier, BertConfig
from minitext.training import loop
from minitext.training.distributed import SINGLE, Distributed, join, leave
from minitext.training.loop import IGNORE_INDEX, TrainConfig, fit, shard_rows
from minitext.training.optim import layer_groups
from minitext.utils.metrics_log import MetricsLog

CPU = torch.device("cpu")
BASE = TrainConfig(epochs=2, batch_size=6, optimizer="adamw", lr=0.01, weight_decay=0.1, warmup=0.2)
CASES = {  # of 23 texts: options of the loop, and of the model
    "even": (BASE, {}),
    "odd": (replace(BASE, batch_size=5), {}),
    "one text": (replace(BASE, batch_size=1, epochs=1), {}),  # fewer than there are processes
    "micro-batches": (replace(BASE, batch_size=8, micro_batch_size=3), {}),
    "other number of micro-batches": (
        replace(BASE, batch_size=7, micro_batch_size=3),
        {},
    ),  # 4 and 3 texts: two and one
    "tokens": (replace(BASE, max_tokens_per_batch=16), {}),
    "balanced": (replace(BASE, batch_size=5, class_weights="balanced", label_smoothing=0.1), {}),
    "clipped": (replace(BASE, max_grad_norm=0.01), {}),
    "checks": (replace(BASE, batch_size=5, epochs=9, eval_every=2, patience=2, lr=0.1, select_by="loss"), {}),
    "frozen": (replace(BASE, batch_size=5), {"freeze": True}),
    "checkpointing": (replace(BASE, batch_size=5, micro_batch_size=2), {"checkpointing": True}),
    "layer decay": (replace(BASE, batch_size=5), {"layer_lr_decay": 0.5}),
}
EVALUATIONS = {"two batches each": (23, 6), "one has more": (11, 4), "one has none": (3, 4), "but one text": (1, 4)}


def texts(count: int, seed: int = 0) -> PackCollator:
    """Texts of 1 to 6 random tokens of three classes, the first of them in half of the texts."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count,), generator=generator)
    ids = torch.randint(1, 12, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    labels = (torch.randint(-2, 3, (count,), generator=generator)).clamp_min(0)
    return PackCollator(TokenizedTexts(ids, F.pad(lengths.cumsum(0), (1, 0))), labels, pad=0)


def network(dropout: float = 0.0, freeze: bool = False, checkpointing: bool = False) -> BertClassifier:
    """In float64: Adam divides a gradient by its size, also one that is nothing but float32's rounding."""
    torch.manual_seed(0)
    model = BertClassifier(BertConfig(12, 8, 2, 2, 16, 8, dropout=dropout, attention_dropout=0.0, head_dropout=dropout,
                                  init_std=0.3), 3).double()  # fmt: skip
    if freeze:
        model.encoder.requires_grad_(False)
        model.encoder.layers[1:].requires_grad_(True)
    model.encoder.checkpointing = checkpointing
    return model


def train(case: str, folder: Path, team: Distributed, model: BertClassifier | None = None) -> dict[str, Tensor]:
    options, settings = CASES[case]
    layer_lr_decay = settings.get("layer_lr_decay", 1.0)
    model = model or network(**{name: value for name, value in settings.items() if name != "layer_lr_decay"})
    groups = layer_groups(model, options.weight_decay, layer_lr_decay)
    folder.mkdir(exist_ok=True)
    team.wait()
    fit(model, texts(23), texts(9, seed=1), options, 0, CPU, torch.float32, folder, str, True, team, groups)
    return model.state_dict()


def evaluate(count: int, batch: int, team: Distributed) -> dict:
    """All logits, and how many texts this process's model was given."""
    model, seen = network(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return {"logits": predict_logits(model, texts(count), batch, CPU, torch.float32, team=team), "seen": sum(seen)}


def interrupted(folder: Path, team: Distributed) -> dict:
    """A run in which only the second process gets a Ctrl-C, in its third forward pass; then the run that goes on."""
    model, calls = network(), []

    def hook(*_) -> None:
        calls.append(0)
        if len(calls) == 3 and team.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model.register_forward_pre_hook(hook)
    try:
        train("odd", folder, team, model)
        message = "not interrupted"
    except KeyboardInterrupt as interrupt:
        message = str(interrupt)
    updates = len(MetricsLog(folder / "metrics.jsonl").rows())
    team.wait()
    return {"message": message, "updates": updates, "weights": train("odd", folder, team)}


def never(*_) -> None:
    raise AssertionError("only the first process writes")


def member(rank: int, size: int, port: int, folder: Path) -> None:
    """What each process does."""
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": f"{size}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    gc.disable()  # no chance helps `leave`
    team = join(CPU)
    assert team == Distributed(rank, size)
    if rank:
        loop.MetricsLog = loop.save_best = loop.save_checkpoint = never
    found = {case: train(case, folder / case, team) for case in CASES}
    found |= {name: evaluate(count, batch, team) for name, (count, batch) in EVALUATIONS.items()}
    train("odd", folder / "dropout", team, network(dropout=0.5))
    found["drawn"] = torch.rand(4)
    found["total"] = team.total(torch.tensor([1.0, 10.0]) * (rank + 1))
    found["interrupted"] = interrupted(folder / "interrupted", team)
    found["threads"] = [gloo_threads()]
    leave(team)
    found["threads"].append(gloo_threads())
    torch.save(found, folder / f"{rank}.pt")


def gloo_threads() -> list[str]:
    """This process's threads that exchange tensors (Linux; elsewhere none is seen)."""
    names = (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    return [name for name in names if "gloo" in name]


@pytest.fixture(scope="module")
def team_of_two(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of all runs, and what each process found."""
    folder = tmp_path_factory.mktemp("team")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(member, (2, port, folder), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, tuple[Path, dict[str, Tensor]]]:
    """Of each case the folder and the weights of one process's run."""
    folder = tmp_path_factory.mktemp("alone")
    return {case: (folder / case, train(case, folder / case, SINGLE)) for case in CASES}


# Training


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_weights_of_one(team_of_two, alone, case: str):
    (_, (first, second)), (_, weights), fresh = team_of_two, alone[case], network().state_dict()
    assert max((weights[name] - fresh[name]).abs().max() for name in fresh) > 0.01  # the case tells: it has learnt
    for name, tensor in weights.items():
        # the loss is computed in float32; its rounding does not depend on how a window is shared, sums are in float64
        assert (first[case][name] - tensor).abs().max() < 1e-6, name
        assert torch.equal(first[case][name], second[case][name]), name


@pytest.mark.parametrize("case", CASES)
def test_the_journal_of_two_is_that_of_one(team_of_two, alone, case: str):
    """Written by one process: no line is there twice, and the losses and counts are the whole window's."""
    ours, theirs = (MetricsLog(path / "metrics.jsonl").rows() for path in (team_of_two[0] / case, alone[case][0]))
    assert len(ours) == len(theirs) > 4
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            # float32 losses of a window are summed in another order
            assert mine[name] == pytest.approx(other[name], abs=2e-6), name


def test_a_frozen_layer_stays_as_it_was_in_a_team(team_of_two):
    _, (first, _) = team_of_two
    before = network().state_dict()
    frozen = [name for name in before if name.startswith("encoder.") and not name.startswith("encoder.layers.1")]
    assert len(frozen) > 10
    assert all(torch.equal(first["frozen"][name], before[name]) for name in frozen)


def test_each_process_draws_other_dropout(team_of_two):
    _, (first, second) = team_of_two
    assert not torch.equal(first["drawn"], second["drawn"])


def test_a_ctrl_c_to_one_process_stops_all_and_the_run_goes_on_to_the_same_bits(team_of_two):
    _, found = team_of_two
    for part in found:
        assert "--resume" in part["interrupted"]["message"]
        assert part["interrupted"]["updates"] == 3
        for name, tensor in part["odd"].items():
            assert torch.equal(part["interrupted"]["weights"][name], tensor), name


def test_what_is_totalled_is_the_sum_and_the_same_in_all(team_of_two):
    _, found = team_of_two
    assert [part["total"].tolist() for part in found] == [[3, 30], [3, 30]]


# Evaluation


@pytest.mark.parametrize("case", EVALUATIONS)
def test_each_text_is_evaluated_once_and_all_get_all_logits(team_of_two, case: str):
    count, batch = EVALUATIONS[case]
    alone = evaluate(count, batch, SINGLE)
    parts = [part[case] for part in team_of_two[1]]
    assert sum(part["seen"] for part in parts) == count == alone["seen"]
    for part in parts:
        assert torch.equal(part["logits"], alone["logits"])  # the same batches, each computed in one process


# Shares


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_who_leaves_a_team_leaves_no_thread_behind_that_could_outlive_python(team_of_two):
    _, found = team_of_two
    for before, after in (member["threads"] for member in found):
        assert before and after == []


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_shares_hold_each_row_once_and_differ_by_one_at_most(size: int, count: int):
    shares = [Distributed(rank, size).share(list(range(count))) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_without_a_text_of_its_own_takes_the_first_to_keep_pace():
    rows = torch.tensor([7, 5]).numpy()
    assert [shard_rows(rows, Distributed(rank, 4)).tolist() for rank in range(4)] == [[7], [5], [7], [7]]
    assert IGNORE_INDEX < 0  # its label then: no class has it


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join(CPU) is SINGLE
    model, value = network(), torch.tensor(3.0)
    assert SINGLE.wrap(model) is model
    assert SINGLE.total(value) is value
    assert SINGLE.share([1, 2]) == [1, 2]
    SINGLE.wait()
    leave(SINGLE)


def test_torchrun_with_one_process_is_alone_as_well(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(CPU) is SINGLE
