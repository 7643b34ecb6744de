"""Fitting of the static classifiers: the logistic regression reaches scikit-learn's optimum, the MLP keeps the weights
of its best epoch.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minitext.evaluation.predict import classification_metrics
from minitext.models.static import EncodedTexts, LogisticRegression, MeanEncoder, StaticClassifier
from minitext.training import fit_static
from minitext.training.fit_static import (
    FitResult,
    LogisticConfig,
    MLPConfig,
    evaluate_parts,
    fit_logistic,
    fit_mlp,
    minimize_logistic,
    zero_logistic,
)
from minitext.training.loop import class_weights_of
from minitext.utils.errors import UserError

FAST = MLPConfig(hidden=32, dropout=0.0, lr=1e-2, weight_decay=0.0, batch_size=8, epochs=20, patience=20)


def examples(count: int, width: int, classes: int, seed: int) -> EncodedTexts:
    """Vectors around one center per class, so close to each other that no classifier separates them without errors."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(classes))
    return EncodedTexts(centers[labels] + torch.randn(count, width, generator=generator), labels)


def double(part: EncodedTexts) -> EncodedTexts:
    return EncodedTexts(part.vectors.double(), part.labels)


def minimize(part: EncodedTexts, classes: int, l2: float, iterations: int = 1000) -> FitResult:
    """`minimize_logistic` from zero; validation is the training data."""
    return minimize_from(zero_logistic(part.vectors.shape[1], classes).double(), double(part), l2, iterations)


def minimize_from(start: LogisticRegression, part: EncodedTexts, l2: float, iterations: int = 1000) -> FitResult:
    class_weights = torch.ones(max(start.output.out_features, 2), dtype=torch.float64)
    return minimize_logistic(start, part, part, l2, iterations, class_weights, classification_metrics)


def logistic_of(
    train: EncodedTexts, valid: EncodedTexts, classes: int, config: LogisticConfig, weights: Tensor | None = None,
    select_by: str = "loss",
) -> FitResult:  # fmt: skip
    weights = torch.ones(classes) if weights is None else weights
    how = {"class_weights": weights, "select_by": select_by, "evaluate": classification_metrics}
    return fit_logistic(train, valid, config, **how)


def mlp_of(
    train: EncodedTexts, valid: EncodedTexts, classes: int, config: MLPConfig, seed: int, quiet: bool = True,
    weights: Tensor | None = None, select_by: str = "loss",
) -> FitResult:  # fmt: skip
    weights = torch.ones(classes) if weights is None else weights
    how = {"class_weights": weights, "select_by": select_by, "evaluate": classification_metrics}
    return fit_mlp(train, valid, config, seed=seed, quiet=quiet, **how)


def swap_labels(part: EncodedTexts) -> EncodedTexts:
    """The same vectors, each with the other of two labels: what fits `part` well fits this badly."""
    return EncodedTexts(part.vectors, 1 - part.labels)


