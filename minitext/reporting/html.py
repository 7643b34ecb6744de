"""The comparison page: one HTML file without scripts that needs neither network nor other files.

Inputs: a `Comparison`. Outputs: HTML text, everything from outside escaped. Figures are SVG from `plots`.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from minitext.reporting import comparison as tables
from minitext.reporting import plots
from minitext.reporting.comparison import Comparison, PairwiseTest
from minitext.reporting.disagreements import Disagreement, RunPrediction
from minitext.reporting.saved_run import SavedRun
from minitext.utils.io import write_text

RUN_FIGURES: tuple[tuple[str, str, Callable[[SavedRun], Figure]], ...] = (
    (
        "Calibration",
        "Below the dotted line, a run is overconfident. Bars: 95 % intervals; point area: number of texts.",
        lambda run: plots.reliability(run.labels, {"": run.probabilities}),
    ),
    (
        "Predicted probabilities",
        "Correct and wrong predictions on test, stacked.",
        lambda run: plots.histogram(run.probabilities, run.correct, run.class_names),
    ),
    (
        "Confusion matrices",
        "True classes in rows, predicted classes in columns; shaded by the fraction of the true class.",
        lambda run: plots.confusion(run.confusion, run.class_names),
    ),
    (
        "Learning curves",
        "Train: training batches, during the epoch. Dotted: the best evaluation, whose weights were kept.",
        lambda run: plots.curves(run.evaluations, stacked=True),
    ),
)


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page; an existing file is replaced."""
    write_text(path, page(comparison))


def page(comparison: Comparison) -> str:
    """The whole page."""
    run = comparison.runs[0]
    title = escape(tables.title(comparison))
    date = datetime.now(UTC).date()
    subtitle = f"{run.settings['data']['data']} · classes {', '.join(run.class_names)} · compared on {date}"
    sections = (scores, differences, tags, figures_of_runs, disagreements, commands)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title}</title><style>{Path(__file__).with_name('page.css').read_text(encoding='utf-8')}</style>",
            f'</head><body><h1>{title}</h1><p class="soft">{escape(subtitle)}</p>',
            verdict(comparison),
            *(section(comparison) for section in sections),
            "</body></html>\n",
        ]
    )


def section(title: str, note: str, *parts: str) -> str:
    """A part of the page; `note` is text, `parts` are HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{"".join(parts)}</section>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """A header and rows of text; the first column names the rows. It scrolls in its box where it is too wide."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows[1:]
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(drawing: Figure, title: str) -> str:
    return f"<figure>{plots.to_svg(drawing, title)}</figure>"


def figures_of_runs(comparison: Comparison) -> str:
    """A section for each of RUN_FIGURES, with one figure per run, all on the same scales."""
    sections = []
    for title, note, draw in RUN_FIGURES:
        drawings = [draw(run) for run in comparison.runs]
        plots.share_scales(drawings)
        cells = [
            f"<div><h3>{escape(run.name)}</h3>{figure(drawing, f'{title}: {run.name}')}</div>"
            for run, drawing in zip(comparison.runs, drawings, strict=True)
        ]
        width = "grid wide" if drawings[0].get_figwidth() > 1.5 * plots.PANEL else "grid"
        sections.append(section(title, note, f'<div class="{width}">{"".join(cells)}</div>'))
    return "\n".join(sections)


def verdict(comparison: Comparison) -> str:
    """The result in one sentence per run."""
    best = comparison.runs[comparison.best]
    highest = " the highest" if len(comparison.runs) > 1 else ""
    lines = [f"<b>{escape(best.name)}</b> has{highest} accuracy: {best.scores['accuracy']['value']:.1%}"]
    lines += [lead(comparison, pair) for pair in comparison.pairs if comparison.best in (pair.first, pair.second)]
    overfitted = [escape(run.name) for run in comparison.runs if run.scores["generalization_gap"]["significant"]]
    if overfitted:
        gap = "generalization gap significant (&gt; 1 point)"
        lines.append(f'{", ".join(overfitted)}: <span class="bad">overfitted</span>, {gap}')
    lines += [escape(tables.format_seeds(group)) for group in comparison.seeds]
    return f'<ul class="verdict">{"".join(f"<li>{line}.</li>" for line in lines)}</ul>'


