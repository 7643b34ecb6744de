"""Markdown report of a run, and the files of a finished run.

Inputs: a run directory with settings and metrics, the logits of the three parts. Outputs: `scores.json`, `costs.json`,
`notes.json`, `predictions.csv`, `mistakes.csv`, figures, `report.md`; short tables for the terminal. Shapes: B test
texts, C classes.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from minitext.data.dataset import Dataset, Splits
from minitext.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from minitext.evaluation.predict import probabilities
from minitext.evaluation.score import score_run
from minitext.evaluation.subgroups import write_mistakes
from minitext.reporting.class_tables import (
    CONFUSIONS,
    MAX_CLASSES,
    MOST,
    class_rows,
    confusion_rows,
    describe_cells,
    weakest_first,
)
from minitext.reporting.formats import code, escape, folded, format_points, format_score, markdown_table
from minitext.utils.errors import after_training
from minitext.utils.io import atomic, read_json, write_json, write_text
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import METRICS_FILE, Cost, Notes, RunDir

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
IF_CALIBRATED = "calibration error if calibrated"
ABOVE = (
    "Calibration error: the difference between accuracy and mean confidence of a bin, averaged over texts (Guo et al. "
    "2017). 'Above' means above 95 % of the simulated errors of a perfectly calibrated model of the same confidences."
)
TEMPERATURE = (
    "The temperature was fitted on validation and divides the logits, so it changes no predicted class. It is part of "
    "the saved weights. T = 1 is kept if the gain is within its standard error."
)
OVERLAP = "overlap with the run's texts"  # a note of an evaluation
NOT_FITTED = "Here nothing was fitted: the temperature is that of the run."
CURVES = ("## Learning curves", "![Loss and accuracy by epoch](curves.png)")
SMALL_RISE = 0.05  # of the validation loss after the best evaluation
IN_PERCENT = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "ece"}


def finish_run(
    run: RunDir, splits: Splits, logits: Sequence[Tensor], temperature: float, notes: Notes, cost: Cost
) -> dict[str, dict[str, Any]]:
    """Score a run that holds its saved model and metrics, write its result files and report, and commit its directory.

    `logits`: (B, C) float32 of the three parts, on the CPU, before the temperature. Returns the scores.
    """
    with notes.phase("scoring"):
        scores = score_run(splits, logits, temperature, read_json(run.folder / "settings.json")["run"]["seed"])
    write_results(run, scores, splits.test, logits[-1], temperature, notes, cost)
    return scores


def write_results(
    run: RunDir, scores: Mapping, test: Dataset, logits: Tensor, temperature: float, notes: Notes, cost: Cost
) -> None:
    """Write scores, predictions, figures and report from the (B, C) logits of test, and commit the directory.

    Figures or a report that fail are reported; the run is committed without them.
    """
    with notes.phase("writing scores and predictions"):
        write_json(run.folder / "scores.json", scores)
        write_json(run.folder / "costs.json", cost._asdict())
        predicted, calibrated = logits.argmax(dim=1).numpy(), probabilities(logits.double() / temperature)
        write_predictions(run.folder / "predictions.csv", test, predicted, calibrated)
        write_mistakes(run.folder / "mistakes.csv", test, predicted, calibrated)
        write_json(run.folder / "notes.json", notes)
    with after_training("drawing the figures", f"minitext plot {run.out}"), notes.phase("drawing figures"):
        from minitext.reporting.plots import draw  # here: matplotlib is slow to import, and training need not wait

        draw(run.folder)
    with after_training("the report", f"minitext report {run.out}"), notes.phase("writing the report"):
        write_report(run.folder, run.out.name, notes)
    run.commit()


def write_predictions(path: Path, test: Dataset, predicted: np.ndarray, probabilities: np.ndarray) -> None:
    """One row per text: its id, label, predicted class, the probability of each class, and its tag if it has one."""
    names = test.class_names
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        head = ["id", "label", "predicted", *(f"p({name})" for name in names)]
        writer.writerow([*head, "tag"] if test.tags else head)
        for i, row in enumerate(probabilities):
            classes = names[test.labels[i]], names[predicted[i]]
            writer.writerow([test.ids[i], *classes, *(f"{value:.9g}" for value in row), *test.tags[i : i + 1]])


def write_report(folder: Path, name: str, notes: Mapping[str, str]) -> None:
    """Write `report.md` from the files of the run. What a reader sees first is the accuracy with its interval."""
    settings, scores = read_json(folder / "settings.json"), read_json(folder / "scores.json")
    counts = ", ".join(f"{scores[part]['count']:,} {part}" for part in scores)
    test, is_trained = scores["test"], "evaluated_run" not in settings
    about = describe_training(folder, test) if is_trained else describe_evaluation(settings, notes)
    temperature = f"Here: {scores['valid']['temperature_fit']['description']}." if is_trained else NOT_FITTED
    sections = [
        f"# {escape(name)}",
        f"**Accuracy on test: {format_score(test['accuracy'], True)}**",
        code(settings["command"]),
        f"{settings['started']}, {settings['machine']}, torch {settings['versions']['torch']}",
        "## Scores",
        markdown_table(score_rows(scores)),
        f"Brackets: 95 % intervals ({counts} texts): Wilson from accuracy to F1, else bootstrap.",
        *about,
        *class_sections(test),
        "![Confusion matrix on test](confusion.png)",
        describe_cells(len(settings["classes"])),
        *(CURVES if is_trained else ()),
        "## Predicted probabilities on test",
        "![Histogram of predicted probabilities](probabilities.png)",
        "## Calibration, on test",
        markdown_table(calibration_rows(test)),
        ABOVE,
        f"{TEMPERATURE} {temperature}",
        "![Accuracy by confidence, before and after the temperature](reliability.png)",
        "## Accuracy by subgroup, on test",
        markdown_table(subgroup_rows(test["subgroup_accuracy"])),
        "Brackets: 95 % Wilson intervals. Lengths and fractions of words in quartiles of the texts.",
        "`mistakes.csv` has the most confident errors, with their texts: errors of the model or of the labels.",
        "## Notes",
        "\n".join(f"- {escape(key)}: {escape(value)}" for key, value in notes.items()),
        "## Settings",
        folded("All settings", "```json\n" + json.dumps(settings, indent=2, ensure_ascii=False) + "\n```"),
    ]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def describe_training(folder: Path, test: Mapping) -> list[str]:
    """Paragraphs on what the scores of a run on test are worth."""
    return [
        "The test texts were scored once, after every choice had been made on validation.",
        f"Generalization gap (accuracy on train minus on test): {format_points(test['generalization_gap'])} points.",
        describe_overfitting(MetricsLog(folder / METRICS_FILE).evaluations()),
    ]


def describe_evaluation(settings: Mapping, notes: Mapping[str, str]) -> list[str]:
    """Paragraphs on a finished run that was evaluated: which one, and whether it may have seen these texts."""
    evaluated = settings["evaluated_run"]
    run = f"{code(evaluated['folder'])} (trained {escape(evaluated['started'])})"
    return [
        f"Evaluation of the finished run {run} on other texts. Nothing was trained, fitted or selected here.",
        f"{OVERLAP[0].upper()}{OVERLAP[1:]}: {escape(notes[OVERLAP])}.",
    ]


def class_sections(test: Mapping) -> list[str]:
    """Paragraphs on single classes. Of many, the weakest and the most frequent confusions come first."""
    per_class, matrix = test["per_class"], np.array(test["confusion"])
    names = list(per_class)
    confusions = confusion_rows(names, {"texts": matrix})
    table = markdown_table(class_rows(per_class))
    sections, end = ["## Classes, on test", table], []
    if len(names) > MAX_CLASSES:
        shown = {names[c]: per_class[names[c]] for c in weakest_first([matrix])[:MOST]}
        sections = [f"## Weakest classes, on test: the {len(shown)} lowest F1", markdown_table(class_rows(shown))]
        end = [folded(f"All {len(names):,} classes", table)]
    if len(names) > 2 and len(confusions) > 1:
        sections += ["## Most frequent confusions, on test", markdown_table(confusions), CONFUSIONS]
    return [*sections, *end]


def score_rows(scores: Mapping[str, Mapping]) -> list[list[str]]:
    """A header and one row per score, with one column per part of the data."""
    rows = [["", *scores]]
    for key, label in METRIC_LABELS.items():
        rows.append([label, *(format_metric(part, key) for part in scores.values())])
    return [*rows, [IF_CALIBRATED, *(format_if_calibrated(part) for part in scores.values())]]


def calibration_rows(scores: Mapping) -> list[list[str]]:
    """A header and one row per measure, before and after the temperature."""
    before = scores["before_temperature"]
    at_bound = " (bound)" if before["temperature"] in (MIN_TEMPERATURE, MAX_TEMPERATURE) else ""
    return [
        ["", "as trained", f"temperature {before['temperature']:.2f}{at_bound}"],
        ["calibration error, 15 bins", f"{100 * before['ece']:.1f} %", format_metric(scores, "ece")],
        [IF_CALIBRATED, "", format_if_calibrated(scores)],
        ["log-loss (nats)", f"{before['log_loss']:.3f}", format_score(scores["log_loss"], False)],
        ["Brier score", f"{before['brier']:.3f}", format_score(scores["brier"], False)],
    ]


def subgroup_rows(subgroups: Sequence[Mapping]) -> list[list[str]]:
    """A header and one row per subgroup of the test texts, except classes: their accuracy is their recall."""
    rows = [["by", "subgroup", "texts", "accuracy"]]
    for row in subgroups:
        if row["by"] != "class":
            accuracy = format_score(row | {"value": row["accuracy"]}, True)
            rows.append([row["by"], row["subgroup"], f"{row['count']:,}", accuracy])
    return rows


def format_metric(scores: Mapping, key: str) -> str:
    """A score of METRIC_LABELS with its interval; the calibration error with its verdict instead."""
    text = format_score(scores[key], key in IN_PERCENT)
    return f"{text}, {scores['ece_if_calibrated']['verdict']}" if key == "ece" else text


def format_if_calibrated(scores: Mapping) -> str:
    """`1.3 %, 95 % below 2.4 %`: the calibration errors of a perfectly calibrated model."""
    found = scores["ece_if_calibrated"]
    return f"{100 * found['mean']:.1f} %, 95 % below {100 * found['percentile_95']:.1f} %"


def loss_since_best(evaluations: Sequence[Mapping]) -> tuple[Mapping, Mapping, bool]:
    """The evaluation whose weights were kept, the last one, and whether the validation loss rose between them.

    Where the loss selected the weights, every later one is higher; so a rise within SMALL_RISE does not count.
    """
    best = next((row for row in reversed(evaluations) if row.get("best")), evaluations[-1])
    last = evaluations[-1]
    return best, last, last["valid"]["loss"] > (1 + SMALL_RISE) * best["valid"]["loss"]


def describe_overfitting(evaluations: Sequence[Mapping]) -> str:
    """One sentence: whether training went on after the best evaluation until the validation loss rose."""
    best, last, rose = loss_since_best(evaluations)
    unit = "epoch" if "epoch" in best else "iteration"
    kept = f"{best['valid']['loss']:.3f} at the best evaluation ({unit} {best[unit]:g}, its weights were kept)"
    if best is last:
        return f"No overfitting: the best evaluation is the last one ({unit} {best[unit]:g})."
    found = "Overfitting" if rose else f"No overfitting (a rise of more than {SMALL_RISE:.0%})"
    return f"{found}: validation loss {kept}, {last['valid']['loss']:.3f} at the last ({unit} {last[unit]:g})."
