"""The page that compares runs: one HTML file that needs nothing else, neither script nor network.

In: a `Comparison`. Out: HTML text, everything from outside escaped. Each section is a function from the comparison to
HTML, and is empty where there is nothing to show.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np

from minitext import charts, svg
from minitext.calibration import reliability_bins, wilson
from minitext.compare import (
    CORRECTED,
    INTERVALS,
    Comparison,
    Pair,
    count_or_dash,
    counted,
    show_bytes,
    show_p,
    show_points,
    show_seeds,
    show_signed,
    texts_a_second,
    time_or_dash,
)
from minitext.disagreements import Disagreement, Side
from minitext.files import write_text
from minitext.significance import is_overfitted
from minitext.style import STYLE


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page; what stood there is replaced."""
    write_text(path, page(comparison))


def page(comparison: Comparison) -> str:
    """The whole page."""
    runs = comparison.runs
    title = f"{counted(len(runs), 'run')} on {counted(len(runs[0].labels), 'test text')}"
    sections = (
        scores, differences, against_time, by_tag, texts, learning, confusion, reliability, commands
    )  # fmt: skip
    data, classes = runs[0].settings["data"]["data"], ", ".join(runs[0].names)
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


def section(title: str, note: str, *parts: str) -> str:
    """A titled part of the page; `note` is text, `parts` are HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{"".join(parts)}</section>'


def name(comparison: Comparison, run: int) -> str:
    """A run's mark and name."""
    return f'<span class="run">{svg.legend_mark(run)}{escape(comparison.runs[run].name)}</span>'


def verdict(comparison: Comparison) -> str:
    """What the numbers come to, in a sentence for each other run."""
    best, value = comparison.best, comparison.scores[comparison.best]["accuracy"]["value"]
    lead = f"{name(comparison, best)} has {value:.1%} of the texts right"
    lines = [f'<li class="lead">{lead}{", the most of all" if len(comparison.runs) > 1 else ""}.</li>']
    for pair in comparison.pairs:
        if best in (pair.first, pair.second):
            other = pair.second if pair.first == best else pair.first
            lines.append(f"<li>{against(comparison, pair, other)}</li>")
    for run, gap in enumerate(comparison.gaps):
        if is_overfitted(gap):
            low, _ = gap.interval()
            lines.append(f'<li>{name(comparison, run)} <span class="flag">overfits</span>: it is at least '
                         f"{100 * low:.1f} points better on the texts that it was trained on.</li>")  # fmt: skip
    lines += [f"<li>{escape(show_seeds(seeds))}.</li>" for seeds in comparison.seeds]
    return f'<ul class="verdict">{"".join(lines)}</ul>'


def against(comparison: Comparison, pair: Pair, other: int) -> str:
    points = 100 * abs(pair.differences["accuracy"].value)
    if pair.differ:
        return f'{name(comparison, other)} is {points:.1f} points behind, <span class="sure">more than chance</span>.'
    return f"{name(comparison, other)} is {points:.1f} points behind, which may be chance."


def table(head: Sequence[str], rows: Sequence[str], cards: bool = False) -> str:
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    kind = ' class="cards"' if cards else ""
    inside = f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide-table"><table{kind}>{inside}</table></div>'


def cell(label: str, inside: str, best: bool = False) -> str:
    """A cell of HTML; `label` stands above it on a narrow screen."""
    return f'<td data-label="{escape(label)}"{" class=best" if best else ""}>{inside}</td>'


def scored(score: dict, in_percent: bool) -> str:
    """A score, with its interval below it."""
    factor, digits, unit = (100, 1, " %") if in_percent else (1, 3, "")
    if score["value"] is None:
        return "none"
    value = f"<b>{factor * score['value']:.{digits}f}{unit}</b>"
    if score["low"] is None:
        return value
    return (
        value
        + f'<span class="interval">{factor * score["low"]:.{digits}f} to {factor * score["high"]:.{digits}f}</span>'
    )


SCORES = (("accuracy", "accuracy", max), ("macro_f1", "F1 (macro)", max), ("log_loss", "log-loss (nats)", min),
          ("ece", "calibration error", min))  # fmt: skip


def scores(comparison: Comparison) -> str:
    """The overview: a row a run."""
    reach = reach_of([(score["accuracy"]["low"], score["accuracy"]["high"]) for score in comparison.scores], 0.02)
    rows = []
    for i, (run, own, gap) in enumerate(zip(comparison.runs, comparison.scores, comparison.gaps, strict=True)):
        cells = []
        for key, label, better in SCORES:
            values = [score[key]["value"] for score in comparison.scores]
            best = len(values) > 1 and own[key]["value"] == better(values)
            inside = scored(own[key], key != "log_loss")
            if key == "accuracy":
                inside += svg.whisker(i, own[key]["value"], own[key]["low"], own[key]["high"], reach)
            cells.append(cell(label, inside, best))
        low, high = gap.interval()
        flag = '<small class="flag">overfitted</small>' if is_overfitted(gap) else ""
        cells.append(cell("train − test", f"{100 * gap.value:+.1f} points"
                          f'<span class="interval">{100 * low:.1f} to {100 * high:.1f}</span>{flag}'))  # fmt: skip
        cells.append(cell("parameters", count_or_dash(run.costs.get("parameters"))))
        cells.append(cell("training", time_or_dash(run.costs.get("train_seconds"))))
        cells.append(cell("texts a second", count_or_dash(texts_a_second(run))))
        cells.append(cell("on disk", show_bytes(run.size)))
        rows.append(f'<tr><th scope="row">{name(comparison, i)}</th>{"".join(cells)}</tr>')
    head = [
        "",
        *(label for _, label, _ in SCORES),
        "train − test",
        "parameters",
        "training",
        "texts a second",
        "on disk",
    ]
    note = "On test, with 95 % bootstrap intervals over the texts. ★ marks the best value, which may be so by chance."
    return section("Scores", note, table(head, rows, cards=True))


