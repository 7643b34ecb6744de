"""A checkpoint is complete: a run that is stopped after any update and resumed ends with the same bits."""

import dataclasses
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from training_factories import CPU, NO_SCALING, batch_of, evaluator, network, random_texts, same_bits

from minitext.training import checkpoint, loop
from minitext.training.checkpoint import DelayedInterrupt, TrainState, load_checkpoint, save_checkpoint
from minitext.training.optim import build_optimizers
from minitext.training.step import StepConfig, train_step
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog

MID_EPOCH = loop.TrainConfig(epochs=2, batch_size=4, micro_batch_size=3, eval_every=2)  # 18 texts: 5 updates per epoch
CONFIGS = {
    "evaluations within epochs": MID_EPOCH,
    "evaluations after epochs": dataclasses.replace(MID_EPOCH, eval_every=None),
    "patience": dataclasses.replace(MID_EPOCH, patience=3, select_by="loss", lr=0.03, epochs=9),
    "adamw": dataclasses.replace(MID_EPOCH, optimizer="adamw", weight_decay=0.1, schedule="cosine"),
}


def train(folder: Path, config: loop.TrainConfig = MID_EPOCH, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The weights after a run with dropout."""
    model = network(dropout=0.5)
    folder.mkdir(exist_ok=True)
    loop.fit(
        model, random_texts(18), evaluator(model, random_texts(9, seed=1)), config,
        seed=0, device=CPU, dtype=dtype, run_dir=folder, class_weights=torch.ones(2), log=str, quiet=True,
    )  # fmt: skip
    return model.state_dict()


def stop_in_update(monkeypatch: pytest.MonkeyPatch, update: int, stop) -> None:
    """Call `stop` in the middle of update number `update`."""
    step, done = loop.train_step, []

    def stopped(*arguments, **settings):
        done.append(1)
        if len(done) == update:
            stop()
        return step(*arguments, **settings)

    monkeypatch.setattr(loop, "train_step", stopped)


def metrics(folder: Path) -> bytes:
    return (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, tuple[dict[str, Tensor], bytes]]:
    """For each configuration the weights and the metrics log of a run that is not stopped."""
    root = tmp_path_factory.mktemp("uninterrupted")
    runs = {name: train(root / name, config) for name, config in CONFIGS.items()}
    return {name: (weights, metrics(root / name)) for name, weights in runs.items()}


@pytest.mark.parametrize(
    ("name", "update"),
    [
        *((name, update) for name in CONFIGS if name != "patience" for update in range(1, 10)),
        *(("patience", update) for update in range(11, 16)),  # the best evaluation follows update 12, the last one 16
    ],
)
def test_a_run_interrupted_after_any_update_resumes_to_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, name: str, update: int
):
    weights, log = uninterrupted[name]
    number = signal.SIGINT if update % 2 else signal.SIGTERM
    with monkeypatch.context() as patch:
        stop_in_update(patch, update, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            train(tmp_path, CONFIGS[name])
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["step"] == update
    assert same_bits(train(tmp_path, CONFIGS[name]), weights)
    assert metrics(tmp_path) == log


@pytest.mark.parametrize("update", range(1, 11))
def test_a_run_killed_in_any_update_resumes_from_the_last_checkpoint_to_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, update: int
):
    """An exception simulates the kill: nothing is written after it. Checkpoints follow every third update."""
    weights, log = uninterrupted["evaluations within epochs"]
    config = dataclasses.replace(MID_EPOCH, save_every=3.0)
    clock = iter(range(1000))  # one second per update

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.time, "perf_counter", lambda: next(clock))
        stop_in_update(patch, update, kill)
        with pytest.raises(Killed):
            train(tmp_path, config)
    saved = tmp_path / "checkpoint.pt"
    step = torch.load(saved)["state"]["step"] if saved.exists() else 0
    assert update - 4 <= step < update
    assert saved.exists() or update <= 3
    assert same_bits(train(tmp_path, config), weights)
    assert metrics(tmp_path) == log


def test_the_run_with_patience_stops_where_the_tests_above_expect_it(tmp_path):
    train(tmp_path, CONFIGS["patience"])
    evaluations = MetricsLog(tmp_path / "metrics.jsonl").evaluations()
    assert [row["update"] for row in evaluations if row["best"]][-1] == 12
    assert evaluations[-1]["update"] == 16


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    for name, config in CONFIGS.items():
        weights, log = train(tmp_path / name, config), metrics(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", lambda *arguments, **settings: pytest.fail("trained again"))
            assert same_bits(train(tmp_path / name, config), weights)
        assert metrics(tmp_path / name) == log


def test_checkpoints_are_written_at_intervals_and_at_the_end(tmp_path, monkeypatch):
    saves: list[int] = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda folder, state, *parts: saves.append(state.step))
    train(tmp_path / "seldom", dataclasses.replace(MID_EPOCH, save_every=1e6))
    assert saves == [10]
    saves.clear()
    train(tmp_path / "always", dataclasses.replace(MID_EPOCH, save_every=0.0))
    assert saves == list(range(1, 11))


def test_the_seconds_of_all_parts_of_a_run_add_up(tmp_path, monkeypatch):
    clock = iter(range(1000))  # one second per update
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    with monkeypatch.context() as patch:
        stop_in_update(patch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    first = torch.load(tmp_path / "checkpoint.pt")["state"]["seconds"]
    train(tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["seconds"] > first >= 4


def test_everything_that_the_next_step_depends_on_is_restored(tmp_path):
    model, scaler = network(dropout=0.5), GradScaler("cpu", enabled=True, init_scale=8.0)
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    config = StepConfig(torch.float32, 1.0, torch.ones(2))
    train_step(model, [batch_of(random_texts(4))], optimizers, NO_SCALING, config)
    state = TrainState(
        step=12, updates=11, loss_sum=0.1, num_correct=5, num_seen=8, best_score=0.5, best_epoch=2.5,
        evals_since_best=1, log_bytes=99, seconds=1.5,
    )  # fmt: skip
    best_weights = {"output.bias": torch.tensor([1.0, 2.0])}
    save_checkpoint(tmp_path, state, model, optimizers, scaler, best_weights)
    random_numbers = torch.rand(3)
    other, other_scaler = network(seed=1), GradScaler("cpu", enabled=True, init_scale=2.0)
    other_optimizers = build_optimizers(other, "adam", 0.9, 0.0)
    restored, restored_best = load_checkpoint(tmp_path, other, other_optimizers, other_scaler)
    assert restored == state
    assert same_bits(restored_best, best_weights)
    assert torch.equal(torch.rand(3), random_numbers)
    assert other_scaler.get_scale() == 8.0
    assert same_bits(model.state_dict(), other.state_dict())
    for before, after in zip(optimizers, other_optimizers, strict=True):
        torch.testing.assert_close(after.state_dict()["state"], before.state_dict()["state"], rtol=0, atol=0)


def test_the_state_of_a_run_on_another_device_is_restored(tmp_path):
    """Its weights and moments are read to the CPU, and its random state is of no use."""
    model = network()
    save_checkpoint(tmp_path, TrainState(updates=3), model, [], NO_SCALING, None)
    content = torch.load(tmp_path / "checkpoint.pt")
    content["random"] = {"cpu": content["random"]["cpu"], "cuda": torch.zeros(16, dtype=torch.uint8)}
    torch.save(content, tmp_path / "checkpoint.pt")
    expected = torch.rand(3)
    other = network(seed=1)
    assert load_checkpoint(tmp_path, other, [], NO_SCALING)[0].updates == 3
    assert same_bits(other.state_dict(), model.state_dict())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("best_epoch", "advice"), [(4.0, "; still improving: try --epochs 8"), (3.5, ""), (1.0, "")])
def test_a_run_whose_last_evaluation_was_the_best_advises_more_epochs(best_epoch: float, advice: str):
    state = TrainState(updates=1200, best_epoch=best_epoch, seconds=2.0)
    line = f"epoch {best_epoch:g} (by validation loss); 1,200 updates in 2.0 s"
    assert state.describe_best("loss", epochs=4) == line + advice


def test_without_a_checkpoint_the_run_is_new(tmp_path):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert load_checkpoint(tmp_path, model, [], NO_SCALING) == (TrainState(), None)
    assert same_bits(model.state_dict(), before)


@pytest.mark.parametrize(("before", "now"), [(torch.float16, torch.float32), (torch.float32, torch.float16)])
def test_a_run_with_loss_scaling_is_not_resumed_without_it_nor_the_reverse(tmp_path, before, now):
    train(tmp_path, dtype=before)
    with pytest.raises(UserError, match=r"checkpoint\.pt: trained with .*fp16.*resume with the same --prec") as error:
        train(tmp_path, dtype=now)
    assert "\n" not in str(error.value)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    save_checkpoint(tmp_path, TrainState(updates=1), model, [], NO_SCALING, None)

    def write_half(state: dict, path: Path) -> None:
        path.write_bytes(b"half a checkpoint")
        raise RuntimeError("unexpected pos 64 vs 0")  # how torch reports a full disk

    monkeypatch.setattr(checkpoint.torch, "save", write_half)
    with pytest.raises(OSError, match="is the disk full"):
        save_checkpoint(tmp_path, TrainState(updates=2), model, [], NO_SCALING, None)
    assert load_checkpoint(tmp_path, model, [], NO_SCALING)[0].updates == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_corrupt_checkpoint_is_refused_in_one_line(tmp_path, size: int):
    model = nn.Linear(2, 2)
    save_checkpoint(tmp_path, TrainState(), model, [], NO_SCALING, None)
    os.truncate(tmp_path / "checkpoint.pt", size)
    with pytest.raises(UserError, match=r"checkpoint\.pt: corrupt.*without --resume") as error:
        load_checkpoint(tmp_path, model, [], NO_SCALING)
    assert "\n" not in str(error.value)


# Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_delayed_and_the_second_stops_at_once(number: int):
    with DelayedInterrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_the_handlers_of_the_program_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError), DelayedInterrupt():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_signals_are_not_handled():
    """Only the main thread of Python may set handlers."""
    requested = []

    def run() -> None:
        with DelayedInterrupt() as interrupt:
            requested.append(interrupt.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert requested == [False]
