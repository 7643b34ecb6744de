"""Comparison of models over the same seeds, paired by seed.

Inputs: folders with one run per seed, as `--num-seeds` writes them. Outputs: mean and deviation of each score, and the
differences between models seed by seed, so that what a seed does to both (test texts, split, order) cancels; as numbers
and as tables of strings for the terminal and for `html`.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from minitext.evaluation.significance import SCORES, mean_and_std, paired_by_seed
from minitext.reporting.comparison import check_same_test
from minitext.reporting.formats import format_mean, format_score, text_table
from minitext.reporting.report import IN_PERCENT, METRIC_LABELS
from minitext.reporting.saved_run import COMPARED, SavedRun, read_run, short_names, with_seeds
from minitext.utils.errors import UserError

NOTE = (
    "Differences: mean (standard deviation) over the seeds of the difference of two runs with the same seed and test "
    "texts, and its standard error."
)


class SeedGroup(NamedTuple):
    """The runs of one model, ordered by seed."""

    name: str
    seeds: list[int]
    runs: list[SavedRun]

    def values(self, key: str) -> list[float]:
        """A score on test for each seed."""
        return [run.scores[key]["value"] for run in self.runs]


class PairedDifference(NamedTuple):
    """The difference between two groups, given as indices."""

    first: int
    second: int
    differences: dict[str, dict[str, float]]  # first minus second, `paired_by_seed`: accuracy, macro_f1, log_loss


class SeedComparison(NamedTuple):
    """Everything that the terminal and the page show."""

    groups: list[SeedGroup]
    pairs: list[PairedDifference]

    @property
    def same_texts(self) -> bool:
        """Whether all seeds have the same test texts."""
        return len({run.fingerprint for run in self.groups[0].runs}) == 1

    @property
    def title(self) -> str:
        seeds = self.groups[0].seeds
        texts = "the same test texts" if self.same_texts else "test texts that differ between seeds"
        models = f"{len(self.groups)} model{'s' if len(self.groups) > 1 else ''}"
        return f"{models} over {len(seeds)} seeds ({', '.join(map(str, seeds))}), {texts}"


def compare_seeds(folders: Sequence[str | Path]) -> SeedComparison | None:
    """Compare models over their seeds; None if `folders` are single runs, or one model's seeds on the same test texts.

    Raises UserError if the groups have other seeds, or for one seed other test texts.
    """
    unique = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    members = [with_seeds(folder) for folder in unique]
    if any(len(paths) < 2 for paths in members):
        return None
    groups = []
    for name, paths in zip(short_names(unique), members, strict=True):
        runs = [read_run(path, f"{name}/{path.name}") for path in paths]
        groups.append(SeedGroup(name, [int(path.name.removeprefix("seed")) for path in paths], runs))
    for folder, group in zip(unique[1:], groups[1:], strict=True):
        if group.seeds != groups[0].seeds:
            own, first = (", ".join(map(str, seeds)) for seeds in (group.seeds, groups[0].seeds))
            raise UserError(f"{folder}: seeds {own}, but {unique[0]} has {first}; train both with the same seeds")
        for one, other in zip(groups[0].runs, group.runs, strict=True):
            check_same_test(one, other)
    pairs = []
    for i, j in combinations(range(len(groups)), 2):
        found = {key: paired_by_seed(groups[i].values(key), groups[j].values(key)) for key in SCORES}
        pairs.append(PairedDifference(i, j, found))
    comparison = SeedComparison(groups, pairs)
    return None if len(groups) == 1 and comparison.same_texts else comparison


# Tables: a header and rows of strings


def show_seeds(comparison: SeedComparison) -> str:
    """Lines for a terminal."""
    blocks = [comparison.title, text_table(mean_rows(comparison))]
    if comparison.pairs:
        blocks += [text_table(difference_rows(comparison)), NOTE]
    return "\n\n".join(blocks)


def mean_rows(comparison: SeedComparison) -> list[list[str]]:
    """One row per score with its mean (standard deviation), one column per model."""
    rows = [["mean (standard deviation)", *(group.name for group in comparison.groups)]]
    for key in COMPARED:
        cells = (format_mean(*mean_and_std(group.values(key)), key in IN_PERCENT) for group in comparison.groups)
        rows.append([METRIC_LABELS[key], *cells])
    return rows


def difference_rows(comparison: SeedComparison) -> list[list[str]]:
    """One row per pair of models; no rows for a single one."""
    rows = [["", "accuracy (points)", "F1 (points)", "log-loss (nats)", "seeds"]]
    for pair in comparison.pairs:
        names = f"{comparison.groups[pair.first].name} - {comparison.groups[pair.second].name}"
        cells = (format_difference(pair.differences[key], key in IN_PERCENT) for key in SCORES)
        rows.append([names, *cells, str(pair.differences["accuracy"]["seeds"])])
    return rows


def format_difference(difference: dict[str, float], percent: bool) -> str:
    """`+0.08 (0.36), standard error 0.16`, in points or nats."""
    factor, digits = (100, 2) if percent else (1, 4)
    mean, std, error = (factor * difference[key] for key in ("mean", "std", "error"))
    return f"{mean:+.{digits}f} ({std:.{digits}f}), standard error {error:.{digits}f}"


def seed_rows(comparison: SeedComparison) -> list[list[str]]:
    """One row per seed with the accuracy of each model, and its Wilson interval."""
    rows = [["seed", *(group.name for group in comparison.groups)]]
    for seed, *runs in zip(comparison.groups[0].seeds, *(group.runs for group in comparison.groups), strict=True):
        rows.append([str(seed), *(format_score(run.scores["accuracy"], True) for run in runs)])
    return rows