def reach_of(intervals: Sequence[tuple[float, float]], least: float) -> tuple[float, float]:
    return svg.spread([end for interval in intervals for end in interval], least)


def differences(comparison: Comparison) -> str:
    """Every two runs: what they differ by, and whether it may be chance."""
    if not comparison.pairs:
        return ""
    ends = [pair.differences["accuracy"].interval() for pair in comparison.pairs]
    far = 1.08 * max(0.01, *(abs(end) for interval in ends for end in interval))
    rows = []
    for pair, (low, high) in zip(comparison.pairs, ends, strict=True):
        gap = pair.differences["accuracy"]
        ahead = pair.first if gap.value >= 0 else pair.second
        only = f"{pair.test.only_first:,} and {pair.test.only_second:,}"
        verdict = '<b class="sure">more than chance</b>' if pair.differ else "may be chance"
        rows.append(
            f'<tr><th scope="row">{name(comparison, pair.first)}<br><span class="soft">less </span>'
            f"{name(comparison, pair.second)}</th>"
            + cell(
                "accuracy", escape(show_points(gap)) + svg.whisker(ahead, gap.value, low, high, (-far, far), zero=True)
            )
            + cell("F1 (macro)", escape(show_points(pair.differences["macro_f1"])))
            + cell("log-loss", escape(show_signed(pair.differences["log_loss"])))
            + cell("only one is right", f"{only}<small>texts, first and second</small>")
            + cell("McNemar", f"{escape(show_p(pair))}<small>{verdict}</small>")
            + "</tr>"
        )
    head = ["", "accuracy", "F1 (macro)", "log-loss (nats)", "only one is right", "McNemar"]
    return section("Differences", f"{INTERVALS} {CORRECTED}", table(head, rows, cards=True))


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


def by_tag(comparison: Comparison) -> str:
    """Accuracy in each kind of text, where the data say of what kind a text is."""
    tags = comparison.runs[0].tags
    if tags is None:
        return ""
    kinds, rows = np.array(tags, dtype=object), []
    for kind in sorted(set(tags)):
        inside, cells = kinds == kind, []
        for i, run in enumerate(comparison.runs):
            hits, count = int(run.right[inside].sum()), int(inside.sum())
            low, high = wilson(hits, count)
            own = {"value": hits / count, "low": low, "high": high}
            cells.append(cell(run.name, scored(own, True) + svg.whisker(i, hits / count, low, high, (0, 1))))
        label = f'{escape(kind or "(none)")}<small class="interval">{counted(int(inside.sum()), "text")}</small>'
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    note = "Accuracy on test by tag, with 95 % intervals (Wilson); the scale of the bars is 0 to 100 %."
    head = ["", *(run.name for run in comparison.runs)]
    return section("By kind of text", note, table(head, rows, cards=True))


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
        f'<div class="text"><h3>{escape(shown.label)} <span class="soft">is right: {escape(shown.place)}</span></h3>'
        f'<div class="sides">{sides}</div>{text}</div>'
    )


def one_side(comparison: Comparison, shown: Disagreement, side: Side) -> str:
    right = side.predicted == shown.label
    sign = '<span class="sure">✓ right</span>' if right else '<span class="flag">✗ wrong</span>'
    words = f'<div class="words">{side.words}</div>' if side.words else ""
    said = f"{escape(side.predicted)}, {side.probability:.1%}"
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
        blocks.append(f'<div class="block"><h3>{name(comparison, i)}</h3>{inside}</div>')
    note = (
        "Solid: validation. Dashed: training texts, as they were met. The dotted line marks the check that was kept. "
        "The scales are the same for all runs."
    )
    return section("Learning", note, *blocks)


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
    return f'<div class="curves">{"".join(figures)}</div>'


def single_check(rows: Sequence[dict]) -> str:
    if not rows:
        return '<p class="soft">No check was written down.</p>'
    valid = rows[0]["valid"]
    return (
        f'<p class="soft">Checked once, at the end: validation accuracy {valid["accuracy"]:.1%}, '
        f"loss {valid['loss']:.3f}.</p>"
    )


def confusion(comparison: Comparison) -> str:
    figures = []
    for i, run in enumerate(comparison.runs):
        drawing = charts.confusion(i, run.scores["test"]["confusion"], run.names)
        figures.append(f"<figure><h3>{name(comparison, i)}</h3>{drawing}</figure>")
    note = "True classes in rows, predicted ones in columns; per cent of the true class."
    return section("Which classes are taken for which", note, f'<div class="grid">{"".join(figures)}</div>')


def reliability(comparison: Comparison) -> str:
    figures = []
    for i, run in enumerate(comparison.runs):
        drawing = charts.reliability(i, reliability_bins(run.labels, run.probabilities), len(run.names))
        figures.append(f"<figure><h3>{name(comparison, i)}</h3>{drawing}</figure>")
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
