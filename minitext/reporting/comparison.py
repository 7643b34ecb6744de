"""Several runs on the same test texts, side by side.

In: folders of finished runs. Out: each run's scores, what every two of them differ by, and whether that may be chance;
as numbers, and as lines for a terminal. `page` makes HTML of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitext.evaluation import significance
from minitext.evaluation.calibration import expected_calibration_error
from minitext.evaluation.metrics import RESAMPLES
from minitext.evaluation.significance import (
    BootstrapEstimate,
    McNemar,
    difference,
    mcnemar,
    paired_scores,
    train_test_gap,
)
from minitext.evaluation.subgroups import accuracy_of, by_value
from minitext.reporting.disagreements import Disagreement, attach_texts, find_disagreements
from minitext.reporting.report import IN_PERCENT, format_mean, format_score, text_table
from minitext.reporting.saved_run import COMPARED, SavedRun, read_runs
from minitext.utils.errors import UserError

SEED = 0  # of the resamples that all runs share
DASH = "–"
INTERVALS = (
    "Brackets: 95 % bootstrap intervals over the texts. Differences are resampled in pairs, the same texts for both "
    f"runs, {RESAMPLES:,} times."
)
CORRECTED = (
    "p: McNemar's exact test, two-sided; corrected for all pairs by Holm's method where there are several. "
    "Bootstrap p: two-sided, from the same resamples, not corrected."
)


class PairwiseTest(NamedTuple):
    """Two runs, as places in the list of runs."""

    first: int
    second: int
    changed_settings: dict[str, BootstrapEstimate]  # first less second; accuracy, macro_f1, log_loss
    test: McNemar
    corrected: float  # the test's p, corrected for the number of pairs

    @property
    def differ(self) -> bool:
        return self.corrected < significance.SIGNIFICANT


class SeedGroup(NamedTuple):
    """Runs that differ by their seed."""

    name: str
    runs: list[int]
    scores: dict[str, tuple[float, float | None]]  # mean, deviation


@dataclass(frozen=True)
class Comparison:
    """Everything that the terminal and the page show."""

    runs: list[SavedRun]
    scores: list[dict]  # per run {"accuracy": {"value", "low", "high"}, "macro_f1", "log_loss", "ece"}
    gaps: list[BootstrapEstimate]  # per run: accuracy on train less on test
    best: int  # the most accurate run
    pairs: list[PairwiseTest]
    seeds: list[SeedGroup]
    disagreements: list[Disagreement]
    remarks: list[str]  # why texts or colours are missing, for people


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Compare finished runs. Raises UserError where a folder is no finished run, or two did not see the same test."""
    runs = read_runs(folders)
    for other in runs[1:]:
        check_same_test(runs[0], other)
    labels = runs[0].labels
    paired = paired_scores(labels, [run.predicted for run in runs], [run.probabilities for run in runs], SEED)
    best = max(range(len(runs)), key=lambda i: (paired[i]["accuracy"].value, -paired[i]["log_loss"].value))
    disagreements, remarks = attach_texts(runs, find_disagreements(runs, best))
    return Comparison(
        runs=runs,
        scores=[overview_scores(run) for run in runs],
        gaps=[gap_of(run) for run in runs],
        best=best,
        pairs=pairwise_tests(runs, paired),
        seeds=seed_groups(runs, paired),
        disagreements=disagreements,
        remarks=remarks,
    )


def check_same_test(first: SavedRun, other: SavedRun) -> None:
    """Raises UserError, naming what is different, unless both runs were tested on the same texts."""
    if first.class_names != other.class_names:
        raise UserError(
            f"{other.folder}: its classes are {', '.join(other.class_names)}, those of {first.folder} are "
            f"{', '.join(first.class_names)}; compare runs on the same classes"
        )
    if first.fingerprint == other.fingerprint and np.array_equal(first.labels, other.labels):
        return
    was, now = ({**run.settings.get("data", {}), "seed": run.settings["run"]["seed"]} for run in (first, other))
    found = [f"{key} {now.get(key)} against {was.get(key)}" for key in was if now.get(key) != was.get(key)]
    if len(first.ids) != len(other.ids):
        found.append(f"{len(other.ids):,} texts against {len(first.ids):,}")
    row = next((i for i, (a, b) in enumerate(zip(first.ids, other.ids, strict=False)) if a != b), None)
    if row is not None:
        found.append(f"text {row + 1} is {other.ids[row]} against {first.ids[row]}")
    if not found:
        found.append("the same places hold other texts or labels")
    raise UserError(
        f"{other.folder}: other test texts than {first.folder} ({'; '.join(found)}); train both with the same data, "
        "--subset and --seed"
    )


def overview_scores(run: SavedRun) -> dict:
    """The scores of the overview; the calibration error without interval where the run did not keep one."""
    test = run.scores["test"]
    scores = {name: test[name] for name in COMPARED}
    error = {"value": expected_calibration_error(run.labels, run.probabilities), "low": None, "high": None}
    return {**scores, "ece": test.get("ece", error)}


def gap_of(run: SavedRun) -> BootstrapEstimate:
    train, test = (np.array(run.scores[part]["confusion"]) for part in ("train", "test"))
    return train_test_gap(train, test, run.settings["run"]["seed"])  # as in the run's own report


def pairwise_tests(runs: Sequence[SavedRun], paired: Sequence[dict[str, BootstrapEstimate]]) -> list[PairwiseTest]:
    run_pairs = list(combinations(range(len(runs)), 2))
    tests = [mcnemar(runs[i].right, runs[j].right) for i, j in run_pairs]
    corrected = significance.holm([test.p for test in tests])
    return [
        PairwiseTest(
            i, j, {name: difference(paired[i][name], paired[j][name]) for name in significance.SCORES}, test, p
        )
        for (i, j), test, p in zip(run_pairs, tests, corrected, strict=True)
    ]


