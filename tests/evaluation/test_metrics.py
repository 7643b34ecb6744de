"""Scores against hand-computed cases and scikit-learn; intervals against a plain bootstrap over the texts."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitext.evaluation import bootstrap, metrics
from minitext.evaluation.metrics import (
    RocAuc,
    average_scores,
    brier_scores,
    class_counts,
    class_scores,
    classification_scores,
    confusion_matrix,
    divide,
    log_losses,
    mean_roc_auc,
)

# Six texts: class 0 three times (two right), class 1 twice (one right), class 2 once (predicted as 1)
LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 1])
CONFUSION = np.array([[2, 1, 0], [1, 1, 0], [0, 1, 0]])


def random_case(classes: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that depend on them; rounded, so that scores tie."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=count)
    raw = generator.random((count, classes)) + 0.5 * np.eye(classes)[labels]
    probabilities = np.round(raw / raw.sum(1, keepdims=True), 1) + 1e-3
    return labels, probabilities / probabilities.sum(1, keepdims=True)


def sorted_case(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The case in the order in which texts are resampled: by the probability of the last class."""
    order = np.argsort(probabilities[:, -1], kind="stable")
    return labels[order], probabilities[order]


def names_of(classes: int) -> tuple[str, ...]:
    return tuple(f"class {c}" for c in range(classes))


def score(labels: np.ndarray, probabilities: np.ndarray, seed: int = 0) -> dict:
    """The scores when the most probable class is predicted."""
    names = names_of(probabilities.shape[1])
    return classification_scores(labels, probabilities.argmax(1), probabilities, names, seed)


def values_of(result: dict) -> dict[str, float]:
    return {name: part["value"] for name, part in result.items() if isinstance(part, dict) and "value" in part}


