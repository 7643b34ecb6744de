"""Proves that texts become the vectors that one computes by hand, and that both classifiers reach what they should: the
logistic regression scikit-learn's optimum, the perceptron the weights of its best epoch.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minitext.models.mean_encoder import MeanEncoder, fit_sif
from minitext.models.static import (
    EncodedTexts,
    LogisticConfig,
    LogisticRegression,
    MLPConfig,
    Standardize,
    StaticClassifier,
    build_mlp,
    fit_logistic,
    fit_mlp,
    losses,
    minimize_logistic,
)
from minitext.utils.errors import UserError

WORDS = ["good", "bad", "film"]
TABLE = torch.tensor([[1.0, 0], [0, 1], [2, 4]])
FAST = MLPConfig(hidden=32, dropout=0.0, lr=1e-2, weight_decay=0.0, batch_size=8, epochs=20, patience=20)


def examples(count: int, width: int, classes: int, seed: int) -> EncodedTexts:
    """Vectors around a centre a class, near enough to each other that no class is told apart without errors."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(classes))
    return EncodedTexts(centres[labels] + torch.randn(count, width, generator=generator), labels)


def opposite(part: EncodedTexts) -> EncodedTexts:
    """The same vectors, each with the other of two labels: what fits `part` well fits this badly."""
    return EncodedTexts(part.vectors, 1 - part.labels)


def weights_of(model: torch.nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Logistic regression


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logits_have_a_column_a_class(classes: int):
    assert LogisticRegression(4, classes)(torch.randn(7, 4)).shape == (7, classes)


def test_two_classes_share_one_weight_vector():
    model = LogisticRegression(4, 2)
    assert model.linear.weight.shape == (1, 4)
    assert model(torch.randn(3, 4))[:, 0].tolist() == [0, 0, 0]


def test_at_the_optimum_the_probabilities_sum_to_the_counts():
    train = examples(30, 3, 3, seed=0)
    model = minimize_logistic(train, train, 3, l2=1.0, iterations=1000).model
    # biases are free of the penalty, so the gradient by each is this difference; 1e-4 of 10 for float32
    assert model(train.vectors).softmax(dim=1).sum(dim=0).tolist() == pytest.approx([10, 10, 10], abs=1e-3)


def test_the_last_row_of_the_history_is_the_model_that_is_kept():
    train = examples(30, 3, 2, seed=0)
    fitted = minimize_logistic(train, train, 2, l2=1.0, iterations=1000)
    assert [row["iteration"] for row in fitted.history] == list(range(1, fitted.epoch + 1))
    assert [row["iteration"] for row in fitted.history if row.get("best")] == [fitted.epoch]
    loss = F.cross_entropy(fitted.model(train.vectors), train.labels).item()
    assert fitted.history[-1]["train"]["loss"] == pytest.approx(loss, abs=1e-6)  # the model came back as float32


def test_iterations_end_when_they_are_used_up():
    train = examples(30, 3, 2, seed=0)
    assert len(minimize_logistic(train, train, 2, l2=1.0, iterations=2).history) == 2


def test_a_strong_penalty_is_chosen_where_validation_contradicts_training():
    train = examples(40, 3, 2, seed=0)
    fitted = fit_logistic(train, opposite(train), 2, LogisticConfig(l2=(0.1, 100.0, 1.0)))
    assert fitted.history[-1]["l2"] == 100


def test_a_weak_penalty_is_chosen_where_validation_repeats_training():
    train = examples(40, 3, 2, seed=0)
    assert fit_logistic(train, train, 2, LogisticConfig(l2=(1.0, 0.1, 100.0))).history[-1]["l2"] == 0.1


def test_the_chosen_penalty_has_the_lowest_validation_loss():
    train, valid = examples(20, 8, 3, seed=0), examples(200, 8, 3, seed=1)
    penalties = (0.1, 1.0, 10.0, 1000.0)
    each = [minimize_logistic(train, valid, 3, l2, 1000).history[-1]["valid"]["loss"] for l2 in penalties]
    chosen = fit_logistic(train, valid, 3, LogisticConfig(l2=penalties)).history[-1]
    assert chosen["valid"]["loss"] == min(each)
    assert 0 < penalties.index(chosen["l2"]) < len(penalties) - 1  # the case tells: neither end is the best


def test_a_penalty_of_zero_is_refused():
    with pytest.raises(UserError, match=r"--l2 1\.0 0\.0"):
        LogisticConfig(l2=(1.0, 0.0))


@pytest.mark.oracle
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("l2", [1.0, 0.1, 0.01])
def test_the_optimum_is_scikit_learns(classes: int, l2: float):
    from sklearn.linear_model import LogisticRegression as Oracle
    from sklearn.metrics import log_loss

    train = examples(200, 6, classes, seed=0)
    model = minimize_logistic(train, train, classes, l2, iterations=1000).model
    inputs, labels = train.vectors.double().numpy(), train.labels.numpy()
    oracle = Oracle(C=1 / l2, tol=1e-10, max_iter=10_000).fit(inputs, labels)
    weight, bias = model.linear.weight.detach().double().numpy(), model.linear.bias.detach().double().numpy()
    centre = 0 if classes == 2 else oracle.intercept_.mean() - bias.mean()  # softmax: a constant in all biases is free
    assert np.abs(weight - oracle.coef_).max() < 1e-3
    assert np.abs(bias - (oracle.intercept_ - centre)).max() < 1e-3
    ours = F.cross_entropy(model.double()(train.vectors.double()), train.labels).item()
    assert abs(ours - log_loss(labels, oracle.predict_proba(inputs))) < 1e-6


# Multilayer perceptron


def test_standardized_vectors_have_mean_zero_and_deviation_one():
    layer = Standardize(2)
    layer.fit(torch.tensor([[1.0, 10], [3, 30]]))
    assert layer(torch.tensor([[1.0, 10], [3, 30], [2, 40]])).tolist() == [[-1, -1], [1, 1], [0, 2]]


def test_a_constant_column_keeps_its_scale():
    layer = Standardize(2)
    layer.fit(torch.tensor([[5.0, 1], [5, 3]]))
    assert layer(torch.tensor([[5.0, 1], [7, 3]])).tolist() == [[0, -1], [2, 1]]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456, -1e-3])
