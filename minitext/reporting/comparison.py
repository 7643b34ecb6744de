"""Comparison of runs on the same test texts.

Inputs: folders of finished runs. Outputs: scores of each run, paired tests between runs, mean and deviation over seeds,
texts on which runs disagree; as numbers and as tables of strings for the terminal and for `html`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitext.evaluation import significance
from minitext.evaluation.metrics import RESAMPLES
from minitext.evaluation.significance import BootstrapEstimate, McNemar, difference, mcnemar, paired_scores
from minitext.evaluation.subgroups import accuracy_of, by_value
from minitext.reporting.disagreements import Disagreement, attach_texts, find_disagreements
from minitext.reporting.report import IN_PERCENT, METRIC_LABELS, format_mean, format_score, text_table
from minitext.reporting.saved_run import COMPARED, SavedRun, read_runs
from minitext.utils.errors import UserError

SEED = 0  # of the resamples that all runs share
MISSING = "–"
SCORES_NOTE = "Brackets: 95 % bootstrap intervals over the test texts."
PAIRS_NOTE = (
    f"Differences: paired bootstrap, {RESAMPLES:,} resamples of the same texts for both runs. McNemar's test: exact, "
    "two-sided, p corrected for the number of pairs (Holm)."
)


class PairwiseTest(NamedTuple):
    """The difference between two runs, given as indices in the list of runs."""

    first: int
    second: int
    differences: dict[str, BootstrapEstimate]  # first minus second: accuracy, macro_f1, log_loss
    mcnemar: McNemar
    corrected_p: float  # McNemar's p, corrected for the number of pairs (Holm)

    def interval(self, key: str) -> dict[str, float]:
        """A difference as `value`, `low` and `high`."""
        low, high = self.differences[key].interval()
        return {"value": self.differences[key].value, "low": low, "high": high}

    @property
    def significant(self) -> bool:
        return self.corrected_p < significance.SIGNIFICANT

    @property
    def verdict(self) -> str:
        return f"{'' if self.significant else 'not '}significant (p {format_p(self.corrected_p)})"


class SeedGroup(NamedTuple):
    """Runs that differ in their seed only."""

    name: str
    runs: list[int]
    scores: dict[str, tuple[float, float | None]]  # mean and standard deviation


@dataclass(frozen=True)
class Comparison:
    """Everything that the terminal and the page show."""

    runs: list[SavedRun]
    best: int  # the most accurate run
    pairs: list[PairwiseTest]
    seeds: list[SeedGroup]
    disagreements: list[Disagreement]
    remarks: list[str]  # why texts or colors are missing


def compare(folders: Sequence[str | Path], device: str = "auto") -> Comparison:
    """Compare finished runs.

    Args:
        folders: of finished runs; a folder with subfolders `seed<N>` means the runs in them.
        device: where the models compute the contributions of words.

    Raises:
        UserError: a folder is not a finished run, or two runs were tested on different texts.
    """
    runs = read_runs(folders)
    for other in runs[1:]:
        check_same_test(runs[0], other)
    paired = paired_scores(runs[0].labels, [run.predicted for run in runs], [run.probabilities for run in runs], SEED)
    best = max(range(len(runs)), key=lambda i: (paired[i]["accuracy"].value, -paired[i]["log_loss"].value))
    disagreements, remarks = attach_texts(runs, find_disagreements(runs, best), device)
    return Comparison(runs, best, pairwise_tests(runs, paired), seed_groups(runs, paired), disagreements, remarks)


def check_same_test(first: SavedRun, other: SavedRun) -> None:
    """Raises UserError, naming the difference, unless both runs were tested on the same texts and classes."""
    if first.class_names != other.class_names:
        raise UserError(
            f"{other.folder}: its classes are {', '.join(other.class_names)}, those of {first.folder} are "
            f"{', '.join(first.class_names)}; compare runs on the same classes"
        )
    if first.fingerprint == other.fingerprint and np.array_equal(first.labels, other.labels):
        return
    old, new = ({**run.settings["data"], "seed": run.settings["run"]["seed"]} for run in (first, other))
    found = [f"{key} {new.get(key)} against {old.get(key)}" for key in old if new.get(key) != old.get(key)]
    if len(first.ids) != len(other.ids):
        found.append(f"{len(other.ids):,} texts against {len(first.ids):,}")
    row = next((i for i, (a, b) in enumerate(zip(first.ids, other.ids, strict=False)) if a != b), None)
    if row is not None:
        found.append(f"text {row + 1} is {other.ids[row]} against {first.ids[row]}")
    if not found:
        found.append("same ids, other texts or labels")
    raise UserError(
        f"{other.folder}: other test texts than {first.folder} ({'; '.join(found)}); train both with the same data, "
        "--subset and --seed"
    )


def pairwise_tests(runs: Sequence[SavedRun], paired: Sequence[dict[str, BootstrapEstimate]]) -> list[PairwiseTest]:
    """Every two runs: differences of their scores, and McNemar's test."""
    run_pairs = list(combinations(range(len(runs)), 2))
    tests = [mcnemar(runs[i].correct, runs[j].correct) for i, j in run_pairs]
    corrected = significance.holm([test.p for test in tests])
    return [
        PairwiseTest(i, j, {key: difference(paired[i][key], paired[j][key]) for key in significance.SCORES}, test, p)
        for (i, j), test, p in zip(run_pairs, tests, corrected, strict=True)
    ]


