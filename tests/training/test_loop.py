"""The training loop: plan, schedule, evaluations, the best weights, the log, and the settings."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_factories import CPU, batch_of, evaluator, network, random_texts, same_bits, validate, weights_of

from minitext.data.batching import PackCollator, epoch_batches
from minitext.training import loop
from minitext.training.checkpoint import TrainState
from minitext.training.loop import TrainConfig, TrainLength, class_weights_of, fit, plan_steps
from minitext.training.optim import lr_factor
from minitext.training.step import StepResult
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog

SMALL = TrainConfig(epochs=3, batch_size=4, lr=0.05, warmup=0.0, schedule="constant")


def opposite(data: PackCollator) -> PackCollator:
    """The same texts, each with the other of two labels: a model that fits `data` is wrong on these."""
    return dataclasses.replace(data, labels=1 - data.labels)


def train(
    folder: Path,
    config: TrainConfig = SMALL,
    data: PackCollator | None = None,
    valid: PackCollator | None = None,
    model: nn.Module | None = None,
    log: Callable[[str], None] = lambda line: None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[nn.Module, TrainState]:
    """`fit` on a few texts; validation defaults to the training texts."""
    data, model = data or random_texts(10), model or network()
    folder.mkdir(exist_ok=True)
    weights = class_weights_of(data.labels, 2, config.class_weights)
    state = fit(
        model, data, evaluator(model, valid or data), config,
        seed=seed, device=CPU, dtype=dtype, run_dir=folder, class_weights=weights, log=log, quiet=True,
    )  # fmt: skip
    return model, state


def updates_of(folder: Path) -> list[dict]:
    return [row for row in MetricsLog(folder / "metrics.jsonl").rows() if "lr" in row]


def evaluations_of(folder: Path) -> list[dict]:
    return MetricsLog(folder / "metrics.jsonl").evaluations()


# The plan


def test_the_plan_holds_the_batches_of_each_epoch():
    lengths = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    plan = plan_steps(lengths, dataclasses.replace(SMALL, epochs=2), seed=7)
    assert plan.epochs == [0, 0, 0, 1, 1, 1]
    expected = [batch for epoch in (0, 1) for batch in epoch_batches(lengths, 4, 7, epoch)]
    assert [step.tolist() for step in plan.steps] == [batch.tolist() for batch in expected]


def test_the_plan_counts_epochs_in_fractions():
    plan = plan_steps(np.ones(18, dtype=int), dataclasses.replace(SMALL, epochs=2), seed=0)  # five updates per epoch
    assert [plan.epoch_after(step) for step in (1, 4, 5, 6, 10)] == pytest.approx([0.2, 0.8, 1, 1.2, 2])
    assert [step for step in range(1, 11) if plan.ends_epoch(step)] == [5, 10]
    assert [step for step in range(1, 11) if plan.evaluates_after(step, None)] == [5, 10]
    assert [step for step in range(1, 11) if plan.evaluates_after(step, 3)] == [3, 5, 6, 9, 10]


def test_a_warmup_longer_than_the_training_is_refused():
    with pytest.raises(UserError, match="--warmup 8 is more than the 6 updates"):
        plan_steps(np.ones(10, dtype=int), dataclasses.replace(SMALL, epochs=2, warmup=8), seed=0)


def test_each_batch_of_one_text_is_an_update(tmp_path):
    _, state = train(tmp_path, dataclasses.replace(SMALL, batch_size=1, epochs=1), random_texts(5))
    assert (state.updates, state.step, len(updates_of(tmp_path))) == (5, 5, 5)


def test_a_maximum_of_tokens_makes_more_updates(tmp_path):
    data = random_texts(10)
    _, state = train(tmp_path, dataclasses.replace(SMALL, epochs=1, max_tokens_per_batch=6), data)
    assert state.updates == len(epoch_batches(data.data.lengths().numpy(), 4, 0, 0, 6)) > 3


# Learning


def test_twenty_updates_overfit_eight_texts(tmp_path):
    data = random_texts(8)
    model, state = train(tmp_path, dataclasses.replace(SMALL, epochs=20, batch_size=8), data)
    assert state.updates == 20
    assert validate(model, data)["accuracy"] == 1
    assert updates_of(tmp_path)[-1]["loss"] < 0.1  # chance: log 2 = 0.69


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_overfits_eight_texts(tmp_path, dtype: torch.dtype):
    data = random_texts(8)
    model, _ = train(tmp_path, dataclasses.replace(SMALL, epochs=30, batch_size=8), data, dtype=dtype)
    assert validate(model, data, dtype)["accuracy"] == 1
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_micro_batches_do_not_change_the_trained_weights(tmp_path):
    whole, _ = train(tmp_path / "whole")
    split, _ = train(tmp_path / "split", dataclasses.replace(SMALL, micro_batch_size=3))
    for name, tensor in weights_of(whole).items():
        # float32 sums in another order; Adam divides a gradient near zero by its own size, so 1e-4 of weights near 0.5
        assert (split.state_dict()[name] - tensor).abs().max() < 1e-4, name


def run_with_dropout(folder: Path, seed: int = 0, **changes):
    """The weights after a run with dropout."""
    config = dataclasses.replace(SMALL, **changes)
    return weights_of(train(folder, config, model=network(dropout=0.5, seed=seed), seed=seed)[0])


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first = run_with_dropout(tmp_path / "a")
    assert same_bits(first, run_with_dropout(tmp_path / "b"))


def test_another_seed_gives_other_weights(tmp_path):
    first = run_with_dropout(tmp_path / "a")
    assert not same_bits(first, run_with_dropout(tmp_path / "b", seed=1))


def test_evaluations_change_neither_batch_order_nor_dropout(tmp_path):
    run_with_dropout(tmp_path / "a")
    run_with_dropout(tmp_path / "b", eval_every=1)
    assert updates_of(tmp_path / "a") == updates_of(tmp_path / "b")
    assert len(evaluations_of(tmp_path / "b")) > len(evaluations_of(tmp_path / "a"))


def test_balanced_class_weights_are_used_in_training(tmp_path):
    data = dataclasses.replace(random_texts(10), labels=torch.tensor([0] * 8 + [1] * 2))
    losses = {}
    for kind in ("equal", "balanced"):
        train(tmp_path / kind, dataclasses.replace(SMALL, batch_size=10, epochs=1, class_weights=kind), data)
        losses[kind] = updates_of(tmp_path / kind)[0]["loss"]
    batch = batch_of(data)
    expected = F.cross_entropy(network()(batch), batch.labels, torch.tensor([10 / 16, 10 / 4])).item()
    assert losses["balanced"] == pytest.approx(expected, abs=1e-6)  # float32
    assert abs(losses["equal"] - expected) > 1e-4


# Overflows and values that are not finite


def patch_step(monkeypatch: pytest.MonkeyPatch, number: int, change: Callable[[StepResult], StepResult]) -> None:
    """Apply `change` to the result of step `number` (from 1)."""
    train_step, calls = loop.train_step, []

    def step(*arguments, **settings) -> StepResult:
        calls.append(number)
        result = train_step(*arguments, **settings)
        return change(result) if len(calls) == number else result

    monkeypatch.setattr(loop, "train_step", step)


def not_finite(result: StepResult) -> StepResult:
    raise FloatingPointError("the loss is nan")


def test_a_skipped_update_does_not_advance_the_schedule(tmp_path, monkeypatch):
    patch_step(monkeypatch, 2, lambda result: result._replace(skipped=True, grad_norm=math.inf))
    config = dataclasses.replace(SMALL, epochs=1, warmup=3, schedule="linear")
    _, state = train(tmp_path, config, random_texts(16))  # four steps
    rows = updates_of(tmp_path)
    assert (state.step, state.updates) == (4, 3)
    factors = [lr_factor(update, 4, 3, "linear") for update in (0, 1, 1, 2)]
    assert [row["lr"] / SMALL.lr for row in rows] == pytest.approx(factors)
    assert [row["update"] for row in rows] == [1, 1, 2, 3]
    assert [row["grad_norm"] is None for row in rows] == [False, True, False, False]


def test_a_loss_that_is_not_finite_ends_the_run_with_place_and_remedy(tmp_path, monkeypatch):
    patch_step(monkeypatch, 5, not_finite)  # three updates per epoch
    with pytest.raises(UserError, match="^epoch 2, update 5, learning rate 5.00e-02: the loss is nan; lower --lr"):
        train(tmp_path)


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    patch_step(monkeypatch, 5, not_finite)
    with pytest.raises(UserError):
        train(tmp_path, dataclasses.replace(SMALL, save_every=0.0))
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["step"] == 4


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    model = network()
    with pytest.raises(UserError, match="epoch 1: the validation loss is nan; lower --lr"):
        fit(
            model, random_texts(10), lambda: {"loss": math.nan, "accuracy": 0.5}, SMALL,
            seed=0, device=CPU, dtype=torch.float32, run_dir=tmp_path, class_weights=torch.ones(2), quiet=True,
        )  # fmt: skip


# Evaluations and the best weights


@pytest.mark.parametrize("select_by", ["accuracy", "macro_f1", "loss"])
def test_the_weights_of_the_best_evaluation_are_returned(tmp_path, select_by: str):
    data = random_texts(12, seed=3)
    config = dataclasses.replace(SMALL, epochs=6, select_by=select_by)
    model, state = train(tmp_path, config, data, opposite(data))
    sign = -1 if select_by == "loss" else 1
    scores = [sign * row["valid"][select_by] for row in evaluations_of(tmp_path)]
    assert max(scores) > scores[-1] + 0.05  # the last evaluation is clearly worse
    assert state.best_epoch == scores.index(max(scores)) + 1
    assert sign * validate(model, opposite(data))[select_by] == max(scores) == state.best_score


@pytest.mark.parametrize(
    ("num_texts", "updates", "epochs"),
    [(64, 10, 10), (640, 30, 3), (640, 31, 4), (6400, 10, 3), (64, 21, 20), (1, 10, 20)],
)
def test_without_a_number_of_epochs_there_are_enough_for_the_updates(num_texts: int, updates: int, epochs: int):
    config = TrainConfig(batch_size=64)
    assert TrainLength(updates - 2, 1, 3, 20).fill(config, num_texts, num_classes=2).epochs == epochs
    given = dataclasses.replace(config, epochs=99)
    assert TrainLength(updates - 2, 1, 3, 20).fill(given, num_texts, num_classes=2).epochs == 99


def test_of_equal_evaluations_the_first_is_the_best(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=30, select_by="accuracy"), random_texts(8))
    rows = evaluations_of(tmp_path)
    assert rows[-1]["valid"]["accuracy"] == rows[-2]["valid"]["accuracy"]
    best = -1.0
    for row in rows:
        assert row["best"] == (row["valid"]["accuracy"] > best)
        best = max(best, row["valid"]["accuracy"])


def test_training_stops_after_patience_evaluations_without_improvement(tmp_path):
    data = random_texts(12, seed=3)
    config = dataclasses.replace(SMALL, epochs=100, select_by="loss", patience=2)
    _, state = train(tmp_path, config, data, opposite(data))
    assert len(evaluations_of(tmp_path)) == state.best_epoch + 2 < 100


def test_patience_can_end_within_an_epoch(tmp_path):
    data = random_texts(40, seed=3)
    config = dataclasses.replace(SMALL, epochs=100, select_by="loss", patience=2, eval_every=3)
    train(tmp_path, config, data, opposite(data))
    rows = evaluations_of(tmp_path)
    assert [row["best"] for row in rows[-3:]] == [True, False, False]
    assert rows[-1]["epoch"] != int(rows[-1]["epoch"])


def test_evaluations_follow_every_n_updates_and_each_epoch(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=2, eval_every=2), random_texts(18))  # five updates per epoch
    rows = evaluations_of(tmp_path)
    assert [row["update"] for row in rows] == [2, 4, 5, 6, 8, 10]
    assert [row["epoch"] for row in rows] == pytest.approx([0.4, 0.8, 1, 1.2, 1.6, 2])


def test_an_evaluation_at_the_end_of_an_epoch_happens_once(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=2, eval_every=2), random_texts(16))
    assert [row["update"] for row in evaluations_of(tmp_path)] == [2, 4, 6, 8]


# The log


def test_the_row_of_an_update_holds_number_loss_learning_rate_and_norm(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=1, warmup=1))
    rows = updates_of(tmp_path)
    assert [set(row) for row in rows] == [{"update", "loss", "lr", "grad_norm"}] * 3
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert [row["lr"] for row in rows] == pytest.approx([0.025, 0.05, 0.05])
    assert all(row["grad_norm"] > 0 for row in rows)


def test_with_label_smoothing_both_losses_are_logged_and_evaluations_hold_the_one_without(tmp_path):
    """The validation loss is not smoothed either, so that the two can be compared."""
    data = random_texts(8)
    config = dataclasses.replace(SMALL, epochs=30, batch_size=8, label_smoothing=0.2)
    train(tmp_path, config, data)
    rows, last = updates_of(tmp_path), evaluations_of(tmp_path)[-1]
    assert set(rows[-1]) == {"update", "loss", "smoothed_loss", "lr", "grad_norm"}
    assert rows[-1]["smoothed_loss"] > rows[-1]["loss"] + 0.1
    assert last["train"]["loss"] == pytest.approx(rows[-1]["loss"])
    assert abs(last["train"]["loss"] - last["valid"]["loss"]) < 0.02  # the same texts, without dropout, an update later


def test_the_row_of_an_evaluation_holds_the_means_over_the_texts_of_the_epoch(tmp_path):
    data = random_texts(10)  # updates of 4, 4 and 2 texts
    train(tmp_path, dataclasses.replace(SMALL, epochs=2), data)
    for epoch, row in enumerate(evaluations_of(tmp_path)):
        sizes = [len(batch) for batch in epoch_batches(data.data.lengths().numpy(), 4, 0, epoch)]
        assert sorted(sizes) == [2, 4, 4]
        losses = [update["loss"] for update in updates_of(tmp_path)[3 * epoch : 3 * epoch + 3]]
        assert row["train"]["loss"] == pytest.approx(np.dot(losses, sizes) / 10)
        assert row["train"]["accuracy"] * 10 == pytest.approx(round(row["train"]["accuracy"] * 10))
        assert set(row) == {"epoch", "update", "train", "valid", "best"}
        assert set(row["valid"]) == {"loss", "accuracy", "macro_f1"}


def test_each_evaluation_is_logged_in_one_line(tmp_path):
    lines: list[str] = []
    train(tmp_path, dataclasses.replace(SMALL, epochs=2), log=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1: train loss ") and lines[0].endswith("(best so far)")


# Class weights


def test_balanced_class_weights_by_hand():
    weights = class_weights_of(torch.tensor([0, 0, 0, 1, 1, 2]), 3, "balanced")
    assert weights.tolist() == pytest.approx([6 / 9, 6 / 6, 6 / 3])


def test_equal_class_weights_are_ones():
    assert class_weights_of(torch.tensor([0, 0, 1]), 3, "equal").tolist() == [1, 1, 1]


def test_a_class_without_training_texts_has_a_finite_weight():
    assert class_weights_of(torch.tensor([0, 0, 1]), 3, "balanced").tolist() == pytest.approx([3 / 6, 3 / 3, 3 / 3])


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"micro_batch_size": 0},
        {"max_tokens_per_batch": 0},
        {"eval_every": 0},
        {"patience": 0},
        {"lr": 0.0},
        {"max_grad_norm": -1.0},
        {"warmup": -0.1},
        {"weight_decay": -0.1},
        {"save_every": -1.0},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        *({name: math.nan} for name in ("lr", "max_grad_norm", "warmup", "weight_decay", "label_smoothing")),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=rf"--{name.replace('_', '-')} must be .* \(got {value}\)"):
        TrainConfig(**wrong)


def test_a_micro_batch_larger_than_the_batch_is_refused_with_both_values():
    with pytest.raises(UserError, match="--micro-batch-size 8 is more than --batch-size 4"):
        TrainConfig(batch_size=4, micro_batch_size=8)
