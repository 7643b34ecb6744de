"""A training state on disk is complete and whole: stopped after any update, a run ends with the same bits."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from minitext.training.interrupt import DelayedInterrupt
from torch import nn
from torch.amp import GradScaler

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training import checkpoint, loop
from minitext.training.checkpoint import NAME, TrainState, load_checkpoint, save_checkpoint
from minitext.training.optim import build_optimizers
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog

CPU = torch.device("cpu")
OPTIONS = loop.TrainConfig(epochs=2, batch_size=4, micro_batch_size=3, eval_every=2)  # 18 texts: 5 updates an epoch


def padder(texts: int = 18) -> PackCollator:
    lengths = [1 + i % 5 for i in range(texts)]
    ids = torch.arange(sum(lengths), dtype=torch.int32) % 11
    return PackCollator(TokenizedTexts(ids, torch.tensor([0, *lengths]).cumsum(0)), torch.arange(texts) % 2, 0)


def network() -> EmbeddingBagClassifier:
    torch.manual_seed(0)
    return EmbeddingBagClassifier(12, 2, NetworkConfig(width=4, hidden=4, dropout=0.5, ngrams=2, buckets=16))


def train(folder: Path, options: loop.TrainConfig = OPTIONS) -> dict[str, torch.Tensor]:
    model = network()
    loop.fit(model, padder(), padder(8), options, 0, CPU, torch.float32, folder, lambda line: None, quiet=True)
    return model.state_dict()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Send this process a real Ctrl-C in the middle of an update."""
    step, done = loop.train_step, []

    def interrupted(*arguments):
        done.append(1)
        if len(done) == update:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)


@pytest.mark.parametrize("update", range(1, 10))
def test_a_run_interrupted_after_any_update_ends_with_the_same_bits(tmp_path: Path, monkeypatch, update: int):
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, update)
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            train(tmp_path / "stopped")
    resumed = train(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_second_ctrl_c_stops_at_once():
    with DelayedInterrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_finished_training_is_not_repeated(tmp_path: Path, monkeypatch):
    weights = train(tmp_path)
    monkeypatch.setattr(loop, "train_step", lambda *arguments: pytest.fail("trained again"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in train(tmp_path).items())


def test_everything_that_the_next_step_depends_on_comes_back(tmp_path: Path):
    model, scaler = network(), GradScaler("cpu", enabled=True, init_scale=8.0)
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    loop.train_step(
        model, [padder(4)(range(4))], optimizers, GradScaler("cpu", enabled=False), torch.float32, 1.0, torch.ones(2)
    )
    progress = TrainState(
        epoch=3, window=2, updates=17, loss_sum=0.1, correct=5, seen=8, best_score=0.5, best_epoch=2.5
    )
    save_checkpoint(tmp_path, progress, model, optimizers, scaler)
    drawn = torch.rand(3)
    other = network()
    fresh, fresh_scaler = build_optimizers(other, "adam", 0.1, 0.0), GradScaler("cpu", enabled=True, init_scale=2.0)
    assert load_checkpoint(tmp_path, other, fresh, fresh_scaler) == progress
    assert torch.equal(torch.rand(3), drawn)  # the random state as well
    assert fresh_scaler.get_scale() == 8.0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    for before, after in zip(optimizers, fresh, strict=True):
        torch.testing.assert_close(after.state_dict()["state"], before.state_dict()["state"], rtol=0, atol=0)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch):
    model, scaler = nn.Linear(2, 2), GradScaler("cpu", enabled=False)
    save_checkpoint(tmp_path, TrainState(updates=1), model, [], scaler)

    def half(state: dict, path: Path) -> None:
        path.write_bytes(b"half a checkpoint")
        raise RuntimeError("unexpected pos 64 vs 0")  # torch's words for a full disk

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match="is the disk full"):
        save_checkpoint(tmp_path, TrainState(updates=2), model, [], scaler)
    assert load_checkpoint(tmp_path, model, [], scaler).updates == 1
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, size: int):
    model, scaler = nn.Linear(2, 2), GradScaler("cpu", enabled=False)
    save_checkpoint(tmp_path, TrainState(), model, [], scaler)
    os.truncate(tmp_path / NAME, size)
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged.*without --resume") as caught:
        load_checkpoint(tmp_path, model, [], scaler)
    assert "\n" not in str(caught.value)


def test_a_journal_is_cut_where_the_checkpoint_was(tmp_path: Path):
    journal = MetricsLog(tmp_path / "metrics.jsonl")
    journal.write({"update": 1})
    size = journal.flush()
    journal.write({"update": 2})
    journal.truncate(size)
    journal.write({"update": 3})
    assert journal.rows() == [{"update": 1}, {"update": 3}]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1]) == {"update": 3}