def weights_of(model: torch.nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Logistic regression


@pytest.mark.parametrize("classes", [2, 4])
def test_newton_and_lbfgs_find_the_same_optimum(monkeypatch, classes: int):
    train = examples(60, 4, classes, seed=0)
    by_newton = minimize(train, classes, l2=0.1)
    monkeypatch.setattr(fit_static, "NEWTON_MAX_PARAMETERS", 0)
    by_lbfgs = minimize(train, classes, l2=0.1)
    assert by_newton.step < by_lbfgs.step
    for ours, theirs in zip(weights_of(by_newton.model), weights_of(by_lbfgs.model), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)  # a gradient of 1e-7 over the smallest curvature, 0.1 / 60


@pytest.mark.parametrize("classes", [2, 3])
def test_more_dimensions_than_texts_converge(classes: int):
    fitted = minimize(examples(10, 40, classes, seed=0), classes, l2=1e-16)
    assert fitted.converged and fitted.history[-1]["train"]["accuracy"] == 1


@pytest.mark.parametrize("scale", [1e-4, 1e3, 1e7])
def test_vectors_of_any_scale_converge(scale: float):
    part = examples(60, 4, 3, seed=0)
    assert minimize(EncodedTexts(scale * part.vectors, part.labels), 3, l2=1.0).step < 20


def test_identical_columns_converge():
    part = examples(600, 4, 3, seed=0)
    assert minimize(EncodedTexts(1e5 * part.vectors[:, [0, 1, 2, 3] * 2], part.labels), 3, l2=1e-6).converged


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_without_training_texts_converges(classes: int):
    part = examples(30, 3, classes, seed=0)
    assert minimize(EncodedTexts(part.vectors, part.labels.clamp_max(classes - 2)), classes, l2=1.0).converged


def test_a_start_at_the_optimum_of_another_penalty_gives_the_same_optimum():
    train = double(examples(60, 4, 3, seed=0))
    start = minimize(train, 3, l2=1.0).model
    warm, cold = minimize_from(start, train, 0.1), minimize(train, 3, l2=0.1)
    assert warm.step < cold.step
    for ours, theirs in zip(weights_of(warm.model), weights_of(cold.model), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)  # a gradient of 1e-10 over the smallest curvature, 0.1 / 60


def test_each_penalty_starts_at_the_optimum_of_the_one_before():
    train = examples(60, 4, 3, seed=0)
    alone, after = (logistic_of(train, train, 3, LogisticConfig(l2=l2)) for l2 in ((0.1,), (1.0, 0.1)))
    assert alone.history[-1]["l2"] == after.history[-1]["l2"] == 0.1
    assert after.step < alone.step


def test_vectors_far_from_zero_cost_lbfgs_no_iterations_and_give_the_same_weights(monkeypatch):
    monkeypatch.setattr(fit_static, "NEWTON_MAX_PARAMETERS", 0)
    train = examples(60, 4, 3, seed=0)
    far = EncodedTexts(train.vectors + 8, train.labels)
    near, shifted = (logistic_of(part, part, 3, LogisticConfig(l2=(0.1,))) for part in (train, far))
    assert abs(near.step - shifted.step) <= 1  # the float32 vectors are rounded differently
    assert torch.allclose(near.model.output.weight, shifted.model.output.weight, atol=1e-5)  # float32
    assert torch.allclose(near.model(train.vectors), shifted.model(far.vectors), atol=1e-4)


def test_the_start_is_not_changed():
    train = double(examples(30, 3, 2, seed=0))
    start = zero_logistic(3, 2).double()
    minimize_from(start, train, 1.0, 5)
    assert not any(tensor.any() for tensor in weights_of(start))


def test_at_the_optimum_the_probabilities_sum_to_the_counts():
    train = examples(30, 3, 3, seed=0)
    model = minimize(train, 3, l2=1.0).model
    # biases are not penalized, so the gradient with respect to each is this difference
    assert model(train.vectors.double()).softmax(dim=1).sum(dim=0).tolist() == pytest.approx([10, 10, 10], abs=1e-8)


def test_the_last_row_of_the_history_is_the_returned_model():
    train = examples(30, 3, 2, seed=0)
    fitted = logistic_of(train, train, 2, LogisticConfig(l2=(1.0,)))
    assert [row["iteration"] for row in fitted.history] == list(range(1, fitted.step + 1))
    assert [row["iteration"] for row in fitted.history if row.get("best")] == [fitted.step]
    loss = F.cross_entropy(fitted.model(train.vectors), train.labels).item()
    assert fitted.history[-1]["train"]["loss"] == pytest.approx(loss, abs=1e-6)  # the returned model is float32


def test_iterations_are_limited():
    train = examples(30, 3, 2, seed=0)
    fitted = minimize(train, 2, l2=1.0, iterations=2)
    assert (len(fitted.history), fitted.converged) == (2, False)
    assert minimize(train, 2, l2=1.0).converged


def test_a_strong_penalty_is_chosen_where_validation_contradicts_training():
    train = examples(40, 3, 2, seed=0)
    fitted = logistic_of(train, swap_labels(train), 2, LogisticConfig(l2=(0.1, 100.0, 1.0)))
    assert fitted.history[-1]["l2"] == 100


def test_a_weak_penalty_is_chosen_where_validation_repeats_training():
    train = examples(40, 3, 2, seed=0)
    assert logistic_of(train, train, 2, LogisticConfig(l2=(1.0, 0.1, 100.0))).history[-1]["l2"] == 0.1


def test_the_chosen_penalty_has_the_lowest_validation_loss():
    train, valid = examples(20, 8, 3, seed=0), examples(200, 8, 3, seed=1)
    penalties = (0.1, 1.0, 10.0, 1000.0)
    fits = [logistic_of(train, valid, 3, LogisticConfig(l2=(l2,))) for l2 in penalties]
    each = [fit.history[-1]["valid"]["loss"] for fit in fits]
    chosen = logistic_of(train, valid, 3, LogisticConfig(l2=penalties)).history[-1]
    assert chosen["valid"]["loss"] == pytest.approx(min(each), abs=1e-9)
    assert 0 < penalties.index(chosen["l2"]) < len(penalties) - 1  # neither end of the list is the best


def test_a_fit_is_described_in_one_line_with_the_option_to_change_if_it_did_not_converge():
    train = examples(30, 3, 2, seed=0)
    fitted = logistic_of(train, train, 2, LogisticConfig(l2=(0.5,)))._replace(seconds=1.25)
    line = f"L2 0.5 (by validation loss), converged after {fitted.step} iterations; 1.2 s"
    assert fitted.describe("loss") == line
    cut = logistic_of(train, train, 2, LogisticConfig(l2=(0.5,), iterations=2))._replace(seconds=1)
    assert cut.describe("accuracy") == "L2 0.5 (by validation accuracy), not converged after 2 iterations; 1.0 s"
    assert cut.remedy() == "not converged after 2 iterations; pass more --iterations, or a larger --l2"
    options = dataclasses.replace(FAST, patience=2)
    fitted = mlp_of(train, swap_labels(train), 2, options, seed=0)._replace(seconds=2)
    line = f"epoch {fitted.step} of {fitted.step + 2} (by validation loss), stopped by --patience; 2.0 s"
    assert fitted.describe("loss") == line
    cut = mlp_of(train, train, 2, dataclasses.replace(FAST, epochs=3), seed=0)._replace(seconds=2)
    assert cut.describe("loss") == "epoch 3 of 3 (by validation loss), stopped by --epochs; 2.0 s"
    assert cut.remedy() == "may still improve (the best of 3 epochs was 3); pass more --epochs"


def test_a_class_weight_counts_as_so_many_copies_of_its_texts():
    train = examples(30, 3, 3, seed=0)
    copies = torch.tensor([1, 2, 5])[train.labels]
    repeated = EncodedTexts(train.vectors.repeat_interleave(copies, 0), train.labels.repeat_interleave(copies))
    config = LogisticConfig(l2=(0.5,))
    weighted = logistic_of(train, train, 3, config, torch.tensor([1.0, 2.0, 5.0])).model
    for ours, theirs in zip(
        weights_of(weighted), weights_of(logistic_of(repeated, train, 3, config).model), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)  # float32


def test_selection_by_accuracy_or_macro_f1_takes_the_best_of_that_score():
    train, valid = examples(20, 8, 3, seed=0), examples(200, 8, 3, seed=1)
    valid = EncodedTexts(valid.vectors[:140], valid.labels[:140].sort().values)  # labels that contradict the vectors
    penalties = (1000.0, 10.0, 1.0, 0.1, 0.01)
    rows = [logistic_of(train, valid, 3, LogisticConfig(l2=(l2,))).history[-1]["valid"] for l2 in penalties]
    chosen = {}
    for key in ("accuracy", "macro_f1"):
        chosen[key] = logistic_of(train, valid, 3, LogisticConfig(l2=penalties), select_by=key).history[-1]
        assert chosen[key]["valid"][key] == max(row[key] for row in rows)
    by_loss = logistic_of(train, valid, 3, LogisticConfig(l2=penalties)).history[-1]
    assert by_loss["l2"] != chosen["macro_f1"]["l2"]


@pytest.mark.parametrize(("wrong", "message"), [({"l2": (1.0, 0.0)}, "--l2"), ({"iterations": 0}, "--iterations")])
def test_logistic_settings_that_cannot_train_are_refused(wrong: dict, message: str):
    with pytest.raises(UserError, match=message):
        LogisticConfig(**wrong)


@pytest.mark.oracle
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("l2", [1.0, 0.1, 0.01])
def test_the_optimum_is_that_of_scikit_learn(classes: int, l2: float, balanced: bool):
    from sklearn.linear_model import LogisticRegression as Oracle
    from sklearn.metrics import log_loss

    train = examples(200, 6, classes, seed=0)
    kept = (train.labels > 0) | (torch.arange(200) < 60)  # class 0 is rare
    train = EncodedTexts(train.vectors[kept], train.labels[kept])
    weights = class_weights_of(train.labels, classes, "balanced" if balanced else "equal")
    model = logistic_of(train, train, classes, LogisticConfig(l2=(l2,)), weights).model
    inputs, labels = train.vectors.double().numpy(), train.labels.numpy()
    class_weight = "balanced" if balanced else None
    oracle = Oracle(C=1 / l2, tol=1e-10, solver="newton-cholesky", max_iter=1000, class_weight=class_weight)
    oracle.fit(inputs, labels)
    weight, bias = model.output.weight.detach().double().numpy(), model.output.bias.detach().double().numpy()
    # softmax: a constant in all biases is free
    shift = 0 if classes == 2 else oracle.intercept_.mean() - bias.mean()
    assert np.abs(weight - oracle.coef_).max() < 1e-5
    assert np.abs(bias - (oracle.intercept_ - shift)).max() < 1e-5
    ours = F.cross_entropy(model.double()(train.vectors.double()), train.labels, weights.double()).item()
    theirs = log_loss(labels, oracle.predict_proba(inputs), sample_weight=weights.double().numpy()[labels])
    assert abs(ours - theirs) < 1e-8


# MLP


def test_twenty_epochs_overfit_eight_examples():
    generator = torch.Generator().manual_seed(0)
    train = EncodedTexts(torch.randn(8, 6, generator=generator), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1]))
    model = mlp_of(train, train, 2, dataclasses.replace(FAST, lr=3e-2), seed=0, quiet=True).model
    assert model(train.vectors).argmax(dim=1).tolist() == train.labels.tolist()
    assert F.cross_entropy(model(train.vectors), train.labels).item() < 0.05  # chance: log 2 = 0.69


