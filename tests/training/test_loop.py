"""Proves that an update sees its window as one batch however it is cut up, that what is not finite never reaches the
weights, that the best check's weights come back, and that options which contradict each other are refused.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from minitext.data.batching import Batch, PackCollator, epoch_batches
from minitext.data.tokenizer import TokenizedTexts
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training import loop
from minitext.training.checkpoint import NAME, TrainState, read
from minitext.training.device import pick_precision
from minitext.training.distributed import SINGLE, Distributed
from minitext.training.loop import (
    TrainConfig,
    class_weights_of,
    classification_metrics,
    fit,
    predict_logits,
    split_windows,
)
from minitext.training.optim import build_optimizers, lr_factor
from minitext.training.step import IGNORE_INDEX, Step, step_with_oom_retry, train_step
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog

CPU = torch.device("cpu")
VOCABULARY = 12
OFF = GradScaler("cpu", enabled=False)
SMALL = TrainConfig(epochs=3, batch_size=4, lr=0.05, warmup=0.0, schedule="constant")
NEVER_CLIP = 1e9


def texts(count: int, classes: int = 2, seed: int = 0) -> PackCollator:
    """Texts of 1 to 6 random tokens with random labels: nothing to learn but by heart."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count,), generator=generator)
    ids = torch.randint(1, VOCABULARY, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return PackCollator(TokenizedTexts(ids, F.pad(lengths.cumsum(0), (1, 0))), labels, pad=0)


def opposite(data: PackCollator) -> PackCollator:
    """The same texts, each with the other of two labels: what fits `data` well fits this badly."""
    return dataclasses.replace(data, labels=1 - data.labels)


def network(classes: int = 2, dropout: float = 0.0, seed: int = 0) -> EmbeddingBagClassifier:
    torch.manual_seed(seed)
    return EmbeddingBagClassifier(VOCABULARY, classes, NetworkConfig(width=8, hidden=8, dropout=dropout))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def train(
    folder: Path,
    options: TrainConfig = SMALL,
    data: PackCollator | None = None,
    valid: PackCollator | None = None,
    model: nn.Module | None = None,
    say: Callable[[str], None] = lambda line: None,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[nn.Module, TrainState]:
    """`fit` on a few texts, validated on themselves if nothing else is given."""
    data = data or texts(10)
    model = model or network()
    progress = fit(model, data, valid or data, options, seed, CPU, precision, folder, say, quiet=True)
    return model, progress


def updates_of(folder: Path) -> list[dict]:
    return [row for row in MetricsLog(folder / "metrics.jsonl").rows() if "rate" in row]


def checks_of(folder: Path) -> list[dict]:
    return [row for row in MetricsLog(folder / "metrics.jsonl").rows() if "valid" in row]


# One update


def gradients(
    model: nn.Module, window: Sequence[Batch], class_weights: Tensor, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """What a step leaves in `grad`, at a rate of zero and without clipping."""
    optimizers = build_optimizers(model, "adam", 0.0, 0.0)
    train_step(model, window, optimizers, OFF, torch.float32, NEVER_CLIP, class_weights, smoothing)
    return {name: parameter.grad.to_dense() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_micro_batches_give_the_gradient_of_their_union(micro_batch_size: int, balanced: bool, smoothing: float):
    data, model = texts(10, classes=3), network(classes=3).double()
    class_weights = torch.tensor([0.5, 1, 2]) if balanced else torch.ones(3)
    pieces = [data(rows) for rows in split_windows([np.arange(10)], micro_batch_size)[0]]
    found = gradients(model, pieces, class_weights, smoothing)
    model.zero_grad()
    whole = data(range(10))
    # the loop computes the loss in float32, from logits of float64: 1e-7 of gradients below 1
    F.cross_entropy(
        model(whole.ids, whole.mask).float(), whole.labels, class_weights, label_smoothing=smoothing
    ).backward()
    for name, parameter in model.named_parameters():
        assert (found[name] - parameter.grad.to_dense()).abs().max() < 1e-7, name
        assert found[name].abs().max() > 1e-3, name  # the case tells: there is a gradient


def test_the_mean_of_the_micro_batches_means_would_be_another_gradient():
    data, model = texts(10), network()
    pieces = [data(rows) for rows in split_windows([np.arange(10)], 4)[0]]  # of 4, 4 and 2 texts
    found = gradients(model, pieces, torch.ones(2))
    model.zero_grad()
    for piece in pieces:
        (F.cross_entropy(model(piece.ids, piece.mask), piece.labels) / len(pieces)).backward()
    assert (found["output.weight"] - model.output.weight.grad).abs().max() > 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_step_s_loss_is_the_weighted_mean_over_the_window(smoothing: float):
    data, model, class_weights = texts(10, classes=3), network(classes=3), torch.tensor([0.5, 1, 2])
    whole = data(range(10))
    expected = F.cross_entropy(
        model(whole.ids, whole.mask), whole.labels, class_weights, label_smoothing=smoothing
    ).item()
    pieces = [data(rows) for rows in split_windows([np.arange(10)], 3)[0]]
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    step = train_step(model, pieces, optimizers, OFF, torch.float32, 1.0, class_weights, smoothing)
    assert step.loss == pytest.approx(expected, abs=1e-6)  # float32


def test_the_step_counts_the_texts_that_were_right_before_it():
    data, model = texts(10), network()
    whole = data(range(10))
    right = int((model(whole.ids, whole.mask).argmax(dim=1) == whole.labels).sum())
    pieces = [data(rows) for rows in split_windows([np.arange(10)], 4)[0]]
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    assert train_step(model, pieces, optimizers, OFF, torch.float32, 1.0, torch.ones(2)).correct == right
    assert 0 < right < 10


def test_a_window_is_cut_into_micro_batches_with_a_short_last_one():
    pieces = split_windows([np.arange(5), np.arange(5, 7)], 2)
    assert [[rows.tolist() for rows in window] for window in pieces] == [[[0, 1], [2, 3], [4]], [[5, 6]]]


def test_without_a_micro_batch_a_window_is_one_piece():
    assert [[rows.tolist() for rows in window] for window in split_windows([np.arange(3)], None)] == [[[0, 1, 2]]]


def test_the_gradient_is_clipped_and_its_norm_before_is_returned():
    data, model = texts(8), network()
    optimizers = build_optimizers(model, "adam", 0.0, 0.0)
    step = train_step(model, [data(range(8))], optimizers, OFF, torch.float32, 1e-3, torch.ones(2))
    norms = torch.stack([parameter.grad.to_dense().norm() for parameter in model.parameters()])
    assert step.norm > 0.01
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)  # torch adds 1e-6 to the norm that it divides by


# Labels that do not count


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_text_without_a_label_counts_in_nothing(balanced: bool, smoothing: float):
    data = texts(10, classes=3)
    class_weights = torch.tensor([0.5, 1, 2]) if balanced else torch.ones(3)
    whole = data(range(10))
    hidden = whole._replace(labels=torch.where(torch.arange(10) % 3 == 0, IGNORE_INDEX, whole.labels))
    kept = [row for row in range(10) if row % 3]
    steps, found = [], []
    for window in ([hidden], hidden.split(1), [data(kept)]):  # alone in a micro-batch as well
        model = network(classes=3).double()
        optimizers = build_optimizers(model, "adam", 0.0, 0.0)
        steps.append(train_step(model, window, optimizers, OFF, torch.float32, NEVER_CLIP, class_weights, smoothing))
        found.append({name: parameter.grad.to_dense() for name, parameter in model.named_parameters()})
    for step, gradient in zip(steps[:2], found[:2], strict=True):
        assert (step.correct, step.labels) == (steps[2].correct, 6)
        assert step.loss == pytest.approx(steps[2].loss, abs=1e-6)  # float32
        for name in gradient:
            assert (gradient[name] - found[2][name]).abs().max() < 1e-7, name  # the loss is in float32, gradients < 1


# Too little memory


class Cramped(nn.Module):
    """A network that a batch of more than `room` texts is too much for; it notes the sizes of the batches."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inside, self.room, self.sizes = network().double(), room, []

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(len(ids))
            if len(ids) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inside(ids, mask)


def test_a_batch_that_is_too_large_is_halved_until_it_fits_and_the_update_stays_the_same(tmp_path):
    lines: list[str] = []
    for name in ("cramped", "roomy"):
        (tmp_path / name).mkdir()
    data, options = texts(20), dataclasses.replace(SMALL, batch_size=10, epochs=2)
    cramped, _ = train(tmp_path / "cramped", options, data, model=Cramped(3), say=lines.append)
    roomy, _ = train(tmp_path / "roomy", options, data, model=Cramped(100))
    for name, tensor in weights_of(roomy).items():
        # in float64; Adam and its divisions amplify what the float32 loss leaves
        assert (cramped.state_dict()[name] - tensor).abs().max() < 1e-6, name
    assert cramped.sizes == [10, 5, *[2] * 5 * 4]  # found once, kept for the three updates that follow
    assert [line for line in lines if "memory" in line] == [
        f"out of GPU memory: going on with --micro-batch-size {limit}, the update stays the same" for limit in (5, 2)
    ]


def test_memory_that_runs_out_in_the_middle_of_a_window_leaves_no_gradient_behind(tmp_path):
    """The first piece's gradient is there already when the second one fails."""
    data = texts(10)
    window, model = [data(range(3)), data(range(3, 10))], Cramped(4)
    optimizers = build_optimizers(model, "adam", 0.0, 0.0)

    def step(parts: list[Batch]) -> Step:
        return train_step(model, parts, optimizers, OFF, torch.float32, NEVER_CLIP, torch.ones(2))

    _, limit = step_with_oom_retry(step, window, 10, SINGLE, lambda line: None)
    assert (limit, model.sizes) == (3, [3, 7, 3, 3, 3, 1])
    expected = gradients(network().double(), [data(range(10))], torch.ones(2))
    for name, parameter in model.inside.named_parameters():
        assert (parameter.grad.to_dense() - expected[name]).abs().max() < 1e-7, name  # a float32 loss


@pytest.mark.parametrize("enabled", [False, True])
def test_memory_that_runs_out_in_the_optimizer_is_tried_again_with_half(monkeypatch, enabled: bool):
    """The moments are made in the first step: there the memory may end as well."""
    data, model, plain = texts(8), network(), network()
    scaler = GradScaler("cpu", init_scale=1024.0, enabled=enabled)
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    real, calls = optimizers[0].step, []

    def failing_once() -> None:
        calls.append(0)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real()

    monkeypatch.setattr(optimizers[0], "step", failing_once)
    step, limit = step_with_oom_retry(
        lambda parts: train_step(model, parts, optimizers, scaler, torch.float32, 1.0, torch.ones(2)),
        [data(range(8))], 8, SINGLE, lambda line: None,
    )  # fmt: skip
    assert (step.stepped, limit) == (True, 4)
    train_step(plain, [data(range(8))], build_optimizers(plain, "adam", 0.1, 0.0), OFF, torch.float32, 1.0,
               torch.ones(2))  # fmt: skip
    for name, tensor in weights_of(plain).items():
        assert (model.state_dict()[name] - tensor).abs().max() < 1e-5, name  # float32 sums in another order


def test_one_text_that_is_too_much_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="with 1 texts at once; lower --micro-batch-size or --max-length"):
        train(tmp_path, model=Cramped(0))


def test_in_a_team_memory_that_runs_out_ends_the_run_since_the_others_cannot_be_told():
    def step(parts: list[Batch]) -> Step:
        raise torch.OutOfMemoryError("CUDA out of memory")

    lines: list[str] = []
    with pytest.raises(UserError, match="with 4 texts at once; lower --micro-batch-size"):
        step_with_oom_retry(step, texts(4)(range(4)).split(9), 8, Distributed(0, 2), lines.append)
    assert not lines


def test_other_errors_than_memory_s_are_not_tried_again():
    calls = []

    def step(parts: list[Batch]) -> Step:
        calls.append(0)
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        step_with_oom_retry(step, texts(4)(range(4)).split(9), 8, SINGLE, lambda line: None)
    assert len(calls) == 1


@pytest.mark.parametrize("most", [1, 3, 4, 10, 11])
def test_a_batch_is_split_into_pieces_with_its_texts_in_their_order(most: int):
    whole = texts(10)(range(10))
    pieces = whole.split(most)
    assert all(len(piece.rows) <= most for piece in pieces)
    assert len(pieces) == math.ceil(10 / most)
    for place, tensor in enumerate(whole):
        assert torch.equal(torch.cat([piece[place] for piece in pieces]), tensor)


# Overflows and losses that are not finite


def with_infinite_gradient(model: nn.Module, parameter: Tensor) -> None:
    parameter.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("layer", ["output", "hidden"])
def test_an_overflow_leaves_all_weights_alone_and_halves_the_scale(layer: str):
    data, model, scaler = texts(8), network(), GradScaler("cpu", init_scale=1024.0)
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    window = [data(range(8))]
    good = train_step(model, window, optimizers, scaler, torch.float32, 1.0, torch.ones(2))  # there are moments now
    before = weights_of(model)
    with_infinite_gradient(model, getattr(model, layer).bias)
    step = train_step(model, window, optimizers, scaler, torch.float32, 1.0, torch.ones(2))
    assert (good.stepped, step.stepped) == (True, False)
    assert same(weights_of(model), before)
    assert scaler.get_scale() == 512


def test_scaling_the_loss_does_not_change_the_update():
    data, scaled, plain = texts(8), network(), network()
    for model, scaler in ((scaled, GradScaler("cpu", init_scale=1024.0)), (plain, OFF)):
        optimizers = build_optimizers(model, "adam", 0.1, 0.0)
        train_step(model, [data(range(8))], optimizers, scaler, torch.float32, 1e-3, torch.ones(2))
    assert same(weights_of(scaled), weights_of(plain))  # a power of two: exact


def test_an_overflow_does_not_advance_the_schedule(tmp_path, monkeypatch):
    real, calls = loop.train_step, []

    def skipping_the_second(*arguments) -> Step:
        calls.append(len(calls))
        step = real(*arguments)
        return step._replace(stepped=False) if len(calls) == 2 else step

    monkeypatch.setattr(loop, "train_step", skipping_the_second)
    options = dataclasses.replace(SMALL, epochs=1, warmup=3, schedule="linear")
    _, progress = train(tmp_path, options, texts(16))  # four windows
    assert progress.updates == 3
    shares = [lr_factor(update, 4, 3, "linear") for update in (0, 1, 1, 2)]
    assert [row["rate"] / SMALL.lr for row in updates_of(tmp_path)] == pytest.approx(shares)
    assert [row["update"] for row in updates_of(tmp_path)] == [1, 1, 2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_raises_before_any_weight_changes(value: float):
    data, model = texts(8), network()
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    train_step(model, [data(range(8))], optimizers, OFF, torch.float32, 1.0, torch.ones(2))
    with torch.no_grad():
        model.output.bias[0] = value
    before = model.embedding.weight.clone(), model.hidden.weight.clone()
    with pytest.raises(FloatingPointError, match="the loss is"):
        train_step(model, [data(range(8))], optimizers, OFF, torch.float32, 1.0, torch.ones(2))
    assert torch.equal(model.embedding.weight, before[0])
    assert torch.equal(model.hidden.weight, before[1])


def test_a_gradient_that_is_not_finite_raises_before_any_weight_changes():
    data, model = texts(8), network()
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    with_infinite_gradient(model, model.output.bias)
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="norm"):
        train_step(model, [data(range(8))], optimizers, OFF, torch.float32, 1.0, torch.ones(2))
    assert same(weights_of(model), before)


def failing_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    real, calls = loop.train_step, []

    def step(*arguments) -> Step:
        calls.append(0)
        if len(calls) == update:
            raise FloatingPointError("the loss is nan")
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", step)


def test_fit_names_the_place_of_a_loss_that_is_not_finite_and_the_remedy(tmp_path, monkeypatch):
    failing_at(monkeypatch, 5)  # 3 windows an epoch: the second of the second
    with pytest.raises(UserError) as caught:
        train(tmp_path)
    for part in ("epoch 2", "update 5", "rate 5.00e-02", "the loss is nan", "--lr", str(tmp_path / NAME)):
        assert part in str(caught.value)


def test_fit_leaves_the_last_checkpoint_when_the_loss_is_not_finite(tmp_path, monkeypatch):
    failing_at(monkeypatch, 5)
    with pytest.raises(UserError):
        train(tmp_path)
    progress = read(tmp_path / NAME)["progress"]
    assert (progress["epoch"], progress["window"], progress["updates"]) == (1, 0, 3)


def test_a_failure_before_the_first_checkpoint_names_no_checkpoint(tmp_path, monkeypatch):
    failing_at(monkeypatch, 1)
    with pytest.raises(UserError) as caught:
        train(tmp_path)
    assert NAME not in str(caught.value)


# What is kept


@pytest.mark.parametrize("by", ["accuracy", "macro_f1", "loss"])
def test_the_best_check_s_weights_come_back(tmp_path, by: str):
    data = texts(12, seed=3)
    options = dataclasses.replace(SMALL, epochs=6, select_by=by)
    model, progress = train(tmp_path, options, data, opposite(data))
    scores = [-row["valid"][by] if by == "loss" else row["valid"][by] for row in checks_of(tmp_path)]
    assert max(scores) > scores[-1] + 0.05  # the case tells: the last check is clearly worse
    assert progress.best_epoch == scores.index(max(scores)) + 1
    kept = classification_metrics(predict_logits(model, opposite(data), 4, CPU, torch.float32), opposite(data).labels)
    assert (-kept[by] if by == "loss" else kept[by]) == max(scores)


def test_of_equal_checks_the_first_is_the_best(tmp_path):
    data = texts(8)
    train(tmp_path, dataclasses.replace(SMALL, epochs=30), data)
    rows = checks_of(tmp_path)
    assert rows[-1]["valid"]["accuracy"] == rows[-2]["valid"]["accuracy"]  # the case tells: there are equal ones
    best_so_far = -1.0
    for row in rows:
        assert row["best"] == (row["valid"]["accuracy"] > best_so_far)
        best_so_far = max(best_so_far, row["valid"]["accuracy"])


def test_training_stops_after_patience_checks_without_a_better_one(tmp_path):
    data = texts(12, seed=3)
    options = dataclasses.replace(SMALL, epochs=100, select_by="loss", patience=2)
    _, progress = train(tmp_path, options, data, opposite(data))
    assert len(checks_of(tmp_path)) == progress.best_epoch + 2 < 100


def test_patience_also_ends_in_mid_epoch(tmp_path):
    data = texts(40, seed=3)
    options = dataclasses.replace(SMALL, epochs=100, select_by="loss", patience=2, eval_every=3)
    train(tmp_path, options, data, opposite(data))
    rows = checks_of(tmp_path)
    assert [row["best"] for row in rows[-3:]] == [True, False, False]
    assert rows[-1]["epoch"] != int(rows[-1]["epoch"])


def test_checks_come_every_so_many_updates_and_at_the_end_of_an_epoch(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=2, eval_every=2), texts(18))  # five windows an epoch
    rows = checks_of(tmp_path)
    assert [row["update"] for row in rows] == [2, 4, 5, 7, 9, 10]
    assert [row["epoch"] for row in rows] == pytest.approx([0.4, 0.8, 1, 1.4, 1.8, 2])


def test_a_check_that_falls_on_the_end_of_an_epoch_is_made_once(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=2, eval_every=2), texts(16))
    assert [row["update"] for row in checks_of(tmp_path)] == [2, 4, 6, 8]


