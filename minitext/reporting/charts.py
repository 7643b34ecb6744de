"""Charts of runs as SVG text, for a page that carries everything within it and is sharp at any size.

In: numbers. Out: `<svg>` elements, each with a title and a description that screen readers say. `page` has the colours.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from minitext.reporting.svg import COLOURS, Axis, line, mark, number, percent, picture, ring, spread, text, ticks

TIMES = (
    (0.01, "0.01 s"), (0.1, "0.1 s"), (1, "1 s"), (3, "3 s"), (10, "10 s"), (30, "30 s"), (60, "1 min"), (300, "5 min"),
    (600, "10 min"), (1800, "30 min"), (3600, "1 h"), (10800, "3 h"), (36000, "10 h"), (86400, "1 day"),
    (604800, "1 week"),
)  # fmt: skip


class Point(NamedTuple):
    """A run in the scatter: accuracy with its interval, against seconds of training."""

    run: int
    name: str
    seconds: float
    value: float
    low: float
    high: float


def scatter(points: Sequence[Point]) -> str:
    """Accuracy against training time, the latter in powers of ten; each point with its interval and its name."""
    width, height = 420, 300
    logs = [math.log10(max(point.seconds, 1e-3)) for point in points]
    x = Axis(*spread(logs, 1, 0.12), 58, width - 14)
    y = Axis(*spread([end for point in points for end in (point.low, point.high)], 0.02), height - 48, 14)
    parts = []
    for tick in ticks(y.low, y.high):
        parts += [
            line(x.start, y(tick), x.end, y(tick), "grid"),
            text(x.start - 8, y(tick) + 4, percent(tick), "", "end"),
        ]
    for seconds, label in TIMES:
        if x.low <= math.log10(seconds) <= x.high:
            place = x(math.log10(seconds))
            parts += [line(place, y.start, place, y.end, "grid"), text(place, y.start + 18, label)]
    parts.append(text((x.start + x.end) / 2, height - 8, "training time", "name"))
    labels = apart([y(point.value) + 4 for point in points], 16)
    for point, log, label_y in zip(points, logs, labels, strict=True):
        px, py, kind = x(log), y(point.value), f"bar s{point.run % COLOURS}"
        left = px > (x.start + x.end) / 2
        label_x = px - 12 if left else px + 12
        tip = f"{point.name}: {point.value:.1%} after {point.seconds:,.1f} s"
        parts += [line(px, y(point.low), px, y(point.high), kind)]
        parts += [line(px - 4, y(end), px + 4, y(end), kind) for end in (point.low, point.high)]
        parts += [
            mark(point.run, px, py, tip, 6),
            text(label_x, label_y, point.name, "name", "end" if left else "start"),
        ]
    said = "; ".join(f"{point.name} {point.value:.1%} after {point.seconds:,.1f} s" for point in points)
    return picture(width, height, "Accuracy on test against training time", said, parts, "chart wide")


def apart(places: Sequence[float], least: float) -> list[float]:
    """The same places, each moved down as far as it must to be `least` below the one above it."""
    moved, last = list(places), -math.inf
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        moved[i] = last = max(places[i], last + least)
    return moved


class Curve(NamedTuple):
    """What was measured at each check: (epoch, value)."""

    name: str  # train or validation
    points: list[tuple[float, float]]


def curves(
    run: int,
    title: str,
    unit: str,
    series: Sequence[Curve],
    reach: tuple[float, float],
    kept: float | None,
    form: Callable[[float], str],
) -> str:
    """One score by epoch: train dashed with rings, validation solid with the run's mark; dotted: what was kept."""
    width, height = 320, 190
    ends = [place for curve in series for place, _ in curve.points]
    x, y = Axis(min(ends), max(max(ends), min(ends) + 1e-9), 50, width - 12), Axis(*reach, height - 40, 26)
    parts = [text(x.start - 42, 14, title, "name", "start")]
    for tick in ticks(*reach, 4):
        parts += [line(x.start, y(tick), x.end, y(tick), "grid"), text(x.start - 6, y(tick) + 4, form(tick), "", "end")]
    for tick in ticks(x.low, x.high, 6):
        parts.append(text(x(tick), y.start + 16, number(tick)))
    parts.append(text((x.start + x.end) / 2, height - 6, unit))
    if kept is not None:
        parts.append(line(x(kept), y.start, x(kept), y.end, "kept"))
    for curve in series:
        way = " ".join(f"{x(place):g},{y(value):g}" for place, value in curve.points)
        dashed = " dashed" if curve.name == "train" else ""
        parts.append(f'<polyline points="{way}" class="bar s{run % COLOURS}{dashed}"/>')
        if len(curve.points) <= 25:
            for place, value in curve.points:
                tip = f"{curve.name}, {unit} {number(place)}: {value:.3f}"
                parts.append(
                    mark(run, x(place), y(value), tip, 3.5) if not dashed else ring(run, x(place), y(value), tip)
                )
    said = "; ".join(
        f"{curve.name} from {curve.points[0][1]:.3f} to {curve.points[-1][1]:.3f}" for curve in series if curve.points
    )
    return picture(width, height, f"{title} by {unit}", said, parts, "chart")


