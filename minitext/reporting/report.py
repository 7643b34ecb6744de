"""Markdown report of a run, and the files of a finished run.

Inputs: a run directory with settings and metrics, the logits of the three parts. Outputs: `scores.json`, `costs.json`,
`predictions.csv`, `mistakes.csv`, figures, `report.md`; short tables for the terminal. Shapes: B test texts, C classes.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from minitext.data.dataset import Dataset, Splits
from minitext.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from minitext.evaluation.predict import probabilities
from minitext.evaluation.score import score_run
from minitext.evaluation.subgroups import write_mistakes
from minitext.utils.io import atomic, read_json, write_json, write_text
from minitext.utils.run_dir import Cost, RunDir

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
    "Calibration error: the difference between accuracy and mean confidence of a bin, averaged over texts (Guo et al. "
    "2017). The temperature was fitted on validation and divides the logits, so it changes no predicted class. It is "
    "part of the saved weights."
)
TEST_USED_ONCE = "The test texts were scored once, after every choice had been made on validation."
IN_PERCENT = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "ece"}
MISTAKES = 10  # rows in the report; mistakes.csv has more, and the texts


def finish_run(
    run: RunDir,
    splits: Splits,
    logits: Sequence[Tensor],
    temperature: float,
    notes: Mapping[str, str],
    cost: Cost,
) -> dict[str, dict[str, Any]]:
    """Score a run, write its result files and report, and commit its directory.

    Args:
        run: started; holds the saved model and the metrics.
        splits: train, valid and test.
        logits: (B, C) float32 of each part, on the CPU, before the temperature.
        temperature: fitted on validation.
        notes: facts for the report, name to text.
        cost: of the run.

    Returns:
        The scores, as in `scores.json`.
    """
    from minitext.reporting.plots import draw  # here: matplotlib is slow to import, and training need not wait for it

    seed = read_json(run.folder / "settings.json")["run"]["seed"]
    scores = score_run(splits, logits, temperature, seed)
    write_json(run.folder / "scores.json", scores)
    write_json(run.folder / "costs.json", cost._asdict())
    predicted, calibrated = logits[-1].argmax(dim=1).numpy(), probabilities(logits[-1].double() / temperature)
    write_predictions(run.folder / "predictions.csv", splits.test, predicted, calibrated)
    write_mistakes(run.folder / "mistakes.csv", splits.test, predicted, calibrated)
    draw(run.folder)
    write_report(run.folder, run.out.name, notes)
    run.commit()
    return scores


def write_predictions(path: Path, test: Dataset, predicted: np.ndarray, probabilities: np.ndarray) -> None:
    """One row per text: its id, label, predicted class, the probability of each class, and its tag if it has one."""
    names = test.class_names
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        tag = ["tag"] if test.tags else []
        writer.writerow(["id", "label", "predicted", *(f"p({name})" for name in names), *tag])
        for i, row in enumerate(probabilities):
            tag = test.tags[i : i + 1]
            classes = names[test.labels[i]], names[predicted[i]]
            writer.writerow([test.ids[i], *classes, *(f"{value:.9g}" for value in row), *tag])


def write_report(folder: Path, name: str, notes: Mapping[str, str]) -> None:
    """Write `report.md` from the files of the run."""
    settings, scores = read_json(folder / "settings.json"), read_json(folder / "scores.json")
    counts = ", ".join(f"{scores[part]['count']:,} {part}" for part in scores)
    test = scores["test"]
    sections = [
        f"# {name}",
        f"`{settings['command']}`",
        f"{settings['started']}, {settings['machine']}, torch {settings['versions']['torch']}",
        "## Scores",
        markdown_table(score_rows(scores)),
        f"Brackets: 95 % bootstrap intervals over the texts ({counts}). {TEST_USED_ONCE}",
        generalization_gap_line(test["generalization_gap"]),
        "## Classes, on test",
        markdown_table(class_rows(test)),
        "![Confusion matrix on test](confusion.png)",
        "## Learning curves",
        "![Loss and accuracy by epoch](curves.png)",
        "## Predicted probabilities on test",
        "![Histogram of predicted probabilities](probabilities.png)",
        "## Calibration, on test",
        markdown_table(calibration_rows(test)),
        f"{temperature_line(test)} {CALIBRATION}",
        "![Accuracy by confidence, before and after the temperature](reliability.png)",
        "## Accuracy by subgroup, on test",
        markdown_table(subgroup_rows(test["subgroup_accuracy"])),
        "Brackets: 95 % intervals (Wilson). Lengths and fractions of words in quartiles of the texts.",
        "## Most confident errors, on test",
        markdown_table(mistake_rows(folder / "mistakes.csv")),
        "These are errors of the model or of the labels. `mistakes.csv` has more of them, with their texts.",
        "## Notes",
        "\n".join(f"- {key}: {value}" for key, value in notes.items()),
        "## Settings",
        "```json\n" + json.dumps(settings, indent=2, ensure_ascii=False) + "\n```",
    ]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def score_rows(scores: Mapping[str, Mapping]) -> list[list[str]]:
    """A header and one row per score, with one column per part of the data."""
    rows = [["", *scores]]
    for key, label in METRIC_LABELS.items():
        rows.append([label, *(format_score(part[key], key in IN_PERCENT) for part in scores.values())])
    return rows


def class_rows(scores: Mapping) -> list[list[str]]:
    """A header and one row per class."""
    rows = [["class", "precision", "recall", "F1", "texts"]]
    for name, values in scores["per_class"].items():
        rows.append([name, *(f"{values[key]:.1%}" for key in ("precision", "recall", "f1")), f"{values['support']:,}"])
    return rows


def generalization_gap_line(gap: Mapping) -> str:
    """The accuracy on train minus that on test, and whether the difference is significant."""
    size = f"{100 * gap['value']:.1f} points [{100 * gap['low']:.1f}, {100 * gap['high']:.1f}]"
    verdict = "generalization gap significant (> 1 point)" if gap["significant"] else "within noise"
    return f"Accuracy on train minus accuracy on test: {size}, {verdict}."


def temperature_line(scores: Mapping) -> str:
    """How the temperature changed the calibration error, and why not more where it did not halve it."""
    temperature, before = (scores["before_temperature"][key] for key in ("temperature", "ece"))
    after, floor = scores["ece"]["value"], scores["ece_if_calibrated"]["value"]
    line = f"The temperature changed the calibration error from {before:.1%} to {after:.1%}"
    if after > before / 2:
        line += f"; a perfectly calibrated model would have {floor:.1%} on as many texts, and "
        if after < before:
            line += "a single temperature cannot fix every bin"
        else:
            line += "the best temperature on validation is not the best one on test"
    if temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        line += f"; it is {temperature:g}, the bound of its range"
    return line + "."


def calibration_rows(scores: Mapping) -> list[list[str]]:
    """A header and one row per measure, before and after the temperature."""
    before = scores["before_temperature"]
    return [
        ["", "as trained", f"temperature {before['temperature']:.2f}"],
        ["calibration error, 15 bins", f"{before['ece']:.1%}", format_score(scores["ece"], True)],
        ["calibration error of a calibrated model", "", f"{scores['ece_if_calibrated']['value']:.1%}"],
        ["log-loss (nats)", f"{before['log_loss']:.3f}", format_score(scores["log_loss"], False)],
        ["Brier score", f"{before['brier']:.3f}", format_score(scores["brier"], False)],
    ]


def subgroup_rows(subgroups: Sequence[Mapping]) -> list[list[str]]:
    """A header and one row per subgroup of the test texts."""
    rows = [["by", "subgroup", "texts", "accuracy"]]
    for row in subgroups:
        interval = {"value": row["accuracy"], "low": row["low"], "high": row["high"]}
        rows.append([row["by"], row["subgroup"], f"{row['count']:,}", format_score(interval, True)])
    return rows


def mistake_rows(path: Path) -> list[list[str]]:
    """A header and one row for each of the first MISTAKES; without the texts, as a report may be published."""
    columns = ["id", "label", "predicted", "probability"]
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(islice(csv.DictReader(file), MISTAKES))
    return [["text", *columns[1:]], *([row[column] for column in columns] for row in rows)]


def format_score(score: Mapping[str, float | None], percent: bool) -> str:
    """`74.1 % [73.5, 74.6]` or `0.512 [0.505, 0.519]`."""
    if score["value"] is None:
        return "none"
    factor, digits = (100, 1) if percent else (1, 3)
    value, *ends = (f"{factor * score[key]:.{digits}f}" for key in ("value", "low", "high") if score[key] is not None)
    return f"{value}{' %' if percent else ''}" + (f" [{', '.join(ends)}]" if ends else "")


def format_mean(mean: float, std: float | None, percent: bool) -> str:
    """`84.0 % (2.4)` or `0.391 (0.021)`: mean and standard deviation over seeds; one run has no deviation."""
    factor, digits, unit = (100, 1, " %") if percent else (1, 3, "")
    return f"{factor * mean:.{digits}f}{unit}" + ("" if std is None else f" ({factor * std:.{digits}f})")


def markdown_table(rows: list[list[str]]) -> str:
    """The rows as a Markdown table; the first is its header."""
    head, *body = rows
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in [head, ["---"] * len(head), *body]]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def text_table(rows: list[list[str]]) -> str:
    """The rows in aligned columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
