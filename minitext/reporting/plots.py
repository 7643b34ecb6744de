"""Figures from a run's saved numbers, so that each can be drawn again without training.

In: `metrics.jsonl`, `predictions.csv` and `scores.json` of a run's folder. Out: `curves.png`, `confusion.png`,
`probabilities.png` and `reliability.png` beside them. Colours are from the palette of Okabe & Ito 2008, which
colour-blind readers can tell apart.
"""

import csv
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # no pyplot: it would look for a screen and keep every figure alive
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minitext.evaluation.calibration import expected_calibration_error, reliability_bins
from minitext.utils.io import atomic
from minitext.utils.metrics_log import MetricsLog

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
DPI = 160
BINS = 20


def draw(folder: Path) -> None:
    """Draw every figure of a finished run."""
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        predictions = list(csv.DictReader(file))
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    names = list(scores["test"]["per_class"])
    save(curves(MetricsLog(folder / "metrics.jsonl").evaluations()), folder / "curves.png")
    save(confusion(np.array(scores["test"]["confusion"]), names), folder / "confusion.png")
    probabilities = np.array([[float(row[f"p({name})"]) for name in names] for row in predictions])  # (N, C)
    labels = np.array([names.index(row["label"]) for row in predictions], dtype=np.int64)  # (N,)
    right = np.array([row["label"] == row["predicted"] for row in predictions])  # (N,)
    save(histogram(probabilities, right, names), folder / "probabilities.png")
    temperature = scores["test"]["before_temperature"]["temperature"]
    save(reliability(labels, probabilities, temperature), folder / "reliability.png")


def save(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def new_figure(columns: int, width: float, height: float) -> tuple[Figure, list]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def curves(rows: list[dict]) -> Figure:
    """Loss and accuracy by epoch on train and validation; a dotted line marks the best check, which was kept."""
    figure, axes = new_figure(2, 9, 3.6)
    unit = "epoch" if "epoch" in rows[0] else "iteration"
    kept = next((row[unit] for row in reversed(rows) if row.get("best")), None)  # later ones replaced earlier ones
    for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
        for part, colour, marker in (("train", BLUE, "o"), ("valid", ORANGE, "s")):
            points = [(row[unit], row[part][key]) for row in rows if part in row]
            few = len(points) <= 30
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker if few else None, markersize=4,
                      label="validation" if part == "valid" else part)  # fmt: skip
        if kept is not None:
            axis.axvline(kept, color=GREY, linestyle=":", label="kept")
    label_curves(axes, unit)
    return figure


def spread_curves(runs: list[list[dict]]) -> Figure:
    """Loss and accuracy by epoch of several seeds: a thin line each, and a thick one through their means."""
    figure, axes = new_figure(2, 9, 3.6)
    unit = "epoch" if "epoch" in runs[0][0] else "iteration"
    for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
        for part, colour, style in (("train", BLUE, "-"), ("valid", ORANGE, "--")):
            at: dict[float, list[float]] = {}
            for rows in runs:
                points = [(row[unit], row[part][key]) for row in rows if part in row]
                axis.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=0.7, alpha=0.5)
                for place, value in points:
                    at.setdefault(place, []).append(value)
            shared = sorted(place for place, values in at.items() if len(values) == len(runs))  # where none has stopped
            axis.plot(shared, [np.mean(at[place]) for place in shared], color=colour, linestyle=style, linewidth=2,
                      label=f"{'validation' if part == 'valid' else part}, mean of {len(runs)}")  # fmt: skip
    label_curves(axes, unit)
    return figure


def label_curves(axes: list, unit: str) -> None:
    """Loss on the left, accuracy on the right, both against epochs or iterations."""
    for axis, label in zip(axes, ("loss (nats)", "accuracy"), strict=True):
        axis.set(xlabel=unit, ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes[0].legend(frameon=False)


def confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """(C, C) counts, shaded by the share of the true class."""
    names = [plain(name) for name in names]
    size = max(3.6, 0.7 * len(names) + 2)
    figure, (axis,) = new_figure(1, size + 0.6, size)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(shares):
        axis.text(j, i, f"{matrix[i, j]:,}\n{share:.1%}", ha="center", va="center",
                  color="white" if share > 0.55 else "black", fontsize=9)  # fmt: skip
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_xticks(range(len(names)), names, rotation=45 if len(names) > 4 else 0)
    axis.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axis, shrink=0.8, format=PercentFormatter(1), label="share of the true class")
    return figure


def histogram(probabilities: np.ndarray, right: np.ndarray, names: list[str]) -> Figure:
    """Predicted probabilities on test, (N, C), right predictions below and wrong ones on top of them.

    Two classes: the probability of the second. More: that of the predicted class.
    """
    figure, (axis,) = new_figure(1, 6, 3.6)
    two = len(names) == 2
    values = probabilities[:, 1] if two else probabilities.max(1)
    bins = np.linspace(0 if two else 1 / len(names), 1, BINS + 1)
    axis.hist([values[right], values[~right]], bins=bins, stacked=True, color=[BLUE, ORANGE],
              label=[f"right ({right.mean():.1%})", f"wrong ({1 - right.mean():.1%})"],
              edgecolor="white", linewidth=0.5)  # fmt: skip
    axis.set(xlabel=f"predicted probability of '{plain(names[1])}'" if two else "probability of the predicted class",
             ylabel="test texts", xlim=(bins[0], 1))  # fmt: skip
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


def reliability(labels: np.ndarray, probabilities: np.ndarray, temperature: float) -> Figure:
    """Accuracy by confidence on test, before and after the temperature: on the diagonal, probabilities mean what they
    say. Bars are 95 % intervals, areas grow with the number of texts. `probabilities`, (N, C), are those after.
    """
    figure, axes = new_figure(2, 9, 4.4)
    before = probabilities**temperature  # softmax(T log p)
    before /= before.sum(1, keepdims=True)
    for axis, given, title in (
        (axes[0], before, "as trained"),
        (axes[1], probabilities, f"temperature {temperature:.2f}"),
    ):
        rows = reliability_bins(labels, given)
        said, found = (np.array([row[key] for row in rows]) for key in ("confidence", "accuracy"))
        below, above = (np.array([row[key] for row in rows]) for key in ("accuracy_low", "accuracy_high"))
        size = 12 + 300 * np.array([row["count"] for row in rows]) / len(labels)
        lowest = 1 / given.shape[1]
        axis.plot([lowest, 1], [lowest, 1], color=GREY, linestyle=":", label="said = found")
        axis.vlines(said, below, above, color=BLUE, linewidth=1.2)
        axis.scatter(said, found, s=size, color=BLUE, alpha=0.75, edgecolor="white", zorder=3, label="texts")
        axis.set(title=f"{title}: calibration error {expected_calibration_error(labels, given):.1%}",
                 xlabel="confidence (mean probability of the predicted class)", ylabel="accuracy",
                 xlim=(lowest - 0.02, 1.02), ylim=(-0.02, 1.02))  # fmt: skip
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def plain(name: str) -> str:
    """A class name that matplotlib does not read as a formula."""
    return name.replace("$", r"\$")