def confusion(run: int, matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Counts, true classes in rows, predicted ones in columns; the stronger the shade, the more of the true class."""
    classes = len(names)
    cell = min(78.0, max(252 / classes, 15))
    margin = 12 + 7 * min(12, max(len(name) for name in names))
    size = margin + cell * classes + 4
    top = 38 if classes <= 4 else margin + 18
    parts = [text(margin + cell * classes / 2, 14, "predicted", "name")]
    for i, (row, name) in enumerate(zip(matrix, names, strict=True)):
        y, x, total = top + cell * i, margin + cell * i, max(sum(row), 1)
        short = name if len(name) <= 12 else name[:11] + "…"
        parts.append(text(margin - 6, y + cell / 2 + 4, short, "", "end"))
        if classes <= 4:
            parts.append(text(x + cell / 2, top - 8, short))
        else:
            turn = f'transform="translate({x + cell / 2 + 4:g} {top - 8:g}) rotate(-90)"'
            parts.append(f'<text {turn} text-anchor="start">{escape(short)}</text>')
        for j, count in enumerate(row):
            share, left = count / total, margin + cell * j
            tip = f"{name} called {names[j]}: {count:,} ({100 * share:.1f} %)"
            parts.append(
                f'<rect x="{left + 1:g}" y="{y + 1:g}" width="{cell - 2:g}" height="{cell - 2:g}" rx="3" '
                f'class="cell s{run % COLOURS}" fill-opacity="{0.06 + 0.5 * share:.2f}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            if cell >= 44:
                parts.append(text(left + cell / 2, y + cell / 2, f"{count:,}", "name"))
                parts.append(text(left + cell / 2, y + cell / 2 + 16, f"{100 * share:.1f} %", "in"))
            elif cell >= 24:
                parts.append(text(left + cell / 2, y + cell / 2 + 4, f"{count:,}", "in"))
    hits = ", ".join(
        f"{row[i] / max(sum(row), 1):.0%} of {name}" for i, (row, name) in enumerate(zip(matrix, names, strict=True))
    )
    return picture(size, top + cell * classes + 4, "Confusion matrix", f"Right: {hits}", parts, "chart")


def reliability(run: int, bins: Sequence[dict], classes: int) -> str:
    """Accuracy against confidence with 95 % intervals; on the dashed line they are equal. Below, how many texts."""
    width, height, floor = 320, 250, math.floor(10 / classes) / 10
    x, y = Axis(floor, 1, 50, width - 12), Axis(0, 1, 164, 12)
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            line(x.start, y(tick), x.end, y(tick), "grid"),
            text(x.start - 6, y(tick) + 4, percent(tick), "", "end"),
        ]
    for tick in ticks(floor, 1, 6):
        parts.append(text(x(tick), height - 24, percent(tick)))
    parts.append(text((x.start + x.end) / 2, height - 6, "confidence"))
    parts.append(line(x(floor), y(floor), x(1), y(1), "ideal"))
    total, most = sum(b["count"] for b in bins), max(b["count"] for b in bins)
    for b in bins:
        px, kind = x(b["confidence"]), f"bar s{run % COLOURS}"
        tip = f"{b['count']:,} texts of confidence {b['confidence']:.1%}: {b['accuracy']:.1%} right"
        left, right, tall = x(b["low"]), x(b["high"]), 34 * b["count"] / most
        parts.append(line(px, y(b["accuracy_low"]), px, y(b["accuracy_high"]), kind))
        parts.append(mark(run, px, y(b["accuracy"]), tip))
        parts.append(
            f'<rect x="{left + 0.5:g}" y="{210 - tall:g}" width="{max(right - left - 1, 1):g}" height="{tall:g}" '
            f'class="cell s{run % COLOURS}" fill-opacity="0.5"><title>{escape(tip)}</title></rect>'
        )
    parts.append(line(x.start, 210, x.end, 210, "grid"))
    said = "; ".join(
        f"confidence {b['confidence']:.0%}, right {b['accuracy']:.0%}, {b['count'] / total:.0%} of texts" for b in bins
    )
    return picture(width, height, "Reliability: accuracy by confidence", said, parts, "chart")
