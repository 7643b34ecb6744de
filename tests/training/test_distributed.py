"""Two processes train what one trains, each text is evaluated once, rank 0 writes, and an interrupt stops all.

Two real processes (gloo, on the CPU) go through all cases once; the tests read what they left.
"""

import gc
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_factories import CPU, VOCAB_SIZE, random_texts, same_bits

from minitext.data.batching import PackCollator
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.models.bert import BertClassifier, BertConfig
from minitext.training import loop
from minitext.training.distributed import SINGLE, Distributed, destroy, init_distributed, refuse_torchrun, world_size
from minitext.training.loop import TrainConfig, class_weights_of, fit
from minitext.training.optim import layer_groups
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog

BASE = TrainConfig(epochs=2, batch_size=6, optimizer="adamw", lr=0.01, weight_decay=0.1, warmup=0.2)
ODD = replace(BASE, batch_size=5)
CASES = {  # of 23 texts: settings of the loop, and of the model
    "even": (BASE, {}),
    "odd": (ODD, {}),
    "one text": (replace(BASE, batch_size=1, epochs=1), {}),  # fewer texts than processes
    "micro-batches": (replace(BASE, batch_size=8, micro_batch_size=3), {}),
    "different numbers of micro-batches": (replace(BASE, batch_size=7, micro_batch_size=3), {}),  # of 4 and 3 texts
    "tokens": (replace(BASE, max_tokens_per_batch=16), {}),
    "balanced": (replace(ODD, class_weights="balanced", label_smoothing=0.1), {}),
    "clipped": (replace(BASE, max_grad_norm=0.01), {}),
    "patience": (replace(ODD, epochs=9, eval_every=2, patience=2, lr=0.1, select_by="loss"), {}),
    "frozen": (ODD, {"freeze": True}),
    "checkpointing": (replace(ODD, micro_batch_size=2), {"checkpointing": True}),
    "layer decay": (ODD, {"layer_lr_decay": 0.5}),
    "windows": (replace(BASE, batch_size=7, micro_batch_size=2), {"window": 3}),
}
EVALUATIONS = {"two batches each": (23, 6), "one has more": (11, 4), "one has none": (3, 4), "a single text": (1, 4)}


def texts(count: int, seed: int = 0, window: int | None = None) -> PackCollator:
    """Texts of three classes, the first of which occurs in half of them."""
    data = random_texts(count, num_classes=5, seed=seed)
    return replace(data, data=data.data._replace(window=window), labels=(data.labels - 2).clamp_min(0))


def network(dropout: float = 0.0, freeze: bool = False, checkpointing: bool = False) -> BertClassifier:
    """In float64: Adam divides a gradient by its size, even if it is only a rounding error of float32."""
    torch.manual_seed(0)
    config = BertConfig(VOCAB_SIZE, 8, 2, 2, 16, 8, dropout=dropout, attention_dropout=0.0, head_dropout=dropout,
                        initializer_range=0.3)  # fmt: skip
    model = BertClassifier(config, 3).double()
    if freeze:
        model.encoder.requires_grad_(False)
        model.encoder.layers[1:].requires_grad_(True)
    model.encoder.checkpointing = checkpointing
    return model


def train(case: str, folder: Path, distributed: Distributed, model: BertClassifier | None = None) -> dict[str, Tensor]:
    """The weights after the run of a case."""
    config, settings = CASES[case]
    others = ("layer_lr_decay", "window")
    model = model or network(**{name: value for name, value in settings.items() if name not in others})
    data, valid = (texts(*sizes, window=settings.get("window")) for sizes in ((23, 0), (9, 1)))
    if distributed.rank == 0:
        folder.mkdir(exist_ok=True)

    def evaluate() -> dict[str, float]:
        logits = predict_logits(model, valid, config.batch_size, CPU, torch.float32, distributed=distributed)
        return classification_metrics(logits, valid.labels)

    fit(
        model, data, evaluate, config, seed=0, device=CPU, dtype=torch.float32,
        run_dir=folder if distributed.rank == 0 else None,
        class_weights=class_weights_of(data.labels, 3, config.class_weights),
        param_groups=layer_groups(model, config.weight_decay, settings.get("layer_lr_decay", 1.0)),
        distributed=distributed, log=str, quiet=True,
    )  # fmt: skip
    return model.state_dict()


def evaluate_in(distributed: Distributed, count: int, batch_size: int) -> dict:
    """All logits, and the number of texts that the model of this process was given."""
    model, seen = network(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0].lengths)))
    logits = predict_logits(model, texts(count), batch_size, CPU, torch.float32, distributed=distributed)
    return {"logits": logits, "seen": sum(seen)}