def seed_groups(runs: Sequence[SavedRun], paired: Sequence[dict[str, BootstrapEstimate]]) -> list[SeedGroup]:
    """The runs `<folder>/seed<N>`, by folder, where there are two or more."""
    groups: dict[Path, list[int]] = {}
    for i, run in enumerate(runs):
        if re.fullmatch(r"seed\d+", run.folder.resolve().name):
            groups.setdefault(run.folder.resolve().parent, []).append(i)
    return [
        SeedGroup(
            folder.name,
            members,
            {name: significance.mean_and_std([paired[i][name].value for i in members]) for name in significance.SCORES},
        )
        for folder, members in groups.items()
        if len(members) > 1
    ]


# What a person reads


def show_comparison(comparison: Comparison) -> str:
    """Lines for a terminal."""
    blocks = [f"{counted(len(comparison.runs), 'run')} on {counted(len(comparison.runs[0].labels), 'test text')}"]
    blocks.append(text_table(overview(comparison)))
    if comparison.runs[0].tags is not None:
        blocks.append(text_table(tag_rows(comparison)))
    if comparison.pairs:
        blocks.append("\n".join(show_pair(comparison, pair) for pair in comparison.pairs))
    if comparison.seeds:
        blocks.append("\n".join(show_seeds(seeds) for seeds in comparison.seeds))
    blocks.append(f"{INTERVALS}\n{CORRECTED}" if comparison.pairs else INTERVALS)
    return "\n\n".join(blocks)


def overview(comparison: Comparison) -> list[list[str]]:
    """A header and a row a score, with a column for each run."""
    runs, scores = comparison.runs, comparison.scores
    return [
        ["", *(run.name for run in runs)],
        ["accuracy", *(format_score(score["accuracy"], True) for score in scores)],
        ["F1 (macro)", *(format_score(score["macro_f1"], True) for score in scores)],
        ["log-loss (nats)", *(format_score(score["log_loss"], False) for score in scores)],
        ["calibration error", *(format_score(score["ece"], True) for score in scores)],
        ["train - test", *(show_gap(gap) for gap in comparison.gaps)],
        ["parameters", *(count_or_dash(run.costs.get("parameters")) for run in runs)],
        ["training", *(time_or_dash(run.costs.get("train_seconds")) for run in runs)],
        ["texts a second", *(count_or_dash(texts_a_second(run)) for run in runs)],
        ["size on disk", *(show_bytes(run.size) for run in runs)],
    ]


def tag_rows(comparison: Comparison) -> list[list[str]]:
    """A header and a row a kind of text, with a column for each run."""
    rows = [["accuracy on", *(run.name for run in comparison.runs)]]
    for kind, count, scores in by_kind(comparison.runs):
        rows.append([f"{kind} ({count:,})", *(format_score(score, True) for score in scores)])
    return rows


def by_kind(runs: Sequence[SavedRun]) -> list[tuple[str, int, list[dict[str, float]]]]:
    """For each tag its number of texts, and of each run the accuracy on them with Wilson's interval; nothing at all
    where the data have no tags.
    """
    return [
        (tag, int(chosen.sum()), [accuracy_of(run.right[chosen]) for run in runs])
        for tag, chosen in by_value(np.array(runs[0].tags or [], dtype=object))
    ]


def show_pair(comparison: Comparison, pair: PairwiseTest) -> str:
    first, second = (comparison.runs[i].name for i in (pair.first, pair.second))
    verdict = "more than chance" if pair.differ else "may be chance"
    corrected = "" if pair.corrected == pair.test.p else f" (corrected {show_p(pair.corrected)})"
    return (
        f"{first} - {second}: accuracy {show_points(pair.differences['accuracy'])}, "
        f"log-loss {show_signed(pair.differences['log_loss'])} "
        f"(bootstrap p {show_p(pair.differences['log_loss'].p_value())}); p {show_p(pair.test.p)}{corrected}: {verdict}"
    )


def show_seeds(seeds: SeedGroup) -> str:
    """`mlp, 5 seeds: accuracy 84.0 % (2.4), macro F1 83.9 % (2.5), log-loss 0.391 (0.021)`."""
    parts = [f"{label} {format_mean(*seeds.scores[name], name in IN_PERCENT)}" for name, label in SEED_SCORES.items()]
    return f"{seeds.name}, mean (deviation) over {len(seeds.runs)} seeds: {', '.join(parts)}"


SEED_SCORES = {"accuracy": "accuracy", "macro_f1": "F1 (macro)", "log_loss": "log-loss"}


def show_points(sampled: BootstrapEstimate) -> str:
    """`+1.3 points [-0.4, 3.0]`."""
    low, high = sampled.interval()
    return f"{100 * sampled.value:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"


def show_signed(sampled: BootstrapEstimate) -> str:
    low, high = sampled.interval()
    return f"{sampled.value:+.3f} [{low:.3f}, {high:.3f}]"


def show_gap(gap: BootstrapEstimate) -> str:
    return show_points(gap) + (", generalization gap significant" if significance.is_significant_gap(gap) else "")


def show_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "under 0.001"


def texts_a_second(run: SavedRun) -> float | None:
    seconds = run.costs.get("predict_seconds")
    return run.costs["texts"] / seconds if seconds else None


def count_or_dash(count: float | None) -> str:
    return DASH if count is None else f"{count:,.0f}"


def time_or_dash(seconds: float | None) -> str:
    """`6.7 s`, `12 min`, `3.4 h`."""
    if seconds is None:
        return DASH
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_bytes(size: int) -> str:
    """`742 kB`, `86.9 MB`."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
