"""The comparison page: one HTML file without scripts that needs neither network nor other files.

Inputs: a `Comparison` or a `SeedComparison`. Outputs: HTML text, everything from outside escaped. Figures are SVG from
`plots`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minitext.reporting import comparison as tables
from minitext.reporting import paired_seeds, plots
from minitext.reporting.class_tables import (
    CONFUSIONS,
    MAX_CLASSES,
    MOST,
    confusion_rows,
    describe_cells,
    f1_rows,
    weakest_first,
)
from minitext.reporting.comparison import Comparison
from minitext.reporting.disagreements import EXPLAIN_SECONDS, Disagreement
from minitext.reporting.paired_seeds import SeedComparison
from minitext.reporting.saved_run import SavedRun
from minitext.utils.terminal import list_names

DISAGREEMENTS_NOTE = (
    "The best run against every other one. Blue words support the prediction, striped orange words oppose it, "
    f"underlined ones are unknown. Words are colored for {EXPLAIN_SECONDS:.0f} s at most."
)
TAGS_NOTE = "On test, with 95 % intervals (Wilson). Numbers of texts in parentheses."
CLASSES_NOTE = "F1 on test, with 95 % intervals (Wilson). Numbers of texts in parentheses."
FIGURE_NOTES = {
    "Calibration": "Below the dotted line, a run is overconfident. Bars: 95 % intervals; point area: number of texts.",
    "Predicted probabilities": "Correct and wrong predictions on test, stacked.",
    "Confusion matrices": "",  # describe_cells
    "Learning curves": "Train: training batches, during the epoch. Dotted: the best evaluation; its weights were kept.",
}


def page(comparison: Comparison) -> str:
    """The page of runs on the same test texts."""
    return document(
        tables.title(comparison),
        comparison.runs[0],
        verdict(comparison),
        scores(comparison),
        table_section("Differences", tables.PAIRS_NOTE, tables.pair_rows(comparison)),
        table_section("Accuracy by tag", TAGS_NOTE, tables.tag_scores(comparison)),
        classes(comparison.runs),
        figures_of_runs(comparison),
        disagreements(comparison),
        commands(comparison.runs),
    )


def seeds_page(comparison: SeedComparison) -> str:
    """The page of models over the same seeds."""
    trained = [group for group in comparison.groups if all(run.evaluations for run in group.runs)]
    drawings = [plots.curves(*(run.evaluations for run in group.runs), stacked=True) for group in trained]
    names = [group.name for group in trained]
    return document(
        comparison.title,
        comparison.groups[0].runs[0],
        table_section("Scores", "On test, over the seeds.", paired_seeds.mean_rows(comparison)),
        table_section("Differences", paired_seeds.NOTE, paired_seeds.difference_rows(comparison)),
        table_section("Accuracy by seed", "On test, with 95 % Wilson intervals.", paired_seeds.seed_rows(comparison)),
        figures("Learning curves", "One line per seed, and their mean.", names, drawings),
        commands([run for group in comparison.groups for run in group.runs]),
    )


def document(title: str, run: SavedRun, *parts: str) -> str:
    """A whole page; `run` names data and classes, `parts` are HTML."""
    date, style = datetime.now(UTC).date(), Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    subtitle = f"{run.settings['data']['data']} · classes {list_names(run.class_names, 5)} · compared on {date}"
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title><style>{style}</style></head>
<body><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>
{body}
</body></html>
"""


def section(title: str, note: str, *parts: str) -> str:
    """A part of the page; `note` is text, `parts` are HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{"".join(parts)}</section>'


def table(rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """A header and rows of text, named by their first columns. It scrolls in its box where it is too wide."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = ""
    for row in rows[1:]:
        names = "".join(f'<th scope="row">{escape(cell)}</th>' for cell in row[:num_names])
        body += f"<tr>{names}{''.join(f'<td>{escape(cell)}</td>' for cell in row[num_names:])}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def table_section(title: str, note: str, rows: Sequence[Sequence[str]]) -> str:
    """A section with a table, or nothing if there is only a header."""
    return section(title, note, table(rows)) if len(rows) > 1 else ""


def classes(runs: Sequence[SavedRun]) -> str:
    """F1 of each class, and the most frequent confusions. Of many classes the weakest are shown, the others folded."""
    names, matrices = runs[0].class_names, {run.name: np.array(run.scores["confusion"]) for run in runs}
    rows = f1_rows(names, matrices)
    confusions = confusion_rows(names, matrices) if len(names) > 2 else []
    frequent = section("Most frequent confusions", CONFUSIONS, table(confusions, 2)) if len(confusions) > 1 else ""
    if len(names) <= MAX_CLASSES:
        return section("Classes", CLASSES_NOTE, table(rows)) + frequent
    shown = [rows[0], *(rows[1 + c] for c in weakest_first(list(matrices.values()))[:MOST])]
    every = f"<details><summary>All {len(names):,} classes</summary>{table(rows)}</details>"
    return section("Weakest classes", f"{CLASSES_NOTE} Lowest mean first.", table(shown), every) + frequent


