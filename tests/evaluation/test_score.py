"""Scores of a run, from labels and logits."""

import json

import numpy as np
import pytest
import torch

from minitext.data.dataset import Dataset, Splits
from minitext.evaluation import bootstrap
from minitext.evaluation.calibration import calibration_scores, expected_calibration_error, temperature_fit
from minitext.evaluation.metrics import classification_scores, log_losses
from minitext.evaluation.score import score_new_data, score_run

LABELS = np.array([0, 1, 1])
LOGITS = torch.tensor([[1.0, 0.0], [0.5, 0.25], [-1.0, 1.0]])  # the second is wrong


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)


def splits() -> Splits:
    ids = ["t.csv:2", "t.csv:3", "t.csv:4"]
    return Splits(*(Dataset(["bad", "so so", "good"], LABELS, ("neg", "pos"), ids) for _ in Splits._fields))


def test_each_part_has_its_scores():
    scores = score_run(splits(), [LOGITS, LOGITS, -LOGITS], 1.0, seed=3)
    assert list(scores) == ["train", "valid", "test"]
    assert [scores[part]["accuracy"]["value"] for part in scores] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    json.dumps(scores, allow_nan=False)


def test_scores_are_computed_at_the_temperature():
    scores = score_run(splits(), [LOGITS] * 3, 2.0, seed=3)["valid"]
    probabilities = (LOGITS.double() / 2).softmax(dim=1).numpy()
    expected = classification_scores(LABELS, np.array([0, 0, 1]), probabilities, ("neg", "pos"), seed=3)
    assert (expected | calibration_scores(LABELS, probabilities, seed=3)).items() <= scores.items()


def test_scores_before_the_temperature_are_kept():
    before = score_run(splits(), [LOGITS] * 3, 2.0, seed=3)["test"]["before_temperature"]
    probabilities = LOGITS.double().softmax(dim=1).numpy()
    assert before["temperature"] == 2.0
    assert before["log_loss"] == pytest.approx(log_losses(LABELS, probabilities).mean())
    assert before["ece"] == pytest.approx(expected_calibration_error(LABELS, probabilities))
    assert before["brier"] == pytest.approx(((probabilities[:, 1] - LABELS) ** 2).mean())


def test_the_predicted_class_is_the_argmax_of_the_logits():
    """Logits that differ, with equal probabilities even in float64."""
    logits = torch.tensor([[0.0, 1e-20], [0.0, 1e-20], [0.0, 1e-20]])
    assert score_run(splits(), [logits] * 3, 1.0, seed=0)["test"]["confusion"] == [[0, 1], [0, 2]]


def test_the_generalization_gap_has_an_interval():
    right = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
    gap = score_run(splits(), [right, right, -right], 1.0, seed=0)["test"]["generalization_gap"]
    assert (gap["value"], gap["high"]) == (1.0, 1.0) and 0 < gap["low"] < 1  # three texts each
    gap = score_run(splits(), [right, right, right], 1.0, seed=0)["test"]["generalization_gap"]
    assert gap["value"] == 0 and gap["low"] == -gap["high"] < -0.3


def test_validation_has_the_fit_of_the_temperature():
    scores = score_run(splits(), [LOGITS] * 3, 2.0, seed=0)
    fit = temperature_fit(torch.from_numpy(LABELS), LOGITS)
    assert scores["valid"]["temperature_fit"] == fit._asdict() | {"description": fit.describe()}
    assert "temperature_fit" not in scores["test"]


def test_only_test_has_accuracy_by_subgroup():
    scores = score_run(splits(), [LOGITS] * 3, 1.0, seed=0)
    rows = [(row["subgroup"], row["accuracy"]) for row in scores["test"]["subgroup_accuracy"] if row["by"] == "class"]
    assert rows == [("neg", 1.0), ("pos", 0.5)]
    assert "subgroup_accuracy" not in scores["train"]


def test_new_data_have_the_scores_of_test_without_what_needs_the_training_texts():
    scores = score_run(splits(), [LOGITS] * 3, 2.0, seed=3)["test"]
    del scores["generalization_gap"]
    scores["subgroup_accuracy"] = [row for row in scores["subgroup_accuracy"] if row["by"] != "words not in train"]
    assert score_new_data(splits().test, LOGITS, 2.0, seed=3) == {"test": scores}


def test_new_data_may_lack_a_class():
    test = Dataset(["bad"], np.array([0]), ("neg", "pos"), ["t.csv:2"])
    scores = score_new_data(test, LOGITS[:1], 1.0, seed=0)["test"]
    assert (scores["accuracy"]["value"], scores["roc_auc"]["value"]) == (1.0, None)
    assert scores["per_class"]["pos"]["support"] == 0
    json.dumps(scores, allow_nan=False)
