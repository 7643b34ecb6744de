"""What a person reads of a run first: `report.md`, made from the folder's own files.

In: a run's folder with settings and scores. Out: tables and figures in Markdown, and short tables for the terminal.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from minitext.utils.io import write_text

METRIC_LABELS = {
    "accuracy": "accuracy",
    "macro_precision": "precision (macro)",
    "macro_recall": "recall (macro)",
    "macro_f1": "F1 (macro)",
    "roc_auc": "ROC-AUC",
    "log_loss": "log-loss (nats)",
    "brier": "Brier score",
    "ece": "calibration error",
}
CALIBRATION = (
    "Calibration error: how far accuracy and mean confidence of a bin lie apart, in the mean (Guo et al. 2017). The "
    "temperature was fitted on validation; it divides the logits and changes no prediction. `predict` applies it."
)
TEST_USED_ONCE = "The test texts were scored once, after every choice had been made on validation."
IN_PERCENT = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "ece"}
MISTAKES = 10  # shown; mistakes.csv has more, and the texts


def write_report(folder: Path, name: str, run_notes: Mapping[str, str]) -> None:
    """Write `report.md`; `run_notes` are what the script found out on the way, name to text."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    counts = ", ".join(f"{scores[part]['count']:,} {part}" for part in scores)
    sections = [
        f"# {name}",
        f"`{settings['command']}`",
        f"{settings['started']}, {settings['machine']}, torch {settings['versions']['torch']}",
        "## Scores",
        markdown_table(score_rows(scores)),
        f"Brackets: 95 % bootstrap intervals over the texts ({counts}). {TEST_USED_ONCE}",
        generalization_gap_line(scores["test"]["gap_to_train"]),
        "## Classes, on test",
        markdown_table(class_rows(scores["test"])),
        "![Confusion matrix on test](confusion.png)",
        "## Learning",
        "![Loss and accuracy by epoch](curves.png)",
        "## Predicted probabilities on test",
        "![Histogram of predicted probabilities](probabilities.png)",
        "## Calibration, on test",
        markdown_table(calibration_rows(scores["test"])),
        f"{temperature_line(scores['test'])} {CALIBRATION}",
        "![Accuracy by confidence, before and after the temperature](reliability.png)",
        "## Where it is right, on test",
        markdown_table(slice_rows(scores["test"]["subgroup_accuracy"])),
        "Brackets: 95 % intervals (Wilson). Lengths and shares of words in by_quartile of the texts.",
        "## The most confident mistakes, on test",
        markdown_table(mistake_rows(folder / "mistakes.csv")),
        "Either the model's faults or the labels'. Their texts, and more of them, are in `mistakes.csv`.",
        "## Found on the way",
        "\n".join(f"- {key}: {value}" for key, value in run_notes.items()),
        "## Settings",
        "```json\n" + json.dumps(settings, indent=2, ensure_ascii=False) + "\n```",
    ]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def score_rows(scores: Mapping[str, Mapping]) -> list[list[str]]:
    """A header and a row a score, with a column for each part of the data."""
    rows = [["", *scores]]
    for key, label in METRIC_LABELS.items():
        rows.append([label, *(show(part[key], key in IN_PERCENT) for part in scores.values())])
    return rows


def class_rows(scores: Mapping) -> list[list[str]]:
    """A header and a row a class."""
    rows = [["class", "precision", "recall", "F1", "texts"]]
    for name, values in scores["per_class"].items():
        rows.append([name, *(f"{values[key]:.1%}" for key in ("precision", "recall", "f1")), f"{values['support']:,}"])
    return rows


def generalization_gap_line(gap: Mapping) -> str:
    """How much better train is than test, and whether that is more than chance."""
    size = f"{100 * gap['value']:.1f} points [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
    verdict = (
        "overfitted: the interval lies above one point" if gap["overfitting"] else "not more than chance and a point"
    )
    return f"Accuracy on train less that on test: {size}, {verdict}."