def test_the_weights_of_the_best_epoch_are_returned():
    train, valid = examples(16, 6, 2, seed=0), examples(200, 6, 2, seed=1)  # too few texts: it overfits
    options = dataclasses.replace(FAST, epochs=30, patience=30, lr=3e-2)
    fitted = mlp_of(train, valid, 2, options, seed=0, quiet=True)
    by_epoch = [row["valid"]["loss"] for row in fitted.history]
    assert len(by_epoch) == 30
    assert min(by_epoch) < by_epoch[-1] - 0.1  # the last epoch is clearly worse
    assert fitted.step == by_epoch.index(min(by_epoch)) + 1
    assert evaluate_parts(fitted.model, train, valid, classification_metrics)["valid"]["loss"] == min(by_epoch)
    assert [row["epoch"] for row in fitted.history if row.get("best")] == [fitted.step]


def test_training_stops_after_patience_epochs_without_a_lower_loss():
    train = examples(16, 6, 2, seed=0)
    options = dataclasses.replace(FAST, epochs=100, patience=3)
    fitted = mlp_of(train, swap_labels(train), 2, options, seed=0, quiet=True)
    assert len(fitted.history) == fitted.step + 3 < 100


def test_class_weights_of_an_mlp_count_as_copies_in_a_batch_of_all_texts():
    vectors, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(2)
    # the same vectors in both classes: copies of a class do not change what the inputs are standardized by
    train = EncodedTexts(vectors.repeat(2, 1), labels.repeat_interleave(8))
    repeated = EncodedTexts(vectors.repeat(4, 1), torch.tensor([0, 1, 1, 1]).repeat_interleave(8))
    options = dataclasses.replace(FAST, batch_size=32, epochs=5)
    weighted = mlp_of(train, train, 2, options, 0, weights=torch.tensor([1.0, 3.0])).model
    copied, equal = (mlp_of(part, train, 2, options, 0).model for part in (repeated, train))
    for ours, theirs in zip(weights_of(weighted), weights_of(copied), strict=True):
        # sums in another order, and Adam divides gradients by their own size
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(weighted.output.bias, equal.output.bias, atol=1e-2)


