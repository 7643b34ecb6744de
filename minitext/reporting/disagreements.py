"""Texts on which runs disagree.

Inputs: runs on the same N test texts. Outputs: a few texts, read again from the data, with the predictions of two runs
and the contribution of each word to them.
"""

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from minitext.data.dataset import DataConfig, load_dataset
from minitext.evaluation.attribution import explain
from minitext.evaluation.predictor import Predictor
from minitext.reporting.attribution_view import html_words
from minitext.reporting.saved_run import SavedRun
from minitext.utils.errors import UserError, first_line

PER_DIRECTION = 2  # texts per pair of runs and per run that is right
MAX_TEXTS = 24
EXPLAIN_SECONDS = 12.0  # time limit for the word contributions, which take long with a large encoder on a CPU


class RunPrediction(NamedTuple):
    """What one run predicts for a text."""

    run: int
    predicted: str
    probability: float  # of the predicted class
    words: str | None  # HTML: the text with colored words


class Disagreement(NamedTuple):
    """A text with the prediction of a run that is right and of one that is wrong; for a single run, a mistake."""

    text_id: str
    label: str
    text: str | None
    sides: list[RunPrediction]


def find_disagreements(runs: Sequence[SavedRun], best: int) -> list[tuple[int, list[int]]]:
    """Indices of texts with the runs to show: the best run against every other, PER_DIRECTION with either one right.

    Texts where the two probabilities of the true class differ most come first. For a single run: its most confident
    errors.
    """
    rows = np.arange(len(runs[0].labels))
    of_label = [run.probabilities[rows, run.labels] for run in runs]  # (N,) each
    if len(runs) == 1:
        wrong = np.flatnonzero(~runs[0].correct)
        return [(int(i), [0]) for i in wrong[np.argsort(of_label[0][wrong], kind="stable")][: 2 * PER_DIRECTION]]
    found = []
    for other in (i for i in range(len(runs)) if i != best):
        for right, wrong in ((best, other), (other, best)):
            differ = np.flatnonzero(runs[right].correct & ~runs[wrong].correct)
            order = np.argsort(of_label[wrong][differ] - of_label[right][differ], kind="stable")
            found += [(int(i), [right, wrong]) for i in differ[order][:PER_DIRECTION]]
    return found[:MAX_TEXTS]


def attach_texts(
    runs: Sequence[SavedRun], found: Sequence[tuple[int, list[int]]], device: str = "auto"
) -> tuple[list[Disagreement], list[str]]:
    """The found texts with colored words, as far as data and time allow, and remarks on what is missing."""
    texts, remark = test_texts(runs[0])
    remarks = [remark] if remark else []
    models: dict[int, Predictor] = {}
    start = time.monotonic()
    result = []
    for row, members in found:
        text = texts[row] if texts else None
        colored = text is not None and time.monotonic() - start < EXPLAIN_SECONDS
        sides = []
        for i in members:
            predicted, words = int(runs[i].predicted[row]), None
            if colored:
                models[i] = models.get(i) or Predictor.load(runs[i].folder, device)
                words = html_words(explain(models[i], text, predicted))
            probability = float(runs[i].probabilities[row, predicted])
            sides.append(RunPrediction(i, runs[i].class_names[predicted], probability, words))
        result.append(Disagreement(runs[0].ids[row], runs[0].class_names[runs[0].labels[row]], text, sides))
    if texts and found and not colored:
        remarks.append(f"The last texts have no colors: the time limit is {EXPLAIN_SECONDS:.0f} s.")
    return result, remarks


def test_texts(run: SavedRun) -> tuple[list[str] | None, str | None]:
    """The test texts, read again from the data; or None and the reason."""
    settings = run.settings["data"]
    values = {field.name: settings[field.name] for field in fields(DataConfig) if field.name in settings}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        test = load_dataset(DataConfig(**values), run.settings["run"]["seed"]).test
    except (UserError, OSError) as error:
        return None, f"Texts are left out because the data could not be read again: {first_line(error)}."
    if test.fingerprint() != run.fingerprint:
        return None, f"Texts are left out because {settings['data']} now has other test texts."
    return test.texts, None
