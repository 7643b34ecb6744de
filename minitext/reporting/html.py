"""The page that compares runs: one HTML file that needs nothing else, neither script nor network.

In: a `Comparison`. Out: HTML text, everything from outside escaped. Each section is a function from the comparison to
HTML, and is empty where there is nothing to show.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from minitext.evaluation.calibration import reliability_bins
from minitext.evaluation.significance import is_significant_gap
from minitext.reporting import charts, svg
from minitext.reporting.comparison import Comparison, PairwiseTest, counted, show_seeds
from minitext.reporting.disagreements import Disagreement, RunPrediction
from minitext.reporting.report import temperature_line
from minitext.reporting.style import STYLE
from minitext.reporting.tables import by_tag, changed_settings, name, scores, section
from minitext.utils.io import write_text


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page; what stood there is replaced."""
    write_text(path, page(comparison))


def page(comparison: Comparison) -> str:
    """The whole page."""
    runs = comparison.runs
    title = f"{counted(len(runs), 'run')} on {counted(len(runs[0].labels), 'test text')}"
    sections = (
        scores, changed_settings, against_time, by_tag, reliability, confusion, learning, texts, commands
    )  # fmt: skip
    data, classes = runs[0].settings["data"]["data"], ", ".join(runs[0].class_names)
    subtitle = f"{data} · classes {classes} · compared on {datetime.now(UTC).date()}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(subtitle)}</p>',
            verdict(comparison),
            *(section(comparison) for section in sections),
            "</body></html>\n",
        ]
    )


def verdict(comparison: Comparison) -> str:
    """What the numbers come to, in a sentence for each other run."""
    best, value = comparison.best, comparison.scores[comparison.best]["accuracy"]["value"]
    most = "; no run has more" if len(comparison.runs) > 1 else ""
    lines = [f'<li class="lead">{name(comparison, best)} has {100 * value:.1f} % of the texts right{most}.</li>']
    for pair in comparison.pairs:
        if best in (pair.first, pair.second):
            lines.append(f"<li>{behind(comparison, pair, pair.second if pair.first == best else pair.first)}</li>")
    overfitted = [name(comparison, run) for run, gap in enumerate(comparison.gaps) if is_significant_gap(gap)]
    if overfitted:
        lines.append(f'<li>{", ".join(overfitted)}: <span class="flag">overfitted</span>, better on the texts seen in '
                     "training by more than a point, and by more than chance.</li>")  # fmt: skip
    lines += [f"<li>{escape(show_seeds(seeds))}.</li>" for seeds in comparison.seeds]
    return f'<ul class="verdict">{"".join(lines)}</ul>'


def behind(comparison: Comparison, pair: PairwiseTest, other: int) -> str:
    points = 100 * abs(pair.differences["accuracy"].value)
    if not points:
        return f"{name(comparison, other)} has as many right."
    chance = '<span class="sure">more than chance</span>' if pair.differ else "which may be chance"
    return f"{name(comparison, other)} is {points:.1f} points behind, {chance}."


def against_time(comparison: Comparison) -> str:
    """Accuracy against training time, of the runs whose time was measured."""
    points = [
        charts.Point(
            i, run.name, run.costs["train_seconds"], *(score["accuracy"][key] for key in ("value", "low", "high"))
        )
        for i, (run, score) in enumerate(zip(comparison.runs, comparison.scores, strict=True))
        if run.costs.get("train_seconds")
    ]
    if not points:
        return ""
    note = "Accuracy on test with its 95 % interval, against the time that training took, in powers of ten."
    return section("What accuracy costs", note, f"<figure>{charts.scatter(points)}</figure>")


def texts(comparison: Comparison) -> str:
    """Texts that one run has right and another wrong, their words coloured."""
    if not comparison.disagreements:
        return ""
    alone = len(comparison.runs) == 1
    title = "Its most confident mistakes" if alone else "Who is right where another is wrong"
    coloured = any(side.words for shown in comparison.disagreements for side in shown.sides)
    note = " ".join(
        [
            "" if alone else "The most accurate run against each other one: texts that tell them apart most clearly.",
            "Blue words speak for what the run predicts, striped orange ones against it, the stronger the more; words "
            "with a dotted line the model has not seen." if coloured else "",
            *comparison.remarks,
        ]
    ).strip()  # fmt: skip
    return section(title, note, *(one_text(comparison, shown) for shown in comparison.disagreements))


def one_text(comparison: Comparison, shown: Disagreement) -> str:
    sides = "".join(one_side(comparison, shown, side) for side in shown.sides)
    text = ""
    if shown.text is not None and not any(side.words for side in shown.sides):
        text = f'<div class="words">{escape(shown.text)}</div>'
    return (
        f'<div class="text"><h3>{escape(shown.label)} <span class="soft">· {escape(shown.place)}</span></h3>'
        f'<div class="sides">{sides}</div>{text}</div>'
    )