def test_mlp_standardizes_by_its_training_texts():
    train, valid = examples(20, 4, 2, seed=0), examples(10, 4, 2, seed=1)
    model = mlp_of(train, valid, 2, dataclasses.replace(FAST, epochs=1), seed=0, quiet=True).model
    assert torch.equal(model.standardize.mean, train.vectors.mean(dim=0))
    assert torch.equal(model.standardize.deviation, train.vectors.std(dim=0, correction=0))


def test_losses_are_measured_without_dropout():
    train = examples(16, 6, 2, seed=0)
    options = dataclasses.replace(FAST, dropout=0.9, epochs=1)
    fitted = mlp_of(train, train, 2, options, seed=0, quiet=True)
    assert evaluate_parts(fitted.model, train, train, classification_metrics) == {
        key: fitted.history[0][key] for key in ("train", "valid")
    }


def test_the_same_seed_gives_the_same_weights():
    train = examples(20, 4, 3, seed=0)
    options = dataclasses.replace(FAST, dropout=0.5, epochs=3)
    first = mlp_of(train, train, 3, options, seed=7, quiet=True)
    torch.rand(5)  # other draws in between do not matter
    second = mlp_of(train, train, 3, options, seed=7, quiet=True)
    assert same(weights_of(first.model), weights_of(second.model))