def test_rounding_does_not_make_a_constant_column_vary(value: float):
    layer = Standardize(3)
    layer.fit(torch.full((1000, 3), value))
    # 0.5 away from the constant stays 0.5 away: 1e-3 allows for the rounding of the mean
    assert layer(torch.full((1, 3), value + 0.5)).tolist()[0] == pytest.approx([0.5] * 3, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_perceptron_gives_a_logit_a_class(classes: int):
    assert build_mlp(4, 16, classes, 0.5)(torch.randn(7, 4)).shape == (7, classes)


def test_twenty_epochs_overfit_eight_examples():
    generator = torch.Generator().manual_seed(0)
    train = EncodedTexts(torch.randn(8, 6, generator=generator), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1]))
    model = fit_mlp(train, train, 2, dataclasses.replace(FAST, lr=3e-2), seed=0, quiet=True).model
    assert model(train.vectors).argmax(dim=1).tolist() == train.labels.tolist()
    assert F.cross_entropy(model(train.vectors), train.labels).item() < 0.05  # chance: log 2 = 0.69


def test_the_best_epochs_weights_come_back():
    train, valid = examples(16, 6, 2, seed=0), examples(200, 6, 2, seed=1)  # too few texts: it soon learns by heart
    options = dataclasses.replace(FAST, epochs=30, patience=30, lr=3e-2)
    fitted = fit_mlp(train, valid, 2, options, seed=0, quiet=True)
    by_epoch = [row["valid"]["loss"] for row in fitted.history]
    assert len(by_epoch) == 30
    assert min(by_epoch) < by_epoch[-1] - 0.1  # the case tells: the last epoch is clearly worse
    assert fitted.epoch == by_epoch.index(min(by_epoch)) + 1
    assert losses(fitted.model, train, valid)["valid"]["loss"] == min(by_epoch)
    assert [row["epoch"] for row in fitted.history if row.get("best")] == [fitted.epoch]


def test_training_stops_after_patience_epochs_without_a_lower_loss():
    train = examples(16, 6, 2, seed=0)
    options = dataclasses.replace(FAST, epochs=100, patience=3)
    fitted = fit_mlp(train, opposite(train), 2, options, seed=0, quiet=True)
    assert len(fitted.history) == fitted.epoch + 3 < 100


def test_a_perceptron_standardizes_by_its_training_texts():
    train, valid = examples(20, 4, 2, seed=0), examples(10, 4, 2, seed=1)
    model = fit_mlp(train, valid, 2, dataclasses.replace(FAST, epochs=1), seed=0, quiet=True).model
    assert torch.equal(model[0].mean, train.vectors.mean(dim=0))
    assert torch.equal(model[0].deviation, train.vectors.std(dim=0, correction=0))


def test_dropout_is_off_in_what_is_measured():
    train = examples(16, 6, 2, seed=0)
    options = dataclasses.replace(FAST, dropout=0.9, epochs=1)
    fitted = fit_mlp(train, train, 2, options, seed=0, quiet=True)
    assert losses(fitted.model, train, train) == {key: fitted.history[0][key] for key in ("train", "valid")}


def test_the_same_seed_gives_the_same_weights():
    train = examples(20, 4, 3, seed=0)
    options = dataclasses.replace(FAST, dropout=0.5, epochs=3)
    first = fit_mlp(train, train, 3, options, seed=7, quiet=True)
    torch.rand(5)  # what others draw in between does not matter
    second = fit_mlp(train, train, 3, options, seed=7, quiet=True)
    assert same(weights_of(first.model), weights_of(second.model))