def seed_groups(runs: Sequence[SavedRun], paired: Sequence[dict[str, BootstrapEstimate]]) -> list[SeedGroup]:
    """The runs `<folder>/seed<N>`, by folder, where there are two or more."""
    groups: dict[Path, list[int]] = {}
    for i, run in enumerate(runs):
        if re.fullmatch(r"seed\d+", run.folder.resolve().name):
            groups.setdefault(run.folder.resolve().parent, []).append(i)
    result = []
    for folder, members in groups.items():
        if len(members) > 1:
            values = {key: [paired[i][key].value for i in members] for key in significance.SCORES}
            scores = {key: significance.mean_and_std(of_seeds) for key, of_seeds in values.items()}
            result.append(SeedGroup(folder.name, members, scores))
    return result


# Tables: a header and rows of strings


def show_comparison(comparison: Comparison) -> str:
    """Lines for a terminal."""
    blocks = [title(comparison), text_table(overview_scores(comparison)), SCORES_NOTE]
    if comparison.runs[0].tags:
        blocks.append(text_table(tag_scores(comparison)))
    if comparison.pairs:
        blocks += [text_table(pair_rows(comparison)), PAIRS_NOTE]
    return "\n\n".join([*blocks, *(format_seeds(group) for group in comparison.seeds)])


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
        scores = [format_score(run.scores[key], key in IN_PERCENT) for run in runs]
        rows.append([METRIC_LABELS[key], *map("".join, zip(scores, stars, strict=True))])
    gaps = [run.scores["generalization_gap"] for run in runs]
    signs = [", significant" if gap["significant"] else "" for gap in gaps]
    gap_cells = [format_signed(gap, 100) for gap in gaps]
    return [
        *rows,
        ["train - test (points)", *map("".join, zip(gap_cells, signs, strict=True))],
        ["parameters", *(format_number(run.costs.get("parameters")) for run in runs)],
        ["training time (s)", *(format_number(run.costs.get("train_seconds"), 1) for run in runs)],
        ["texts per second", *(format_number(run.texts_per_second()) for run in runs)],
        ["model size (MB)", *(format_number(run.model_bytes() / 1e6, 1) for run in runs)],
    ]


def tag_scores(comparison: Comparison) -> list[list[str]]:
    """One row per tag with the accuracy on its texts (Wilson interval), one column per run; no rows without tags."""
    rows = [["tag", *(run.name for run in comparison.runs)]]
    for tag, chosen in by_value(np.array(comparison.runs[0].tags or [], dtype=object)):
        scores = [accuracy_of(run.correct[chosen]) for run in comparison.runs]
        rows.append([f"{tag} ({chosen.sum():,})", *(format_score(score, True) for score in scores)])
    return rows


def pair_rows(comparison: Comparison) -> list[list[str]]:
    """One row per pair of runs."""
    rows = [["", "accuracy (points)", "McNemar's test", "only one correct", "F1 (points)", "log-loss (nats)"]]
    for pair in comparison.pairs:
        names = f"{comparison.runs[pair.first].name} - {comparison.runs[pair.second].name}"
        accuracy, f1 = (format_signed(pair.interval(key), 100) for key in ("accuracy", "macro_f1"))
        counts = f"{pair.mcnemar.only_first:,} / {pair.mcnemar.only_second:,}"
        rows.append([names, accuracy, pair.verdict, counts, f1, format_signed(pair.interval("log_loss"), 1)])
    return rows


def format_seeds(group: SeedGroup) -> str:
    """`mlp, mean (standard deviation) of 5 seeds: accuracy 84.0 % (2.4), …`."""
    parts = [f"{METRIC_LABELS[key]} {format_mean(*score, key in IN_PERCENT)}" for key, score in group.scores.items()]
    return f"{group.name}, mean (standard deviation) of {len(group.runs)} seeds: {', '.join(parts)}"


def format_signed(score: Mapping[str, float], factor: int) -> str:
    """`+1.3 [-0.4, +3.0]` in points (`factor` 100), or `+0.013 [-0.004, +0.030]`."""
    digits = 1 if factor == 100 else 3
    value, low, high = (f"{factor * score[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def format_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def format_number(value: float | None, digits: int = 0) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"