def test_another_seed_gives_other_weights():
    train = examples(20, 4, 3, seed=0)
    options = dataclasses.replace(FAST, epochs=1)
    first, second = (mlp_of(train, train, 3, options, seed, quiet=True).model for seed in (0, 1))
    assert not same(weights_of(first), weights_of(second))


def random_states() -> tuple[bytes, bytes]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()


def test_fitting_an_mlp_keeps_the_global_random_state():
    train, before = examples(20, 4, 2, seed=0), random_states()
    mlp_of(train, train, 2, dataclasses.replace(FAST, dropout=0.5, epochs=2), seed=0, quiet=True)
    assert random_states() == before


def test_fitting_a_logistic_regression_keeps_the_global_random_state():
    train, before = examples(20, 4, 2, seed=0), random_states()
    logistic_of(train, train, 2, LogisticConfig(l2=(1.0,)))
    assert random_states() == before


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"hidden": 0}, {"batch_size": 0}, {"patience": 0}, {"dropout": 1.0}])
def test_mlp_settings_that_cannot_train_are_refused(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
        dataclasses.replace(FAST, **wrong)


def test_losses_by_hand():
    part = EncodedTexts(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 1]))
    model = LogisticRegression(1, 2)
    model.load_state_dict({"output.weight": torch.tensor([[1.0]]), "output.bias": torch.tensor([0.0])})
    row = evaluate_parts(model, part, part, classification_metrics)["train"]
    # logits (0, 0) and (0, 1): the loss is log 2 and log(1 + 1/e); a tie goes to class 0; float32 has 7 digits
    assert row["loss"] == pytest.approx((np.log(2) + np.log1p(np.exp(-1))) / 2, abs=1e-6)
    assert row["accuracy"] == 0.5


def test_five_classes_from_text_to_prediction():
    topics = ["sea", "sky", "city", "forest", "desert"]
    encoder = MeanEncoder([*topics, "and"], torch.cat((4 * torch.eye(5), torch.ones(1, 5))))
    texts = [f"{topic} and {topic}" for topic in topics] * 4
    part = EncodedTexts(encoder.encode(texts).vectors, torch.arange(20) % 5)
    for model in (
        logistic_of(part, part, 5, LogisticConfig(l2=(0.1,))).model,
        mlp_of(part, part, 5, FAST, seed=0, quiet=True).model,
    ):
        logits = StaticClassifier(encoder, model, topics).logits(texts)
        assert [topics[c] for c in logits.argmax(dim=1)] == topics * 4
