"""Scores of a run on train, validation and test: metrics, calibration, generalization gap, subgroups.

Inputs: labels and logits (B, C) of the three parts, and the temperature fitted on validation. Outputs: the content of
`scores.json`. Shapes: B texts, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minitext.data.dataset import Dataset, Splits
from minitext.evaluation.calibration import calibration_scores, expected_calibration_error, temperature_fit
from minitext.evaluation.metrics import brier_scores, classification_scores, log_losses
from minitext.evaluation.predict import probabilities
from minitext.evaluation.significance import generalization_gap
from minitext.evaluation.subgroups import subgroup_accuracy


def score_run(splits: Splits, logits: Sequence[Tensor], temperature: float, seed: int) -> dict[str, dict[str, Any]]:
    """Score the three parts of the data, from (B, C) float32 logits of each, on the CPU, before the temperature.

    Returns `{"train": …, "valid": …, "test": …}`, each with the `classification_scores` and `calibration_scores` at the
    temperature, and `"before_temperature"`. Validation also has `"temperature_fit"`, test `"generalization_gap"` and
    `"subgroup_accuracy"`.
    """
    scores = {
        name: score_part(part, part_logits, temperature, seed)
        for name, part, part_logits in zip(Splits._fields, splits, logits, strict=True)
    }
    fit = temperature_fit(torch.from_numpy(splits.valid.labels), logits[1])
    scores["valid"]["temperature_fit"] = fit._asdict() | {"description": fit.describe()}
    scores["test"]["generalization_gap"] = generalization_gap(scores["train"], scores["test"])
    predicted = logits[-1].argmax(dim=1).numpy()
    scores["test"]["subgroup_accuracy"] = subgroup_accuracy(splits.test, splits.train, predicted)
    return scores


def score_new_data(test: Dataset, logits: Tensor, temperature: float, seed: int) -> dict[str, dict[str, Any]]:
    """Score texts of which no training texts are known, as the part `"test"` of `score_run`."""
    rows = subgroup_accuracy(test, None, logits.argmax(dim=1).numpy())
    return {"test": score_part(test, logits, temperature, seed) | {"subgroup_accuracy": rows}}


def score_part(part: Dataset, logits: Tensor, temperature: float, seed: int) -> dict[str, Any]:
    """The scores of one part at the temperature, and those before it; `logits` are (B, C), before the temperature."""
    before, after = probabilities(logits), probabilities(logits.double() / temperature)
    predicted = logits.argmax(dim=1).numpy()
    scores = classification_scores(part.labels, predicted, after, part.class_names, seed)
    scores |= calibration_scores(part.labels, after, seed)
    scores["before_temperature"] = {
        "temperature": temperature,
        "log_loss": float(log_losses(part.labels, before).mean()),
        "ece": expected_calibration_error(part.labels, before),
        "brier": float(brier_scores(part.labels, before).mean()),
    }
    return scores