def interrupt(folder: Path, distributed: Distributed) -> dict:
    """A run in which only rank 1 gets a Ctrl-C, in its third forward pass; then the resumed run."""
    model, calls = network(), []

    def hook(*_) -> None:
        calls.append(0)
        if len(calls) == 3 and distributed.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model.register_forward_pre_hook(hook)
    try:
        train("odd", folder, distributed, model)
        message = "not interrupted"
    except KeyboardInterrupt as error:
        message = str(error)
    distributed.broadcast(None)  # rank 1 waits until rank 0 has written
    updates = len(MetricsLog(folder / "metrics.jsonl").rows())
    distributed.broadcast(None)  # until both have counted
    return {"message": message, "updates": updates, "weights": train("odd", folder, distributed)}


def exchanges(folder: Path, distributed: Distributed) -> dict[str, int]:
    """How often a run of 8 updates without micro-batches calls each function that processes have to call together."""
    counts = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_reduce", "broadcast", "broadcast_object_list", "barrier", "all_gather", "all_gather_object"):
            patch.setattr(torch.distributed, name, counting(getattr(torch.distributed, name), name, counts))
        patch.setattr(Distributed, "broadcast_weights", lambda *_: None)  # calls `broadcast` for each tensor
        train("even", folder, distributed)
    return dict(counts)


def disagreeing(folder: Path, distributed: Distributed) -> dict:
    """A run with patience in which only rank 0's scores improve: alone, rank 1 would stop after two evaluations."""
    scores = iter(range(20, 0, -1)) if distributed.rank == 0 else iter([1] * 20)
    if distributed.rank == 0:
        folder.mkdir()
    model, config = network(), replace(BASE, epochs=4, patience=1, select_by="loss")
    state = fit(
        model, texts(12), lambda: {"loss": float(next(scores)), "accuracy": 0.5}, config,
        seed=0, device=CPU, dtype=torch.float32, run_dir=folder if distributed.rank == 0 else None,
        class_weights=torch.ones(3), distributed=distributed, log=str, quiet=True,
    )  # fmt: skip
    return {"epoch": state.best_epoch, "weights": model.state_dict()}


def counting(function: Callable, name: str, counts: Counter) -> Callable:
    """`function`, with its calls counted under `name`."""

    def counted(*arguments, **settings):
        counts[name] += 1
        return function(*arguments, **settings)

    return counted


def refusal(distributed: Distributed, value: object) -> str:
    """The error of `require_same`."""
    try:
        distributed.require_same(value, "reviews.csv")
    except UserError as error:
        return str(error)
    return ""


def never(*_) -> None:
    raise AssertionError("only rank 0 writes")


def run_process(rank: int, processes: int, port: int, folder: Path) -> None:
    """What each process does."""
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": f"{processes}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.set_num_threads(1)
    gc.disable()  # so that `destroy` has to collect the reference cycles
    distributed = init_distributed(CPU)
    assert distributed == Distributed(rank, processes)
    if rank:
        loop.MetricsLog.write = loop.MetricsLog.truncate = loop.MetricsLog.flush = loop.save_checkpoint = never
    found = {case: train(case, folder / case, distributed) for case in CASES}
    found |= {name: evaluate_in(distributed, *sizes) for name, sizes in EVALUATIONS.items()}
    train("odd", folder / "dropout", distributed, network(dropout=0.5))
    found["random"] = torch.rand(4)
    found["sum"] = distributed.all_reduce_sum(torch.tensor([1.0, 10.0]) * (rank + 1))
    found["any"] = [distributed.any(flag, CPU) for flag in (False, rank == 1, True)]
    found["same"] = [refusal(distributed, value) for value in ("equal", f"rank {rank}")]
    found["exchanges"] = exchanges(folder / "exchanges", distributed)
    found["disagreeing"] = disagreeing(folder / "disagreeing", distributed)
    found["interrupted"] = interrupt(folder / "interrupted", distributed)
    found["threads"] = [gloo_threads()]
    destroy(distributed)
    found["threads"].append(gloo_threads())
    torch.save(found, folder / f"{rank}.pt")


