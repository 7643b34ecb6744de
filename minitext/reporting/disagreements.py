"""Texts on which runs disagree.

Inputs: runs on the same N test texts. Outputs: a few texts, from the runs' `mistakes.csv`, with the predictions of two
runs and the contribution of each word to them.
"""

import time
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from minitext.evaluation.attribution import explain
from minitext.evaluation.predictor import Predictor
from minitext.reporting.attribution_view import html_words
from minitext.reporting.saved_run import SavedRun

PER_DIRECTION = 2  # texts per pair of runs and per run that is right
EXPLAIN_SECONDS = 12.0  # time limit for the word contributions, which take long with a large encoder on a CPU


class RunPrediction(NamedTuple):
    """What one run predicts for a text."""

    run: str  # its name
    predicted: str
    probability: float  # of the predicted class
    words: str  # HTML: the text, with colored words if there was time


class Disagreement(NamedTuple):
    """A text with the prediction of a run that is right and of one that is wrong."""

    text_id: str
    label: str
    sides: list[RunPrediction]


def find_disagreements(runs: Sequence[SavedRun], best: int) -> list[tuple[int, int, int]]:
    """Indices of a text, of a run that is right and of one that is wrong: the best run against every other.

    PER_DIRECTION texts with either one right: of the most confident errors of the wrong run, those where the
    probabilities of the true class differ most.
    """
    rows = np.arange(len(runs[0].labels))
    of_label = [run.probabilities[rows, run.labels] for run in runs]  # (N,) each
    found = []
    for other in (i for i in range(len(runs)) if i != best):
        for right, wrong in ((best, other), (other, best)):
            listed = np.isin(runs[wrong].ids, list(runs[wrong].mistakes))
            differ = np.flatnonzero(runs[right].correct & listed)
            order = np.argsort(of_label[wrong][differ] - of_label[right][differ], kind="stable")
            found += [(int(i), right, wrong) for i in differ[order][:PER_DIRECTION]]
    return found


def explain_texts(runs: Sequence[SavedRun], found: Sequence[tuple[int, int, int]], device: str) -> list[Disagreement]:
    """The found texts, with colored words until EXPLAIN_SECONDS have passed, where the models still exist."""
    models: dict[int, Predictor] = {}
    start = time.monotonic()
    result = []
    for row, right, wrong in found:
        text_id, names = runs[wrong].ids[row], runs[wrong].class_names
        text, sides = runs[wrong].mistakes[text_id], []
        in_time = time.monotonic() - start < EXPLAIN_SECONDS
        for i in (right, wrong):
            predicted, words = int(runs[i].predicted[row]), escape(text)
            if in_time and (folder := runs[i].model_folder):
                models[i] = models.get(i) or Predictor.load(folder, device)
                words = html_words(explain(models[i], text, predicted))
            probability = float(runs[i].probabilities[row, predicted])
            sides.append(RunPrediction(runs[i].name, names[predicted], probability, words))
        result.append(Disagreement(text_id, names[runs[wrong].labels[row]], sides))
    return result