def test_another_seed_gives_other_weights():
    train = examples(20, 4, 3, seed=0)
    options = dataclasses.replace(FAST, epochs=1)
    first, second = (fit_mlp(train, train, 3, options, seed, quiet=True).model for seed in (0, 1))
    assert not same(weights_of(first), weights_of(second))


def random_states() -> tuple[bytes, bytes]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()


def test_a_perceptron_leaves_the_callers_random_state_alone():
    train, before = examples(20, 4, 2, seed=0), random_states()
    fit_mlp(train, train, 2, dataclasses.replace(FAST, dropout=0.5, epochs=2), seed=0, quiet=True)
    assert random_states() == before


def test_a_logistic_regression_leaves_the_callers_random_state_alone():
    train, before = examples(20, 4, 2, seed=0), random_states()
    fit_logistic(train, train, 2, LogisticConfig(l2=(1.0,)))
    assert random_states() == before


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"hidden": 0}, {"batch_size": 0}, {"patience": 0}, {"dropout": 1.0}])
def test_settings_that_cannot_train_are_refused(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        dataclasses.replace(FAST, **wrong)


def test_losses_by_hand():
    part = EncodedTexts(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 1]))
    model = LogisticRegression(1, 2)
    model.load_state_dict({"linear.weight": torch.tensor([[1.0]]), "linear.bias": torch.tensor([0.0])})
    row = losses(model, part, part)["train"]
    # logits (0, 0) and (0, 1): the loss is log 2 and log(1 + 1/e); a tie goes to class 0; float32 has 7 digits
    assert row["loss"] == pytest.approx((np.log(2) + np.log1p(np.exp(-1))) / 2, abs=1e-6)
    assert row["accuracy"] == 0.5


# The whole classifier

TOPICS = ["sea", "sky", "city", "forest", "desert"]


def topic_data() -> tuple[MeanEncoder, list[str], EncodedTexts]:
    """Five classes, a word and a direction each; `and` says nothing."""
    encoder = MeanEncoder([*TOPICS, "and"], torch.cat((4 * torch.eye(5), torch.ones(1, 5))))
    texts = [f"{topic} and {topic}" for topic in TOPICS] * 4
    return encoder, texts, EncodedTexts(encoder.encode(texts).vectors, torch.arange(20) % 5)


def train_classifier(kind: str) -> torch.nn.Module:
    _, _, part = topic_data()
    if kind == "logistic":
        return fit_logistic(part, part, 5, LogisticConfig(l2=(0.1,))).model
    return fit_mlp(part, part, 5, FAST, seed=0, quiet=True).model


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_five_classes_work_end_to_end(kind: str):
    encoder, texts, _ = topic_data()
    probabilities = StaticClassifier(encoder, train_classifier(kind), TOPICS).logits([*texts, ""]).softmax(dim=1)
    assert probabilities.shape == (21, 5)
    assert [TOPICS[c] for c in probabilities[:20].argmax(dim=1)] == TOPICS * 4
    assert probabilities.sum(dim=1).tolist() == pytest.approx([1] * 21, abs=1e-6)  # float32


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
@pytest.mark.parametrize("weights", ["mean", "sif"])
def test_a_saved_classifier_gives_the_same_probabilities(tmp_path, kind: str, weights: str):
    encoder, texts, _ = topic_data()
    if weights == "sif":
        encoder = fit_sif(encoder.words, encoder.table, ["sea and sky", "city and", "and forest"])
    model = StaticClassifier(encoder, train_classifier(kind), TOPICS)
    model.save(tmp_path)
    loaded = StaticClassifier.load(tmp_path)
    assert loaded.class_names == tuple(TOPICS)
    assert torch.equal(loaded.logits([*texts, "", "unknown"]), model.logits([*texts, "", "unknown"]))


def test_a_saved_classifier_of_two_classes_comes_back(tmp_path):
    encoder = MeanEncoder(WORDS, TABLE)
    model = StaticClassifier(encoder, LogisticRegression(2, 2), ("neg", "pos"))
    model.save(tmp_path)
    assert torch.equal(StaticClassifier.load(tmp_path).logits(["good film"]), model.logits(["good film"]))


def test_words_beyond_ascii_keep_their_vectors(tmp_path):
    model = StaticClassifier(MeanEncoder(["café", "日本", "naïve"], TABLE), LogisticRegression(2, 2), ("neg", "pos"))
    model.save(tmp_path)
    assert StaticClassifier.load(tmp_path).encoder.words == ["café", "日本", "naïve"]


def test_prediction_turns_dropout_off():
    model = StaticClassifier(MeanEncoder(WORDS, TABLE), build_mlp(2, 16, 2, dropout=0.9), ("neg", "pos"))
    model.train()
    assert torch.equal(model.logits(["good film"]), model.logits(["good film"]))
