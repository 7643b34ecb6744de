"""Comparison of runs on the same test texts.

Inputs: folders of finished runs. Outputs: scores of each run, paired tests between runs, mean and deviation over seeds,
texts on which runs disagree; as numbers and as tables of strings for the terminal and for `html`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitext.evaluation import significance
from minitext.evaluation.bootstrap import RESAMPLES, with_interval
from minitext.evaluation.intervals import proportion
from minitext.evaluation.significance import BootstrapEstimate, McNemar
from minitext.evaluation.subgroups import by_value
from minitext.reporting.disagreements import Disagreement, explain_texts, find_disagreements
from minitext.reporting.formats import format_mean, format_points, format_score, text_table
from minitext.reporting.report import (
    ABOVE,
    IF_CALIBRATED,
    IN_PERCENT,
    METRIC_LABELS,
    SMALL_RISE,
    format_if_calibrated,
    format_metric,
    loss_since_best,
)
from minitext.reporting.saved_run import COMPARED, SavedRun, read_runs
from minitext.utils.errors import UserError
from minitext.utils.terminal import list_names

SAME = "the same predictions"
SEED = 0  # of the resamples that all runs share
SCORES_NOTE = (
    "Brackets: 95 % intervals: Wilson for accuracy and F1, bootstrap for log-loss, Newcombe for the generalization gap "
    f"(accuracy on train minus on test). {ABOVE} Overfitting: the validation loss rose by more than "
    f"{SMALL_RISE:.0%} after the best evaluation."
)
PAIRS_NOTE = (
    f"Differences: paired bootstrap, {RESAMPLES:,} resamples of the same texts for both runs. McNemar's test: exact, "
    "two-sided, p corrected for the number of pairs (Holm)."
)


class PairwiseTest(NamedTuple):
    """The difference between two runs, given as indices in the list of runs."""

    first: int
    second: int
    differences: dict[str, dict[str, float]]  # first minus second, `value`, `low`, `high`: accuracy, macro_f1, log_loss
    mcnemar: McNemar
    corrected_p: float  # McNemar's p, corrected for the number of pairs (Holm)
    same_predictions: bool = False

    @property
    def verdict(self) -> str:
        p = f"{self.corrected_p:.3f}" if self.corrected_p >= 0.001 else "< 0.001"
        return f"{'' if self.corrected_p < significance.SIGNIFICANT else 'not '}significant (p {p})"


class Comparison(NamedTuple):
    """Everything that the terminal and the page show."""

    runs: list[SavedRun]
    best: int  # the most accurate run
    pairs: list[PairwiseTest]
    seeds: list[str]  # a line per group of runs that differ in their seed only
    disagreements: list[Disagreement]


def compare(folders: Sequence[str | Path], device: str = "auto") -> Comparison:
    """Compare finished runs; a folder with subfolders `seed<N>` means the runs in them.

    On `device`, the models compute the contributions of words. Raises UserError if a folder is not a finished run, or
    if two runs were tested on different texts.
    """
    runs = read_runs(folders)
    for other in runs[1:]:
        check_same_test(runs[0], other)
    predicted, probabilities = [run.predicted for run in runs], [run.probabilities for run in runs]
    paired = significance.paired_scores(runs[0].labels, predicted, probabilities, SEED)
    best = max(range(len(runs)), key=lambda i: (paired[i]["accuracy"].value, -paired[i]["log_loss"].value))
    disagreements = explain_texts(runs, find_disagreements(runs, best), device)
    return Comparison(runs, best, pairwise_tests(runs, paired), seed_lines(runs, paired), disagreements)


def check_same_test(first: SavedRun, other: SavedRun) -> None:
    """Raises UserError, naming the difference, unless both runs were tested on the same texts and classes."""
    if first.fingerprint == other.fingerprint:
        return
    old, new = map(describe_test, (first, other))
    # an evaluation on new data has neither splits nor a seed that chooses texts
    found = [f"{key} {new[key]} against {old[key]}" for key in old if key in new and new[key] != old[key]]
    remedy = "train both with the same data, --subset and --seed"
    if not (first.evaluations and other.evaluations):
        remedy = "evaluate both on the same data: minitext evaluate RUN --data FILE"
    raise UserError(
        f"{other.folder}: other test texts than {first.folder} ({'; '.join(found) or 'the data changed'}); {remedy}"
    )


def describe_test(run: SavedRun) -> dict[str, object]:
    """What decides on the test texts of a run."""
    seed = {"seed": run.settings["run"]["seed"]} if run.evaluations else {}
    counts = {"number of texts": len(run.labels), "classes": list_names(run.class_names)}
    return {**run.settings["data"], **seed, **counts}


def pairwise_tests(runs: Sequence[SavedRun], paired: Sequence[Mapping[str, BootstrapEstimate]]) -> list[PairwiseTest]:
    """Every two runs: differences of their scores, and McNemar's test."""
    run_pairs = list(combinations(range(len(runs)), 2))
    tests = [significance.mcnemar(runs[i].correct, runs[j].correct) for i, j in run_pairs]
    result = []
    for (i, j), test, p in zip(run_pairs, tests, significance.holm([test.p for test in tests]), strict=True):
        estimates = {key: significance.difference(paired[i][key], paired[j][key]) for key in significance.SCORES}
        differences = {key: with_interval(*estimate) for key, estimate in estimates.items()}
        same = np.array_equal(runs[i].predicted, runs[j].predicted)
        result.append(PairwiseTest(i, j, differences, test, p, same))
    return result