def temperature_line(scores: Mapping) -> str:
    """What the temperature did to the calibration error, and why it did not halve it where it did not."""
    before, after, chance = (
        scores["before_temperature"]["ece"],
        scores["ece"]["value"],
        scores["ece_by_chance"]["value"],
    )
    change = f"The temperature took the calibration error from {before:.1%} to {after:.1%}"
    if after <= before / 2:
        return f"{change}, half of it or less."
    floor = f"a perfect model would show {chance:.1%} on as many texts"
    if after < before:
        return f"{change}, not half of it: {floor}, and one number cannot mend each bin."
    return f"{change}, which is no better: {floor}, and what validation asked for need not suit the test texts."


def calibration_rows(scores: Mapping) -> list[list[str]]:
    """A header and a row a measure, before and after the temperature."""
    before, parts = scores["before_temperature"], scores["brier_parts"]
    sum_of_parts = (
        f"{parts['reliability']:.4f} - {parts['resolution']:.4f} + {parts['uncertainty']:.4f} "
        f"{parts['within_bins']:+.4f}"
    )
    return [
        ["", "as trained", f"temperature {before['temperature']:.2f}"],
        ["calibration error, 15 bins of equal width", f"{before['ece']:.1%}", show(scores["ece"], True)],
        ["… 15 bins of equal mass", "", f"{scores['ece_equal_mass']['value']:.1%}"],
        ["… of equal mass, root mean square, debiased", "", f"{scores['ece_debiased']['value']:.1%}"],
        ["… what chance alone would give on so many texts", "", f"{scores['ece_by_chance']['value']:.1%}"],
        ["… of every class's probability", "", f"{scores['ece_classwise']['value']:.1%}"],
        ["log-loss (nats)", f"{before['log_loss']:.3f}", show(scores["log_loss"], False)],
        ["Brier score", f"{before['brier']:.3f}", show(scores["brier"], False)],
        ["… reliability - resolution + uncertainty + within bins", "", sum_of_parts],
    ]


def slice_rows(subgroup_accuracy: Sequence[Mapping]) -> list[list[str]]:
    """A header and a row a part of the test texts."""
    rows = [["by", "part", "texts", "accuracy"]]
    for row in subgroup_accuracy:
        interval = {"value": row["accuracy"], "low": row["low"], "high": row["high"]}
        rows.append([row["by"], row["slice"], f"{row['count']:,}", show(interval, True)])
    return rows


def mistake_rows(path: Path) -> list[list[str]]:
    """A header and a row for each of the first MISTAKES: without the texts, as a report may be published."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(islice(csv.DictReader(file), MISTAKES))
    return [["text", "label", "predicted", "probability"],
            *([row["id"], row["label"], row["predicted"], row["probability"]] for row in rows)]  # fmt: skip


def show(score: Mapping[str, float | None], percent: bool) -> str:
    """`74.1 % [73.5, 74.6]`, or `0.512 [0.505, 0.519]`."""
    if score["value"] is None:
        return "none"
    factor, digits = (100, 1) if percent else (1, 3)
    value, *ends = (f"{factor * score[key]:.{digits}f}" for key in ("value", "low", "high") if score[key] is not None)
    return f"{value}{' %' if percent else ''}" + (f" [{', '.join(ends)}]" if ends else "")


def show_mean(mean: float, deviation: float | None, percent: bool) -> str:
    """`84.0 % (2.4)`, or `0.391 (0.021)`: mean and deviation over seeds; one run has no deviation."""
    factor, digits, unit = (100, 1, " %") if percent else (1, 3, "")
    return f"{factor * mean:.{digits}f}{unit}" + ("" if deviation is None else f" ({factor * deviation:.{digits}f})")


def markdown_table(rows: list[list[str]]) -> str:
    head, *body = rows
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in [head, ["---"] * len(head), *body]]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def text_table(rows: list[list[str]]) -> str:
    """The same rows in columns of even width, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
