"""Figures of runs, drawn from saved numbers.

Inputs: evaluations of `metrics.jsonl`, labels (N,), probabilities (N, C), confusion matrices (C, C).
Outputs: matplotlib figures; PNG files for a run, SVG text for the comparison page. N test texts, C classes.
Colors: the palette of Okabe & Ito 2008, which color-blind readers can tell apart.
"""

import io
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path

import numpy as np

from minitext.evaluation.calibration import expected_calibration_error, reliability_bins
from minitext.reporting.class_tables import MAX_ANNOTATED, MAX_FRACTIONS
from minitext.reporting.saved_run import read_run
from minitext.utils.io import atomic
from minitext.utils.terminal import shorten, text_width

# Figures need no backend, but matplotlib cannot be imported where MPLBACKEND names one that is not installed, as the
# shell of a notebook does
backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # no pyplot: it would look for a display and keep every figure alive
from matplotlib.ticker import MaxNLocator, PercentFormatter

if backend is not None:
    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = backend

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#808080"
DPI = 160
PROBABILITY_BINS = 20
PANEL = 4.5  # width of one plot in inches
MAX_LABELED = 80  # names at an axis of the confusion matrix
NAME_WIDTH = 20  # columns of a name


def draw(folder: Path) -> None:
    """Draw the PNG files of a finished run: four, or three without learning curves if it was evaluated on new data.

    Raises UserError where its other files are missing or corrupt.
    """
    run = read_run(folder)
    if run.evaluations:
        save(curves(run.evaluations), folder / "curves.png")
    save(confusion(np.array(run.scores["confusion"]), run.class_names), folder / "confusion.png")
    save(histogram(run.probabilities, run.correct, run.class_names), folder / "probabilities.png")
    temperature = run.scores["before_temperature"]["temperature"]
    powers = run.probabilities**temperature  # softmax(T log p): the temperature T has divided the logits
    uncalibrated = powers / powers.sum(1, keepdims=True)
    panels = {"before calibration": uncalibrated, f"temperature {temperature:.2f}": run.probabilities}
    save(reliability(run.labels, panels), folder / "reliability.png")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file."""
    with atomic(path) as temporary, ignore_missing_glyphs():
        figure.savefig(temporary, dpi=DPI, format="png")


@contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """No warning for a class name in a script that the font lacks: the figure has a box for each character."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield


