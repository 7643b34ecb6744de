"""Who is right where another is wrong: the texts that tell two runs apart, with the words that decided.

In: runs on the same test texts. Out: a handful of texts, read again from the data, and what each run says of them.
"""

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from minitext.data.dataset import DataConfig, load_dataset
from minitext.evaluation.attribution import explain
from minitext.evaluation.predictor import Predictor, load_predictor
from minitext.reporting.attribution_view import html_words
from minitext.reporting.saved_run import SavedRun
from minitext.utils.errors import UserError, first_line

PER_DIRECTION = 2  # texts shown of two runs, for either being the one that is right
SHOWN_TEXTS = 24
EXPLAINING = 12.0  # seconds for the words' colours; a large encoder takes its time on a CPU


class RunPrediction(NamedTuple):
    """What one run says of a text."""

    run: int
    predicted: str
    probability: float  # of the predicted class
    words: str | None  # HTML: the text, its words coloured


class Disagreement(NamedTuple):
    """A text that the first side has right and the second wrong; of one run alone, a mistake and one side."""

    place: str
    label: str
    text: str | None
    sides: list[RunPrediction]


def find_disagreements(runs: Sequence[SavedRun], best: int) -> list[tuple[int, list[int]]]:
    """Texts, as rows, each with the runs to show: the best run against every other, PER_DIRECTION with either one right.

    First come those where the two put the most different probabilities on the true class. A run alone: its most
    confident mistakes.
    """
    rows = np.arange(len(runs[0].labels))
    own = [run.probabilities[rows, run.labels] for run in runs]  # of the true class, (N,)
    if len(runs) == 1:
        wrong = np.flatnonzero(~runs[0].right)
        return [(int(row), [0]) for row in wrong[np.argsort(own[0][wrong], kind="stable")][: 2 * PER_DIRECTION]]
    found = []
    for other in (i for i in range(len(runs)) if i != best):
        for right, wrong in ((best, other), (other, best)):
            differ = np.flatnonzero(runs[right].right & ~runs[wrong].right)
            order = np.argsort(own[wrong][differ] - own[right][differ], kind="stable")
            found += [(int(row), [right, wrong]) for row in differ[order][:PER_DIRECTION]]
    return found[:SHOWN_TEXTS]


def attach_texts(
    runs: Sequence[SavedRun], chosen: Sequence[tuple[int, list[int]]]
) -> tuple[list[Disagreement], list[str]]:
    """The chosen texts with their words coloured, as far as the data are still there and time allows; and remarks."""
    texts, remark = test_texts(runs[0])
    remarks = [remark] if remark else []
    models: dict[int, Predictor] = {}
    start = time.monotonic()
    result = []
    for row, members in chosen:
        text = texts[row] if texts else None
        in_time = time.monotonic() - start < EXPLAINING
        sides = []
        for i in members:
            called = int(runs[i].predicted[row])
            words = None
            if text is not None and in_time:
                model = models.get(i) or models.setdefault(i, load_predictor(runs[i].folder))
                words = html_words(explain(model, text, called))
            sides.append(
                RunPrediction(i, runs[i].class_names[called], float(runs[i].probabilities[row, called]), words)
            )
        result.append(Disagreement(runs[0].ids[row], runs[0].class_names[runs[0].labels[row]], text, sides))
    uncoloured = sum(shown.text is not None and shown.sides[0].words is None for shown in result)
    if uncoloured:
        remarks.append(f"The last {uncoloured} texts are without colours: those before took {EXPLAINING:.0f} s.")
    return result, remarks


def test_texts(run: SavedRun) -> tuple[list[str] | None, str | None]:
    """The test texts, read again from the data; or None, and a sentence that says why not."""
    kept = {field.name for field in fields(DataConfig)}
    settings = run.settings["data"]
    try:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        config = DataConfig(**{key: values[key] for key in values if key in kept})
        test = load_dataset(config, run.settings["run"]["seed"]).test
    except (UserError, OSError) as error:
        return None, f"The texts are left out, as the data could not be read again: {first_line(error)}."
    if test.fingerprint() != run.fingerprint:
        return None, f"The texts are left out, as {settings['data']} holds other test texts now."
    return test.texts, None