def seed_lines(runs: Sequence[SavedRun], paired: Sequence[Mapping[str, BootstrapEstimate]]) -> list[str]:
    """For several runs `mlp/seed<N>`: `mlp, mean (standard deviation) of 5 seeds: accuracy 84.0 % (2.4), …`."""
    groups: dict[Path, list[int]] = {}
    for i, run in enumerate(runs):
        folder = run.folder.resolve()
        if re.fullmatch(r"seed\d+", folder.name):
            groups.setdefault(folder.parent, []).append(i)
    lines = []
    for folder, members in groups.items():
        if len(members) > 1:
            means = {key: significance.mean_and_std([paired[i][key].value for i in members]) for key in paired[0]}
            scores = [f"{METRIC_LABELS[key]} {format_mean(*mean, key in IN_PERCENT)}" for key, mean in means.items()]
            lines.append(f"{folder.name}, mean (standard deviation) of {len(members)} seeds: {', '.join(scores)}")
    return lines


# Tables: a header and rows of strings


def show_comparison(comparison: Comparison) -> str:
    """Lines for a terminal."""
    blocks = [title(comparison), text_table(overview_scores(comparison)), SCORES_NOTE]
    if comparison.runs[0].tags:
        blocks.append(text_table(tag_scores(comparison)))
    if comparison.pairs:
        blocks += [text_table(pair_rows(comparison)), PAIRS_NOTE]
    return "\n\n".join(blocks + comparison.seeds)


def title(comparison: Comparison) -> str:
    count = len(comparison.runs)
    return f"{count} {'run' if count == 1 else 'runs'} on {len(comparison.runs[0].labels):,} test texts"


def overview_scores(comparison: Comparison) -> list[list[str]]:
    """One row per score, one column per run; a star marks the best value."""
    runs = comparison.runs
    rows = [["", *(run.name for run in runs)]]
    for key in COMPARED:
        values = [run.scores[key]["value"] for run in runs]
        best = max(values) if key in ("accuracy", "macro_f1") else min(values)
        stars = [" ★" if len(runs) > 1 and value == best else "" for value in values]
        scores = [format_metric(run.scores, key) for run in runs]
        rows.append([METRIC_LABELS[key], *map("".join, zip(scores, stars, strict=True))])
    return [
        *rows,
        [IF_CALIBRATED, *(format_if_calibrated(run.scores) for run in runs)],
        ["generalization gap (points)", *(format_gap(run) for run in runs)],
        ["validation loss, best to last", *(format_losses(run.evaluations) for run in runs)],
        ["parameters", *(f"{run.cost.parameters:,}" for run in runs)],
        ["training time (s)", *(f"{run.cost.train_seconds:,.1f}" for run in runs)],
        ["texts per second", *(f"{run.cost.texts / run.cost.predict_seconds:,.0f}" for run in runs)],
    ]


def format_gap(run: SavedRun) -> str:
    """The generalization gap of a run, `none` for its evaluation on new data."""
    return format_points(run.scores["generalization_gap"]) if "generalization_gap" in run.scores else "none"


def format_losses(evaluations: Sequence[Mapping]) -> str:
    """`0.412 to 0.611 (overfitting)`: the validation loss of the best and of the last evaluation; `none` without."""
    if not evaluations:
        return "none"
    best, last, rose = loss_since_best(evaluations)
    return f"{best['valid']['loss']:.3f} to {last['valid']['loss']:.3f}{' (overfitting)' if rose else ''}"


def tag_scores(comparison: Comparison) -> list[list[str]]:
    """One row per tag with the accuracy on its texts (Wilson interval), one column per run; no rows without tags."""
    rows = [["tag", *(run.name for run in comparison.runs)]]
    for tag, chosen in by_value(np.array(comparison.runs[0].tags or [], dtype=object)):
        scores = [proportion(int(run.correct[chosen].sum()), int(chosen.sum())) for run in comparison.runs]
        rows.append([f"{tag} ({chosen.sum():,})", *(format_score(score, True) for score in scores)])
    return rows


def pair_rows(comparison: Comparison) -> list[list[str]]:
    """One row per pair of runs."""
    rows = [["", "accuracy (points)", "McNemar's test", "only one correct", "F1 (points)", "log-loss (nats)"]]
    for pair in comparison.pairs:
        names = f"{comparison.runs[pair.first].name} - {comparison.runs[pair.second].name}"
        accuracy, f1 = format_points(pair.differences["accuracy"]), format_points(pair.differences["macro_f1"])
        counts = f"{pair.mcnemar.only_first:,} / {pair.mcnemar.only_second:,}"
        loss = "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format_map(pair.differences["log_loss"])
        same = [names, SAME, "", counts, "", loss]  # an interval [0, 0] would only say that nothing was measured
        rows.append(same if pair.same_predictions else [names, accuracy, pair.verdict, counts, f1, loss])
    return rows