def one_side(comparison: Comparison, shown: Disagreement, side: RunPrediction) -> str:
    right = side.predicted == shown.label
    sign = '<span class="sure">✓ right</span>' if right else '<span class="flag">✗ wrong</span>'
    words = f'<div class="words">{side.words}</div>' if side.words else ""
    said = f"{escape(side.predicted)}, {100 * side.probability:.1f} %"
    return f"<div>{name(comparison, side.run)} says {said} {sign}{words}</div>"


def learning(comparison: Comparison) -> str:
    """Loss and accuracy at each check, on the same scales for all runs."""
    checks = [[row for row in run.journal if "valid" in row] for run in comparison.runs]
    drawn = [rows for rows in checks if len(rows) > 1]
    if not drawn:
        return ""
    parts = [row[part] for rows in drawn for row in rows for part in ("train", "valid") if part in row]
    reach = {key: svg.spread([part[key] for part in parts], 0.05) for key in ("loss", "accuracy")}
    blocks = []
    for i, rows in enumerate(checks):
        inside = learning_curves(i, rows, reach) if len(rows) > 1 else single_check(rows)
        blocks.append(f"<div><h3>{name(comparison, i)}</h3>{inside}</div>")
    note = (
        "Solid: validation. Dashed: training texts, as they were met. The dotted line marks the check that was kept. "
        "The scales are the same for all runs."
    )
    return section("Learning", note, f'<div class="grid">{"".join(blocks)}</div>')


def learning_curves(run: int, rows: Sequence[dict], reach: dict[str, tuple[float, float]]) -> str:
    unit = "epoch" if "epoch" in rows[0] else "iteration"
    kept = next((row[unit] for row in reversed(rows) if row.get("best")), None)
    figures = []
    for key, title, form in (("loss", "loss (nats)", svg.number), ("accuracy", "accuracy", svg.percent)):
        series = [
            charts.Curve(label, [(row[unit], row[part][key]) for row in rows if part in row])
            for part, label in (("train", "train"), ("valid", "validation"))
        ]
        drawn = [curve for curve in series if curve.points]
        figures.append(f"<figure>{charts.curves(run, title, unit, drawn, reach[key], kept, form)}</figure>")
    return "".join(figures)


def single_check(rows: Sequence[dict]) -> str:
    if not rows:
        return '<p class="soft">No check was written down.</p>'
    valid = rows[0]["valid"]
    return (
        f'<p class="soft">Checked once, at the end: validation accuracy {100 * valid["accuracy"]:.1f} %, '
        f"loss {valid['loss']:.3f}.</p>"
    )


def confusion(comparison: Comparison) -> str:
    figures = []
    for i, run in enumerate(comparison.runs):
        drawing = charts.confusion(i, run.scores["test"]["confusion"], run.class_names)
        figures.append(f"<figure><h3>{name(comparison, i)}</h3>{drawing}</figure>")
    note = "True classes in rows, predicted ones in columns; per cent of the true class."
    small = "grid small" if len(comparison.runs[0].class_names) <= 3 else "grid"
    return section("Which classes are taken for which", note, f'<div class="{small}">{"".join(figures)}</div>')


def reliability(comparison: Comparison) -> str:
    figures = []
    for i, run in enumerate(comparison.runs):
        drawing = charts.reliability(i, reliability_bins(run.labels, run.probabilities), len(run.class_names))
        test = run.scores["test"]
        told = (
            f'<figcaption class="soft">{escape(temperature_line(test))}</figcaption>' if "ece_if_calibrated" in test else ""
        )
        figures.append(f"<figure><h3>{name(comparison, i)}</h3>{drawing}{told}</figure>")
    note = (
        "How often a prediction is right, against the probability that the run gave it: on the dashed line, these "
        "mean what they say; below it, the run is too sure. Bars: how many texts, of 15 bins of equal width."
    )
    return section("Whether probabilities can be believed", note, f'<div class="grid">{"".join(figures)}</div>')


def commands(comparison: Comparison) -> str:
    rows = []
    for i, run in enumerate(comparison.runs):
        about = f"{run.settings['started']}, {run.settings['machine']}, torch {run.settings['versions']['torch']}"
        rows.append(f"<dt>{name(comparison, i)}</dt><dd><code>{escape(run.settings['command'])}</code>"
                    f'<br><span class="soft">{escape(about)}; {escape(str(run.folder))}</span></dd>')  # fmt: skip
    return section("How each was made", "The command of each run, when and where it ran.", f"<dl>{''.join(rows)}</dl>")