@pytest.fixture
def few_resamples(monkeypatch) -> None:
    """For tests that look at values only."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 3)


def averages(confusion: np.ndarray) -> dict[str, np.ndarray]:
    return average_scores(*class_counts(confusion))


# By hand


def test_the_confusion_matrix_has_the_true_class_in_its_rows():
    assert confusion_matrix(LABELS, PREDICTED, 3).tolist() == CONFUSION.tolist()


def test_scores_of_a_class():
    columns = class_scores(*class_counts(CONFUSION))
    assert columns["precision"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert columns["recall"].tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert columns["f1"].tolist() == pytest.approx([4 / 6, 2 / 5, 0])


def test_averages():
    result = averages(CONFUSION)
    assert result["accuracy"] == 3 / 6
    assert result["macro_precision"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert result["weighted_precision"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 3 + 0) / 6)
    assert result["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert result["weighted_f1"] == pytest.approx((3 * 4 / 6 + 2 * 2 / 5 + 0) / 6)


def test_a_class_that_neither_occurs_nor_is_predicted_is_left_out_of_macro():
    result = averages(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert result["macro_recall"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_class_that_is_predicted_but_does_not_occur_counts_as_zero_in_macro():
    result = averages(np.array([[1, 0, 1], [0, 2, 0], [0, 0, 0]]))
    assert result["macro_recall"] == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_many_matrices_are_scored_at_once():
    both = averages(np.stack([CONFUSION, CONFUSION.T]))
    for name, value in averages(CONFUSION.T).items():
        assert both[name][1] == value


def test_division_by_zero_gives_zero():
    assert divide(np.array([1, 0, 3]), np.array([2, 0, 0])).tolist() == [0.5, 0, 0]


def test_log_loss_of_two_texts():
    found = log_losses(np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]]))
    assert found.tolist() == pytest.approx([np.log(2), np.log(4)])


def test_log_loss_of_a_certain_mistake_is_finite():
    found = log_losses(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert found.tolist() == pytest.approx([-np.log(np.finfo(float).eps), 0], abs=1e-12)


def test_log_loss_normalizes_its_rows():
    assert log_losses(np.array([0]), np.array([[2.0, 6.0]])).tolist() == pytest.approx([np.log(4)])


def test_roc_auc_is_the_fraction_of_pairs_in_the_right_order():
    # negatives at 1, 3; positives at 2, 4: of four pairs, only (3, 2) is wrong
    curve = RocAuc(np.array([False, True, False, True]), np.array([1.0, 2, 3, 4]))
    assert curve.area(np.ones(4)) == 3 / 4


def test_a_tie_counts_half_in_roc_auc():
    curve = RocAuc(np.array([False, True, True]), np.array([1.0, 1, 2]))
    assert curve.area(np.ones(3)) == (1 / 2 + 1) / 2


def test_a_weight_equals_that_many_copies_of_a_text():
    positive, scores, weights = np.array([False, True, False]), np.array([1.0, 2, 3]), np.array([3.0, 2, 1])
    copies = np.repeat(np.arange(3), [3, 2, 1])
    repeated = RocAuc(positive[copies], scores[copies]).area(np.ones(6))
    assert RocAuc(positive, scores).area(weights) == repeated == 6 / 8


@pytest.mark.parametrize("label", [0, 1])
def test_roc_auc_is_none_if_all_texts_have_one_label(few_resamples, label: int):
    result = score(np.full(4, label), np.array([[0.5, 0.5]] * 4))
    assert result["roc_auc"] == {"value": None, "low": None, "high": None}


def test_roc_auc_is_none_if_one_of_three_classes_is_missing(few_resamples):
    labels, probabilities = random_case(3, 20, seed=0)
    result = score(labels % 2, probabilities)
    assert result["roc_auc"]["value"] is None


# What `classification_scores` returns


def test_scores_hold_counts_classes_and_confusion(few_resamples):
    result = score(LABELS, np.eye(3)[PREDICTED])
    assert result["count"] == 6
    assert result["confusion"] == CONFUSION.tolist()
    assert [values["support"] for values in result["per_class"].values()] == [3, 2, 1]
    assert result["per_class"]["class 1"]["f1"]["value"] == pytest.approx(2 / 5)


def test_scores_are_ready_for_json(few_resamples):
    labels, probabilities = random_case(3, 20, seed=0)
    result = score(labels, probabilities.astype(np.float32))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_perfect_classifier_scores_one(few_resamples):
    result = values_of(score(LABELS, np.eye(3)[LABELS]))
    assert result.pop("log_loss") == pytest.approx(0, abs=1e-12)
    assert result.pop("brier") == 0
    assert set(result.values()) == {1.0}


# Intervals


def test_an_interval_contains_its_value():
    labels, probabilities = random_case(3, 100, seed=0)
    for name, part in score(labels, probabilities).items():
        if isinstance(part, dict) and "value" in part:
            assert part["low"] <= part["value"] <= part["high"], name


def test_more_texts_give_narrower_intervals():
    few, many = (score(*random_case(2, count, seed=0)) for count in (50, 800))
    for name in values_of(few):
        # sixteen times the texts: about a quarter of the width
        assert many[name]["high"] - many[name]["low"] < 0.5 * (few[name]["high"] - few[name]["low"]), name


def test_a_seed_gives_the_same_intervals():
    case = random_case(2, 60, seed=0)
    assert score(*case, seed=5) == score(*case, seed=5)


def test_another_seed_gives_other_intervals_and_the_same_values():
    case = random_case(2, 60, seed=0)
    first, second = (score(*case, seed) for seed in (0, 1))
    assert values_of(first) == values_of(second)
    assert first["log_loss"] != second["log_loss"]


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_equal_a_plain_loop_over_the_same_resamples(monkeypatch, classes: int):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    labels, probabilities = sorted_case(*random_case(classes, 30, seed=classes))
    result = score(labels, probabilities, seed=11)

    generator = np.random.default_rng(11)
    resampled: dict[str, list[float]] = {"log_loss": [], "brier": [], "roc_auc": []}
    for _ in range(200):
        drawn = generator.integers(30, size=30)
        true, given = labels[drawn], probabilities[drawn]
        resampled["log_loss"].append(np.mean(-np.log(given[np.arange(30), true])))
        resampled["brier"].append(brier_scores(true, given).mean())
        areas = [pairs_in_order(true == c, given[:, c]) for c in ([1] if classes == 2 else range(classes))]
        resampled["roc_auc"].append(np.mean(areas))
    for name, values in resampled.items():
        low, high = np.quantile(values, [0.025, 0.975])
        # float64 sums in another order; with three classes the area is linear in the weights: 1/30 of its width, or so
        tolerance = 0.02 if (name, classes) == ("roc_auc", 3) else 1e-12
        assert (result[name]["low"], result[name]["high"]) == pytest.approx((low, high), abs=tolerance), name


@pytest.mark.parametrize("classes", [2, 4])
def test_the_influence_of_a_text_is_the_derivative_of_the_mean_area(classes: int):
    labels, probabilities = random_case(classes, 40, seed=1)
    area, influence, _ = mean_roc_auc(labels, probabilities)
    curves = [RocAuc(labels == c, probabilities[:, c]) for c in ([1] if classes == 2 else range(classes))]
    assert influence.sum() == pytest.approx(0, abs=1e-9)
    for text in range(40):
        weights = np.ones(40)
        weights[text] += 1e-6
        moved = np.mean([curve.area(weights) for curve in curves])
        assert influence[text] == pytest.approx((moved - area) * 40 / 1e-6, abs=1e-3)  # the second derivative


def test_150_right_texts_of_150_are_no_proof_of_perfection():
    labels = np.arange(150) % 2
    probabilities = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    scores = score(labels, probabilities)
    wilson_low = 150 / (150 + 1.959964**2)
    for name in ("accuracy", "macro_precision", "macro_recall", "weighted_precision", "weighted_recall"):
        assert (scores[name]["low"], scores[name]["high"]) == (pytest.approx(wilson_low, abs=1e-6), 1.0), name
    class_low = 75 / (75 + 1.959964**2)  # Wilson's for 75 of 75
    for values in scores["per_class"].values():
        assert values["recall"]["low"] == values["precision"]["low"] == pytest.approx(class_low, abs=1e-6)
        assert values["f1"]["low"] == pytest.approx(2 * class_low / (1 + class_low), abs=1e-6)
    assert scores["macro_f1"]["low"] == scores["weighted_f1"]["low"] == pytest.approx(wilson_low, abs=1e-6)
    assert scores["roc_auc"]["low"] == pytest.approx(class_low, abs=1e-6)  # 75 independent pairs
    assert scores["log_loss"]["low"] is scores["log_loss"]["high"] is scores["brier"]["low"] is None


def test_all_wrong_texts_have_intervals_from_zero():
    labels = np.arange(20) % 2
    scores = score(labels, np.eye(2)[1 - labels])
    for name in ("accuracy", "macro_precision", "macro_recall", "macro_f1", "roc_auc"):
        assert scores[name]["value"] == scores[name]["low"] == 0 < scores[name]["high"] < 0.5, name


def test_the_score_of_a_class_without_texts_has_no_interval():
    scores = score(np.array([0, 0, 1]), np.eye(3)[[0, 1, 1]])
    assert scores["per_class"]["class 2"]["recall"] == {"value": 0.0, "low": None, "high": None}
    assert scores["per_class"]["class 2"]["f1"] == {"value": 0.0, "low": None, "high": None}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.floats(0, 1), st.integers(0, 10**6))
def test_every_interval_contains_its_score(classes: int, count: int, accuracy: float, seed: int):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=count)
    predicted = np.where(generator.random(count) < accuracy, labels, generator.integers(classes, size=count))
    probabilities = generator.dirichlet(np.ones(classes), size=count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", 20)
        scores = classification_scores(labels, predicted, probabilities, names_of(classes), seed)
    intervals = {name: part for name, part in scores.items() if isinstance(part, dict) and "value" in part}
    for name, values in scores["per_class"].items():
        intervals |= {f"{name} {key}": values[key] for key in ("precision", "recall", "f1")}
    for name, interval in intervals.items():
        if interval["low"] is not None:
            assert interval["low"] <= interval["value"] <= interval["high"], name
            assert "log" in name or 0 <= interval["low"] and interval["high"] <= 1 + (name == "brier"), name


def pairs_in_order(positive: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs (text of the class, other text) with the former scored higher; a tie is half a pair."""
    difference = scores[positive][:, None] - scores[~positive][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_resamples_without_a_score_are_left_out():
    labels, probabilities = np.array([0, 0, 0, 1]), np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    area = score(labels, probabilities)["roc_auc"]  # (3/4)**4 of the resamples lack class 1
    assert 0 <= area["low"] <= area["value"] <= area["high"] <= 1


def test_counts_do_not_depend_on_the_size_of_a_block(monkeypatch):
    labels, probabilities = random_case(3, 40, seed=0)
    at_once = metrics.resampled_averages(labels, [probabilities.argmax(1)], 3, seed=1)[0]
    monkeypatch.setattr(bootstrap, "CELLS_BLOCK", 100)
    in_blocks = metrics.resampled_averages(labels, [probabilities.argmax(1)], 3, seed=1)[0]
    assert all(np.array_equal(in_blocks[name], values) for name, values in at_once.items())


def test_one_text_per_class_says_little_about_its_roc_auc():
    area = score(np.arange(20), np.eye(20))["roc_auc"]  # one independent pair per class: Wilson's for 1 of 1
    assert area == {"value": 1.0, "low": pytest.approx(1 / (1 + 1.959964**2), abs=1e-6), "high": 1.0}


# Oracles: everything to 1e-9, as both compute in float64

CASES = [(classes, count, seed) for classes in range(2, 7) for count in (5, 12, 200) for seed in (0, 1)]


@pytest.mark.oracle
@pytest.mark.parametrize(("classes", "count", "seed"), CASES)
def test_averages_equal_scikit_learn(classes: int, count: int, seed: int, few_resamples):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    labels, probabilities = random_case(classes, count, seed)
    predicted = probabilities.argmax(1)
    ours = values_of(score(labels, probabilities))
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-9)
    for average in ("macro", "weighted"):
        expected = precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)[:3]
        found = [ours[f"{average}_{name}"] for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(expected, abs=1e-9), average


@pytest.mark.oracle
@pytest.mark.parametrize(("classes", "count", "seed"), CASES)
def test_scores_per_class_equal_scikit_learn(classes: int, count: int, seed: int, few_resamples):
    from sklearn.metrics import confusion_matrix as oracle_confusion
    from sklearn.metrics import precision_recall_fscore_support

    labels, probabilities = random_case(classes, count, seed)
    predicted, every = probabilities.argmax(1), list(range(classes))
    result = score(labels, probabilities)
    assert result["confusion"] == oracle_confusion(labels, predicted, labels=every).tolist()
    expected = precision_recall_fscore_support(labels, predicted, labels=every, average=None, zero_division=0)
    for key, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        values = [values[key] for values in result["per_class"].values()]
        found = values if key == "support" else [value["value"] for value in values]
        assert found == pytest.approx(column.tolist(), abs=1e-9), key


@pytest.mark.oracle
@pytest.mark.parametrize(("classes", "count", "seed"), CASES)
def test_log_loss_equals_scikit_learn(classes: int, count: int, seed: int, few_resamples):
    from sklearn.metrics import log_loss

    labels, probabilities = random_case(classes, count, seed)
    probabilities[0] = np.eye(classes)[(labels[0] + 1) % classes]  # a certain mistake, which is clipped
    ours = score(labels, probabilities)["log_loss"]["value"]
    assert ours == pytest.approx(log_loss(labels, probabilities, labels=list(range(classes))), abs=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize(("classes", "count", "seed"), [case for case in CASES if case[1] > 5])
def test_roc_auc_equals_scikit_learn(classes: int, count: int, seed: int, few_resamples):
    from sklearn.metrics import roc_auc_score

    labels, probabilities = random_case(classes, count, seed)
    labels[:classes] = np.arange(classes)  # every class occurs, else scikit-learn refuses
    scores = probabilities[:, 1] if classes == 2 else probabilities
    expected = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    ours = score(labels, probabilities)["roc_auc"]["value"]
    assert ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("classes", [2, 4])
def test_the_brier_score_equals_scikit_learn(classes):
    from sklearn.metrics import brier_score_loss

    labels, probabilities = random_case(classes, 200, seed=0)
    if classes == 2:
        expected = brier_score_loss(labels, probabilities[:, 1])
    else:
        expected = ((probabilities - np.eye(classes)[labels]) ** 2).sum(1).mean()  # Brier 1950, by its definition
    assert brier_scores(labels, probabilities).mean() == pytest.approx(expected, abs=1e-9)


@pytest.mark.oracle
def test_roc_auc_with_ties_equals_scikit_learn():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    for _ in range(50):
        positive, scores = generator.random(30) < 0.4, generator.integers(4, size=30) / 4
        area = RocAuc(positive, scores).area(np.ones(30))
        assert area == pytest.approx(roc_auc_score(positive, scores), abs=1e-9)


@pytest.mark.oracle
def test_intervals_equal_scipy_on_the_same_resamples(monkeypatch):
    scipy_bootstrap = pytest.importorskip("scipy.stats").bootstrap
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    labels, probabilities = sorted_case(*random_case(2, 80, seed=3))
    losses, curve = log_losses(labels, probabilities), RocAuc(labels == 1, probabilities[:, 1])
    statistics = {
        "log_loss": lambda texts: losses[texts].mean(),
        "roc_auc": lambda texts: curve.area(np.bincount(texts, minlength=80)),
    }
    result = score(labels, probabilities, seed=4)
    for name, statistic in statistics.items():
        expected = scipy_bootstrap(
            (np.arange(80),), statistic, n_resamples=500, method="percentile", vectorized=False,
            random_state=np.random.default_rng(4),
        ).confidence_interval  # fmt: skip
        # float64 sums in another order
        assert (result[name]["low"], result[name]["high"]) == pytest.approx(tuple(expected), abs=1e-9), name


@pytest.mark.slow
def test_a_thousand_classes_take_less_memory_than_1_gib_beyond_the_data():
    """Nothing has the size of the classes squared times the resamples (it was 75 GiB)."""
    generator = np.random.default_rng(0)
    labels = generator.integers(1000, size=5000)
    probabilities = generator.random((5000, 1000))
    probabilities[np.arange(5000), labels] += generator.random(5000)
    probabilities /= probabilities.sum(1, keepdims=True)
    tracemalloc.start()
    scores = score(labels, probabilities)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**30
    assert 0 < scores["macro_f1"]["low"] < scores["macro_f1"]["high"] < 1