def figures_of_runs(comparison: Comparison) -> str:
    """A section for each of FIGURE_NOTES."""
    runs = comparison.runs
    trained = [run for run in runs if run.evaluations]
    drawings = (
        [plots.reliability(run.labels, {"": run.probabilities}) for run in runs],
        [plots.histogram(run.probabilities, run.correct, run.class_names) for run in runs],
        [plots.confusion(np.array(run.scores["confusion"]), run.class_names) for run in runs],
        [plots.curves(run.evaluations, stacked=True) for run in trained],
    )
    names = [[run.name for run in shown] for shown in (runs, runs, runs, trained)]
    notes = FIGURE_NOTES | {"Confusion matrices": describe_cells(len(runs[0].class_names))}
    return "\n".join(map(figures, notes, notes.values(), names, drawings))


def figures(title: str, note: str, names: Sequence[str], drawings: Sequence[Figure]) -> str:
    """A section with one figure per name, all on the same scales; nothing without figures."""
    if not drawings:
        return ""
    plots.share_scales(drawings)
    cells = "".join(
        f"<div><h3>{escape(name)}</h3>{plots.to_svg(drawing, f'{title}: {name}')}</div>"
        for name, drawing in zip(names, drawings, strict=True)
    )
    width = "grid wide" if drawings[0].get_figwidth() > 1.5 * plots.PANEL else "grid"
    return section(title, note, f'<div class="{width}">{cells}</div>')


def verdict(comparison: Comparison) -> str:
    """The best run, how far the others are behind it, and means over seeds."""
    best = comparison.runs[comparison.best]
    lines = [f"Highest accuracy: <b>{escape(best.name)}</b>, {best.scores['accuracy']['value']:.1%}"]
    for pair in comparison.pairs:
        if comparison.best in (pair.first, pair.second):
            other = comparison.runs[pair.second if pair.first == comparison.best else pair.first]
            points = f"{100 * abs(pair.differences['accuracy']['value']):.1f} points lower, {pair.verdict}"
            lines.append(f"<b>{escape(other.name)}</b>: {escape(tables.SAME if pair.same_predictions else points)}")
    lines += map(escape, comparison.seeds)
    return f'<ul class="verdict">{"".join(f"<li>{line}.</li>" for line in lines)}</ul>'


def scores(comparison: Comparison) -> str:
    names, accuracies = zip(*((run.name, run.scores["accuracy"]) for run in comparison.runs), strict=True)
    drawing = plots.to_svg(plots.intervals(names, accuracies, "accuracy on test (%)"), "Accuracy on test")
    note = f"On the test set. {tables.SCORES_NOTE} ★ marks the best value, significant or not."
    return section("Scores", note, table(tables.overview_scores(comparison)), drawing)


def disagreements(comparison: Comparison) -> str:
    """Texts that one run has right and another wrong."""
    texts = "".join(map(one_text, comparison.disagreements))
    return section("Disagreements", DISAGREEMENTS_NOTE, texts) if texts else ""


def one_text(shown: Disagreement) -> str:
    sides = []
    for side in shown.sides:
        right = side.predicted == shown.label
        mark = '<span class="good">✓ correct</span>' if right else '<span class="bad">✗ wrong</span>'
        predicted = f"<b>{escape(side.run)}</b> predicts {escape(side.predicted)}, {side.probability:.1%}"
        sides.append(f'<div>{predicted} {mark}<div class="words">{side.words}</div></div>')
    head = f'<h3>{escape(shown.label)} <span class="soft">· {escape(shown.text_id)}</span></h3>'
    return f'<div class="text">{head}<div class="sides">{"".join(sides)}</div></div>'


def commands(runs: Sequence[SavedRun]) -> str:
    rows = []
    for run in runs:
        settings = run.settings
        about = f"{settings['started']}, {settings['machine']}, torch {settings['versions']['torch']}; {run.folder}"
        command = f"<code>{escape(settings['command'])}</code>"
        rows.append(f'<dt>{escape(run.name)}</dt><dd>{command}<br><span class="soft">{escape(about)}</span></dd>')
    note = "The command of each run, with its start and machine."
    return section("Commands and environments", note, f"<dl>{''.join(rows)}</dl>")