def gloo_threads() -> list[str]:
    """The threads of this process that exchange tensors. Always empty except on Linux."""
    names = (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    return [name for name in names if "gloo" in name]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of all runs, and what each process found."""
    folder = tmp_path_factory.mktemp("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_process, (2, port, folder), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict[str, tuple[Path, dict[str, Tensor]]]:
    """For each case the folder and the weights of a run in one process."""
    folder = tmp_path_factory.mktemp("single")
    return {case: (folder / case, train(case, folder / case, SINGLE)) for case in CASES}


# Training in two processes


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_weights_of_one(two_processes, single, case: str):
    (_, (first, second)), (_, weights), fresh = two_processes, single[case], network().state_dict()
    assert max((weights[name] - fresh[name]).abs().max() for name in fresh) > 0.01
    for name, tensor in weights.items():
        # the loss is computed in float32; its rounding does not depend on the shards, and sums are in float64
        assert (first[case][name] - tensor).abs().max() < 1e-6, name
    assert same_bits(first[case], second[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_metrics_log_of_two_processes_is_that_of_one(two_processes, single, case: str):
    """No row is there twice, and losses and counts are those of the whole update."""
    ours, theirs = (MetricsLog(path / "metrics.jsonl").rows() for path in (two_processes[0] / case, single[case][0]))
    assert len(ours) == len(theirs) > 4
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            # float32 losses of an update are summed in another order
            assert mine[name] == pytest.approx(other[name], abs=2e-6), name


@pytest.mark.slow
def test_a_frozen_layer_does_not_change(two_processes):
    _, (first, _) = two_processes
    before = network().state_dict()
    frozen = [name for name in before if name.startswith("encoder.") and not name.startswith("encoder.layers.1")]
    assert len(frozen) > 10
    assert all(torch.equal(first["frozen"][name], before[name]) for name in frozen)


@pytest.mark.slow
def test_each_process_draws_other_dropout_masks(two_processes):
    _, (first, second) = two_processes
    assert not torch.equal(first["random"], second["random"])


@pytest.mark.slow
def test_an_interrupt_of_one_process_stops_all_and_the_run_resumes_to_the_same_bits(two_processes):
    messages = [found["interrupted"]["message"] for found in two_processes[1]]
    assert "--resume" in messages[0] and messages[1] == ""  # only rank 0 has saved something
    for found in two_processes[1]:
        assert found["interrupted"]["updates"] == 3
        assert same_bits(found["interrupted"]["weights"], found["odd"])


@pytest.mark.slow
def test_every_process_gets_the_sum_and_whether_any_flag_is_set(two_processes):
    for found in two_processes[1]:
        assert found["sum"].tolist() == [3, 30]
        assert found["any"] == [False, True, True]


@pytest.mark.slow
def test_an_update_needs_one_reduction_beside_those_of_the_gradients(two_processes):
    """Sums, the weight of the update, and whether a process is interrupted are one tensor."""
    updates, evaluations = 8, 2
    for found in two_processes[1]:
        # for each evaluation its logits, and whether a process is interrupted; the progress, and the scores of each
        # evaluation; no moments, which are zero in a new run
        exchanges = {"all_reduce": updates + 2 * evaluations, "broadcast_object_list": 1 + evaluations}
        assert found["exchanges"] == exchanges


@pytest.mark.slow
def test_all_processes_decide_by_the_scores_of_rank_0(two_processes):
    """Two machines may round a score differently; one that stopped alone would leave the others waiting."""
    first, second = (found["disagreeing"] for found in two_processes[1])
    assert first["epoch"] == second["epoch"] == 4
    assert same_bits(first["weights"], second["weights"])


@pytest.mark.slow
def test_data_that_differ_between_processes_are_refused_in_all(two_processes):
    message = "reviews.csv: process 1 has another copy than process 0; copy the same to all machines"
    assert [found["same"] for found in two_processes[1]] == [["", message]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("case", EVALUATIONS)
def test_each_text_is_evaluated_once_and_all_processes_get_all_logits(two_processes, case: str):
    count, batch_size = EVALUATIONS[case]
    expected = evaluate_in(SINGLE, count, batch_size)
    parts = [part[case] for part in two_processes[1]]
    assert sum(part["seen"] for part in parts) == count == expected["seen"]
    for part in parts:
        assert torch.equal(part["logits"], expected["logits"])  # the same batches, each computed in one process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_destroy_leaves_no_thread_that_could_outlive_python(two_processes):
    for before, after in (found["threads"] for found in two_processes[1]):
        assert before and after == []


# One process


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 64])
def test_shards_hold_each_item_once_and_differ_by_one_at_most(processes: int, count: int):
    shards = [Distributed(rank, processes).shard(list(range(count))) for rank in range(processes)]
    assert sorted(item for shard in shards for item in shard) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("setting", [None, "1"])
def test_a_single_process_needs_no_process_group(monkeypatch, setting: str | None):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if setting:
        monkeypatch.setenv("WORLD_SIZE", setting)
    assert world_size() == 1
    refuse_torchrun("train_static.py")
    assert init_distributed(CPU) is SINGLE
    model, value = network(), torch.tensor(3.0)
    assert SINGLE.wrap(model) is model
    assert SINGLE.all_reduce_sum(value) is value
    assert SINGLE.shard([1, 2]) == [1, 2]
    assert (SINGLE.any(True, CPU), SINGLE.any(False, CPU)) == (True, False)
    assert SINGLE.broadcast(model) is model
    SINGLE.require_same(1, "data")
    destroy(SINGLE)


def test_several_processes_do_not_share_an_apple_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--device mps: cannot train in several processes; pass --device cpu"):
        init_distributed(torch.device("mps"))


def test_a_script_that_does_not_train_in_parallel_refuses_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="train_static.py does not train in parallel; run it without torchrun"):
        refuse_torchrun("train_static.py")