# The whole loop


def test_twenty_updates_overfit_eight_examples(tmp_path):
    data = texts(8)
    model, progress = train(tmp_path, dataclasses.replace(SMALL, epochs=20, batch_size=8), data)
    assert progress.updates == 20
    assert classification_metrics(predict_logits(model, data, 8, CPU, torch.float32), data.labels)["accuracy"] == 1
    assert updates_of(tmp_path)[-1]["loss"] < 0.1  # chance: log 2 = 0.69


def test_each_window_of_one_text_is_an_update(tmp_path):
    _, progress = train(tmp_path, dataclasses.replace(SMALL, batch_size=1, epochs=1), texts(5))
    assert (progress.updates, len(updates_of(tmp_path))) == (5, 5)


def test_most_tokens_of_a_batch_make_more_updates(tmp_path):
    data = texts(10)
    _, progress = train(tmp_path, dataclasses.replace(SMALL, epochs=1, max_tokens_per_batch=6), data)
    assert progress.updates == len(epoch_batches(data.data.lengths().numpy(), 4, 0, 0, 6)) > 3


def test_micro_batches_leave_the_trained_weights_as_they_are(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, _ = train(tmp_path / "whole")
    cut, _ = train(tmp_path / "cut", dataclasses.replace(SMALL, micro_batch_size=3))
    for name, tensor in weights_of(whole).items():
        # float32 sums in another order; Adam divides a gradient near zero by its own size, so 1e-4 of weights near 0.5
        assert (cut.state_dict()[name] - tensor).abs().max() < 1e-4, name


def run_in(folder: Path, **changes) -> dict[str, Tensor]:
    """The weights after a run with dropout, in a folder of its own; `seed` and options may differ."""
    folder.mkdir()
    seed = changes.pop("seed", 0)
    options = dataclasses.replace(SMALL, **changes)
    return weights_of(train(folder, options, model=network(dropout=0.5, seed=seed), seed=seed)[0])


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first = run_in(tmp_path / "a")
    assert same(first, run_in(tmp_path / "b"))


def test_another_seed_gives_other_weights(tmp_path):
    first = run_in(tmp_path / "a")
    assert not same(first, run_in(tmp_path / "b", seed=1))


def test_checks_leave_the_order_of_batches_and_dropout_alone(tmp_path):
    run_in(tmp_path / "a")
    run_in(tmp_path / "b", eval_every=1)
    assert updates_of(tmp_path / "a") == updates_of(tmp_path / "b")
    assert len(checks_of(tmp_path / "b")) > len(checks_of(tmp_path / "a"))


def test_half_precision_trains(tmp_path):
    data = texts(8)
    options = dataclasses.replace(SMALL, epochs=20, batch_size=8)
    model, _ = train(tmp_path, options, data, precision=torch.bfloat16)
    assert classification_metrics(predict_logits(model, data, 8, CPU, torch.bfloat16), data.labels)["accuracy"] == 1
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


# The journal and the account


def test_an_update_s_row_holds_its_number_loss_rate_and_norm(tmp_path):
    train(tmp_path, dataclasses.replace(SMALL, epochs=1, warmup=1), texts(10))
    rows = updates_of(tmp_path)
    assert [set(row) for row in rows] == [{"update", "loss", "rate", "norm"}] * 3
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert [row["rate"] for row in rows] == pytest.approx([0.025, 0.05, 0.05])
    assert all(row["norm"] > 0 for row in rows)


def test_a_check_s_row_holds_the_means_over_the_epoch_s_texts(tmp_path):
    data = texts(10)  # windows of 4, 4 and 2 texts
    train(tmp_path, dataclasses.replace(SMALL, epochs=2), data)
    for epoch, row in enumerate(checks_of(tmp_path)):
        sizes = [len(rows) for rows in epoch_batches(data.data.lengths().numpy(), 4, 0, epoch)]
        assert sorted(sizes) == [2, 4, 4]
        losses = [update["loss"] for update in updates_of(tmp_path)[3 * epoch : 3 * epoch + 3]]
        assert row["train"]["loss"] == pytest.approx(np.dot(losses, sizes) / 10)
        assert set(row) == {"epoch", "update", "train", "valid", "best"}
        assert set(row["valid"]) == {"loss", "accuracy", "macro_f1"}


def test_a_check_is_told_in_one_line(tmp_path):
    lines: list[str] = []
    train(tmp_path, dataclasses.replace(SMALL, epochs=2), say=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1: train loss ")
    assert lines[0].endswith("(best so far)")


# Evaluation


def test_logits_come_in_the_texts_own_order_whatever_the_batch():
    data, model = texts(11), network().eval()
    alone = torch.cat([model(*data([row])[:2]) for row in range(11)]).detach()
    for batch in (1, 3, 11, 64):
        assert (predict_logits(model, data, batch, CPU, torch.float32) - alone).abs().max() < 1e-6  # float32


@pytest.mark.parametrize(
    "options", [NetworkConfig(8, 8), NetworkConfig(8, 8, ngrams=3, buckets=50, binary_counts=True)]
)
def test_padding_does_not_change_the_logits(options: NetworkConfig):
    data, model = texts(9), EmbeddingBagClassifier(VOCABULARY, 2, options).eval()
    padded = dataclasses.replace(data, length=20)
    short, long = data(range(9)), padded(range(9))
    assert long.ids.shape == (9, 20)
    assert (model(short.ids, short.mask) - model(long.ids, long.mask)).abs().max() < 1e-6  # float32


def test_evaluation_turns_dropout_off():
    data, model = texts(9), network(dropout=0.9).train()
    logits = [predict_logits(model, data, 4, CPU, torch.float32) for _ in range(2)]
    assert torch.equal(*logits)


def test_validation_by_hand():
    logits = torch.tensor([[0.0, 0], [0, 1], [0, 1]])  # class 0, 1, 1
    scores = classification_metrics(logits, torch.tensor([0, 1, 0]))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx(2 / 3)  # each class: precision and recall 1 and 1/2, in either order
    e = math.e
    assert scores["loss"] == pytest.approx((math.log(2) + math.log(1 + 1 / e) + math.log(1 + e)) / 3)


# Class weights


def test_balanced_weights_by_hand():
    train_labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert class_weights_of(train_labels, train_labels, "balanced").tolist() == pytest.approx([6 / 9, 6 / 6, 6 / 3])


def test_equal_weights_are_ones():
    assert class_weights_of(torch.tensor([0, 0, 1]), torch.tensor([2]), "equal").tolist() == [1, 1, 1]


def test_a_class_that_train_lacks_has_a_finite_weight():
    weights = class_weights_of(torch.tensor([0, 0, 1]), torch.tensor([2]), "balanced")
    assert weights.tolist() == pytest.approx([3 / 6, 3 / 3, 3 / 3])


def test_balanced_weights_are_used_in_training(tmp_path):
    data = dataclasses.replace(texts(10), labels=torch.tensor([0] * 8 + [1] * 2))
    first = {}
    for how in ("equal", "balanced"):
        (tmp_path / how).mkdir()
        train(tmp_path / how, dataclasses.replace(SMALL, batch_size=10, epochs=1, class_weights=how), data)
        first[how] = updates_of(tmp_path / how)[0]["loss"]
    whole, model = data(range(10)), network()
    weights = torch.tensor([10 / 16, 10 / 4])
    expected = F.cross_entropy(model(whole.ids, whole.mask), whole.labels, weights).item()
    assert first["balanced"] == pytest.approx(expected, abs=1e-6)  # float32
    assert abs(first["equal"] - expected) > 1e-4


# Options


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
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
    ],
)
def test_settings_that_cannot_train_are_refused(wrong: dict):
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}"):
        TrainConfig(**wrong)


@pytest.mark.parametrize("name", ["lr", "max_grad_norm", "warmup", "weight_decay", "label_smoothing"])
def test_settings_that_are_no_number_are_refused(name: str):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} nan"):
        TrainConfig(**{name: math.nan})


def test_a_micro_batch_beyond_the_batch_is_refused_with_both_values():
    with pytest.raises(UserError, match="--micro-batch-size 8: more than --batch-size 4"):
        TrainConfig(batch_size=4, micro_batch_size=8)


# Precision


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_named_precision_is_taken_as_it_is(name: str, dtype: torch.dtype):
    assert pick_precision(name, CPU) == dtype


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_without_cuda_the_automatic_precision_is_float32(kind: str):
    assert pick_precision("auto", torch.device(kind)) == torch.float32


@pytest.mark.parametrize(("computes_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_on_cuda_the_automatic_precision_is_what_the_card_computes_in(monkeypatch, computes_bf16: bool, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes_bf16)
    assert pick_precision("auto", torch.device("cuda")) == dtype