def lead(comparison: Comparison, pair: PairwiseTest) -> str:
    """How far the best run is ahead of the other one of the pair."""
    other = comparison.runs[pair.second if pair.first == comparison.best else pair.first]
    points = f"{100 * abs(pair.differences['accuracy'].value):.1f} points lower"
    style = "good" if pair.significant else "soft"
    return f'<b>{escape(other.name)}</b>: {points}, <span class="{style}">{escape(pair.verdict)}</span>'


def scores(comparison: Comparison) -> str:
    names, accuracies = zip(*((run.name, run.scores["accuracy"]) for run in comparison.runs), strict=True)
    drawing = plots.intervals(names, accuracies, "accuracy on test (%)")
    note = f"On the test set. {tables.SCORES_NOTE} ★ marks the best value, significant or not."
    return section("Scores", note, table(tables.overview_scores(comparison)), figure(drawing, "Accuracy on test"))


def differences(comparison: Comparison) -> str:
    if not comparison.pairs:
        return ""
    rows = tables.pair_rows(comparison)
    values = [pair.interval("accuracy") for pair in comparison.pairs]
    drawing = plots.intervals([row[0] for row in rows[1:]], values, "difference in accuracy (points)", zero=True)
    return section("Differences", tables.PAIRS_NOTE, table(rows), figure(drawing, "Differences in accuracy"))


def tags(comparison: Comparison) -> str:
    rows = tables.tag_scores(comparison)
    note = "On test, with 95 % intervals (Wilson). Numbers of texts in parentheses."
    return section("Accuracy by tag", note, table(rows)) if len(rows) > 1 else ""


def disagreements(comparison: Comparison) -> str:
    """Texts that one run has right and another wrong; for a single run, its most confident errors."""
    shown = comparison.disagreements
    if not shown:
        return ""
    single = len(comparison.runs) == 1
    notes = [] if single else ["The best run against every other one: the largest differences in probability."]
    if any(side.words for text in shown for side in text.sides):
        notes.append("Blue words support the prediction, striped orange words oppose it, underlined ones are unknown.")
    title = "Most confident errors" if single else "Disagreements"
    return section(title, " ".join([*notes, *comparison.remarks]), *(one_text(comparison, text) for text in shown))


def one_text(comparison: Comparison, shown: Disagreement) -> str:
    sides = "".join(one_side(comparison.runs[side.run].name, side, shown.label) for side in shown.sides)
    text = ""
    if shown.text is not None and not any(side.words for side in shown.sides):
        text = f'<div class="words">{escape(shown.text)}</div>'
    head = f'<h3>{escape(shown.label)} <span class="soft">· {escape(shown.text_id)}</span></h3>'
    return f'<div class="text">{head}<div class="sides">{sides}</div>{text}</div>'


def one_side(name: str, side: RunPrediction, label: str) -> str:
    mark = '<span class="good">✓ correct</span>' if side.predicted == label else '<span class="bad">✗ wrong</span>'
    words = f'<div class="words">{side.words}</div>' if side.words else ""
    predicted = f"{escape(side.predicted)}, {side.probability:.1%}"
    return f"<div><b>{escape(name)}</b> predicts {predicted} {mark}{words}</div>"


def commands(comparison: Comparison) -> str:
    rows = []
    for run in comparison.runs:
        settings = run.settings
        about = f"{settings['started']}, {settings['machine']}, torch {settings['versions']['torch']}; {run.folder}"
        command = f"<code>{escape(settings['command'])}</code>"
        rows.append(f'<dt>{escape(run.name)}</dt><dd>{command}<br><span class="soft">{escape(about)}</span></dd>')
    note = "The command of each run, with its start and machine."
    return section("Commands and environments", note, f"<dl>{''.join(rows)}</dl>")
