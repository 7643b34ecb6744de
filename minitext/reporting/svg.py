"""What charts are made of, as SVG text: axes, ticks, lines, words, and each run's own mark.

In: numbers. Out: SVG elements. Colours are left to the page's style sheet (classes `s0`, `s1` … are the runs', from the
palette of Okabe & Ito 2008); runs also differ in their marks, so that nothing is told by colour alone.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

COLOURS = 6  # classes s0 … s5 of the style sheet
MARKS = ("circle", "square", "triangle", "diamond", "cross", "plus", "ring")  # seven: with six colours, 42 pairs


class Axis(NamedTuple):
    """From `low` … `high` to the pixels `start` … `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0), 1) * (self.end - self.start), 1)


def picture(width: float, height: float, title: str, description: str, parts: Sequence[str], kind: str = "") -> str:
    """One drawing; screen readers say its title and description."""
    label = escape(f"{title}. {description}")
    return (
        f'<svg class="{kind}" role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}"><title>{escape(title)}</title><desc>{escape(description)}</desc>{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, `most` at most: steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1)
    first = math.ceil(round(low / step, 9))
    return [round((first + i) * step, 12) for i in range(most) if (first + i) * step <= high + step * 1e-9]


def number(value: float) -> str:
    return f"{value:,.10g}"


def percent(value: float) -> str:
    return f"{100 * value:.10g} %"


def spread(values: Sequence[float], least: float, margin: float = 0.06) -> tuple[float, float]:
    """A range that shows all values with some room, and is `least` wide at least."""
    low, high = min(values), max(values)
    room = max((high - low) * margin, (least - (high - low)) / 2)
    return low - room, high + room


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def mark(run: int, x: float, y: float, tip: str = "", r: float = 4.5) -> str:
    """A run's own mark: its colour and its shape."""
    shape = MARKS[run % len(MARKS)]
    if shape == "circle":
        body = f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}"'
    elif shape == "ring":
        body = f'<circle cx="{x:g}" cy="{y:g}" r="{r - 1:g}" class="hollow"'
    else:
        ways = {
            "square": f"M{x - r:g} {y - r:g}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z",
            "triangle": f"M{x:g} {y - 1.25 * r:g}L{x + 1.2 * r:g} {y + 0.9 * r:g}H{x - 1.2 * r:g}z",
            "diamond": f"M{x:g} {y - 1.35 * r:g}L{x + 1.35 * r:g} {y:g}L{x:g} {y + 1.35 * r:g}L{x - 1.35 * r:g} {y:g}z",
            "cross": f"M{x - r:g} {y - r:g}L{x + r:g} {y + r:g}M{x - r:g} {y + r:g}L{x + r:g} {y - r:g}",
            "plus": f"M{x - 1.2 * r:g} {y:g}H{x + 1.2 * r:g}M{x:g} {y - 1.2 * r:g}V{y + 1.2 * r:g}",
        }
        body = f'<path d="{ways[shape]}"' + (' class="hollow"' if shape in ("cross", "plus") else "")
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<g class="mark s{run % COLOURS}">{body}/>{inside}</g>'


def ring(run: int, x: float, y: float, tip: str) -> str:
    inside = f"<title>{escape(tip)}</title>"
    return f'<g class="mark s{run % COLOURS}"><circle cx="{x:g}" cy="{y:g}" r="2.5" class="hollow"/>{inside}</g>'


def legend_mark(run: int) -> str:
    """A mark to stand before a run's name in running text; the name says the rest."""
    return f'<svg class="key" aria-hidden="true" viewBox="0 0 14 14" width="14" height="14">{mark(run, 7, 7)}</svg>'


def whisker(run: int, value: float, low: float, high: float, reach: tuple[float, float], zero: bool = False) -> str:
    """One value with its interval, for a table's cell; rows of one `reach` can be compared. `zero`: a line at 0."""
    x = Axis(*reach, 6, 134)
    kind = f"bar s{run % COLOURS}"
    parts = [line(x(0), 0, x(0), 20, "zero")] if zero else [line(6, 10, 134, 10, "grid")]
    parts += [
        line(x(low), 10, x(high), 10, kind),
        line(x(low), 6, x(low), 14, kind),
        line(x(high), 6, x(high), 14, kind),
    ]
    parts.append(mark(run, x(value), 10, r=4))
    return (
        f'<svg class="whisker" aria-hidden="true" viewBox="0 0 140 20" width="140" height="20">{"".join(parts)}</svg>'
    )