def to_svg(figure: Figure, title: str) -> str:
    """An `<svg>` element for a page: as wide as its box, transparent, black lines in the color of the page's text."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # the salt makes the ids the same in each call, and different in each figure of a page
    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "font.sans-serif": ["DejaVu Sans", "Arial"]}
    with matplotlib.rc_context(settings), ignore_missing_glyphs():
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = re.sub(r"<style.*?</style>", "", buffer.getvalue(), flags=re.DOTALL)  # it would apply to the whole page
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # such ids occur in every figure and nothing refers to them
    head, body = svg[svg.index("<svg") :].replace("stroke: #000000", "stroke: currentColor").split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label, width = escape(title), round(1.35 * 72 * figure.get_figwidth())
    return f'{head} role="img" aria-label="{label}" style="max-width: {width}px"><title>{label}</title>{body}'.strip()


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def curves(*runs: Sequence[Mapping], stacked: bool = False) -> Figure:
    """Loss and accuracy of a run, side by side or `stacked`; a dotted line marks the best evaluation.

    Several runs: a thin line for each, a thick one for the mean where all were evaluated.
    """
    figure, axes = new_figure(2, 1, PANEL, 5.2) if stacked else new_figure(1, 2, 2 * PANEL, 3.4)
    single, unit = len(runs) == 1, "epoch" if "epoch" in runs[0][0] else "iteration"
    best = [row[unit] for row in runs[0] if row.get("best")][-1:] if single else []  # later ones replaced earlier
    for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
        for part, label, color, marker in (("train", "train", BLUE, "o"), ("valid", "validation", ORANGE, "s")):
            lines = [{row[unit]: row[part][key] for row in run if part in row} for run in runs]
            for line in () if single else lines:
                axis.plot(list(line), list(line.values()), color=color, linewidth=0.7, alpha=0.5)
            if common := sorted(set.intersection(*map(set, lines))):
                means = [np.mean([line[x] for line in lines]) for x in common]
                style = {"color": color, "linewidth": 2, "marker": marker if len(common) <= 30 else "", "markersize": 4}
                axis.plot(common, means, label=label if single else f"{label}, mean of {len(runs)}", **style)
        for x in best:
            axis.axvline(x, color=GREY, linestyle=":", label="best")
        axis.set(xlabel=unit, ylabel="loss (nats)" if key == "loss" else key)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes[0].legend(frameon=False)
    return figure


def share_scales(figures: Sequence[Figure]) -> None:
    """Give the plots at the same position of each figure the same y-axis."""
    for axes in zip(*(figure.axes for figure in figures), strict=True):
        lows, highs = zip(*(axis.get_ylim() for axis in axes), strict=True)
        for axis in axes:
            axis.set_ylim(min(lows), max(highs))


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """(C, C) counts, true classes in rows, shaded by the fraction of the true class; see `describe_cells`.

    The size is bounded. Of more than MAX_LABELED classes every second, third … has its name.
    """
    classes, annotated = len(names), len(names) <= MAX_ANNOTATED
    size = min(2.6 + 0.6 * classes, 9)
    figure, (axis,) = new_figure(1, 1, size + (0 if annotated else 1), size)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    for i, j in np.argwhere(matrix) if annotated else ():
        fraction = fractions[i, j]
        text = f"{matrix[i, j]:,}\n{fraction:.1%}" if classes <= MAX_FRACTIONS else f"{matrix[i, j]:,}"
        color, font = "white" if fraction > 0.55 else "#111111", 9 if classes <= MAX_FRACTIONS else 7
        axis.text(j, i, text, ha="center", va="center", color=color, fontsize=font)
    axis.set(xlabel="predicted class", ylabel="true class")
    ticks = range(0, classes, math.ceil(classes / MAX_LABELED))
    labels, font = [plain(shorten(names[c], NAME_WIDTH)) for c in ticks], min(10, 360 / len(ticks))
    upright = max(map(text_width, labels)) * classes > 25  # characters below the matrix, where labels would touch
    axis.set_xticks(ticks, labels, fontsize=font, rotation=90 if upright else 0)
    axis.set_yticks(ticks, labels, fontsize=font)
    if not annotated:
        figure.colorbar(image, shrink=0.8, format=PercentFormatter(1), label="fraction of the true class")
    return figure


def histogram(probabilities: np.ndarray, correct: np.ndarray, names: Sequence[str]) -> Figure:
    """Predicted probabilities (N, C) of correct and, on top of them, of wrong predictions; `correct` is (N,) bool.

    Two classes: the probability of the second. More: that of the predicted class.
    """
    figure, (axis,) = new_figure(1, 1, PANEL, 3.2)
    binary = len(names) == 2
    values = probabilities[:, 1] if binary else probabilities.max(1)
    bins = np.linspace(0 if binary else 1 / len(names), 1, PROBABILITY_BINS + 1)
    labels = [f"correct ({correct.mean():.1%})", f"wrong ({1 - correct.mean():.1%})"]
    parts = [values[correct], values[~correct]]
    axis.hist(parts, bins=bins, stacked=True, color=[BLUE, ORANGE], label=labels, rwidth=0.92)
    xlabel = (
        f"predicted probability of '{plain(shorten(names[1], NAME_WIDTH))}'"
        if binary
        else "probability of the predicted class"
    )
    axis.set(xlabel=xlabel, ylabel="test texts", xlim=(bins[0], 1))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


def reliability(labels: np.ndarray, panels: Mapping[str, np.ndarray]) -> Figure:
    """Accuracy by confidence with 95 % intervals; one plot for each of `panels`, title -> probabilities (N, C)."""
    figure, axes = new_figure(1, len(panels), PANEL * len(panels), 3.8)
    for axis, (title, probabilities) in zip(axes, panels.items(), strict=True):
        rows = reliability_bins(labels, probabilities)
        columns = ("confidence", "accuracy", "accuracy_low", "accuracy_high", "count")
        confidence, accuracy, low, high, count = (np.array([row[key] for row in rows]) for key in columns)
        size = 12 + 300 * count / len(labels)  # the area of a point
        chance = 1 / probabilities.shape[1]
        axis.plot([chance, 1], [chance, 1], color=GREY, linestyle=":", label="perfect calibration")
        axis.vlines(confidence, low, high, color=BLUE, linewidth=1.2)
        axis.scatter(confidence, accuracy, s=size, color=BLUE, alpha=0.75, linewidth=0, zorder=3, label="test texts")
        error = f"calibration error {expected_calibration_error(labels, probabilities):.1%}"
        axis.set_title(f"{title}: {error}" if title else error, fontsize=10)
        axis.set(xlabel="confidence", ylabel="accuracy", xlim=(chance - 0.02, 1.02), ylim=(-0.02, 1.04))
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def intervals(names: Sequence[str], scores: Sequence[Mapping[str, float]], label: str) -> Figure:
    """One row per name: `value` with its interval from `low` to `high`, in per cent."""
    figure, (axis,) = new_figure(1, 1, PANEL, 0.8 + 0.32 * len(names))
    value, low, high = (100 * np.array([score[key] for score in scores]) for key in ("value", "low", "high"))
    rows = range(len(names))
    axis.errorbar(value, rows, xerr=[value - low, high - value], fmt="o", color=BLUE, capsize=3, markersize=5)
    axis.set_yticks(rows, [plain(shorten(name, NAME_WIDTH)) for name in names])
    axis.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.25)
    return figure


def plain(name: str) -> str:
    """A name that matplotlib does not read as a formula."""
    return name.replace("$", r"\$")
