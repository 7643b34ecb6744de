"""What a person reads of a run first: `report.md`, made from the folder's own files.

In: a run's folder with settings and scores. Out: tables and figures in Markdown, and short tables for the terminal.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from minitext.files import write_text

SHOWN = {
    "accuracy": "accuracy",
    "macro_precision": "precision (macro)",
    "macro_recall": "recall (macro)",
    "macro_f1": "F1 (macro)",
    "roc_auc": "ROC-AUC",
    "log_loss": "log-loss (nats)",
}
TOUCHED_ONCE = "The test texts were scored once, after every choice had been made on validation."
IN_PERCENT = {"accuracy", "macro_precision", "macro_recall", "macro_f1"}


def write_report(folder: Path, name: str, facts: Mapping[str, str]) -> None:
    """Write `report.md`; `facts` are what the script found out on the way, name to text."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    counts = ", ".join(f"{scores[part]['count']:,} {part}" for part in scores)
    sections = [
        f"# {name}",
        f"`{settings['command']}`",
        f"{settings['started']}, {settings['machine']}, torch {settings['versions']['torch']}",
        "## Scores",
        markdown_table(score_rows(scores)),
        f"Brackets: 95 % bootstrap intervals over the texts ({counts}). {TOUCHED_ONCE}",
        "## Classes, on test",
        markdown_table(class_rows(scores["test"])),
        "![Confusion matrix on test](confusion.png)",
        "## Learning",
        "![Loss and accuracy by epoch](curves.png)",
        "## Predicted probabilities on test",
        "![Histogram of predicted probabilities](probabilities.png)",
        "## Found on the way",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "## Settings",
        "```json\n" + json.dumps(settings, indent=2, ensure_ascii=False) + "\n```",
    ]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def score_rows(scores: Mapping[str, Mapping]) -> list[list[str]]:
    """A header and a row a score, with a column for each part of the data."""
    rows = [["", *scores]]
    for key, label in SHOWN.items():
        rows.append([label, *(show(part[key], key in IN_PERCENT) for part in scores.values())])
    return rows


def class_rows(scores: Mapping) -> list[list[str]]:
    """A header and a row a class."""
    rows = [["class", "precision", "recall", "F1", "texts"]]
    for name, values in scores["per_class"].items():
        rows.append([name, *(f"{values[key]:.1%}" for key in ("precision", "recall", "f1")), f"{values['support']:,}"])
    return rows


def show(score: Mapping[str, float | None], percent: bool) -> str:
    """`74.1 % [73.5, 74.6]`, or `0.512 [0.505, 0.519]`."""
    if score["value"] is None:
        return "none"
    factor, digits = (100, 1) if percent else (1, 3)
    value, *ends = (f"{factor * score[key]:.{digits}f}" for key in ("value", "low", "high") if score[key] is not None)
    return f"{value}{' %' if percent else ''}" + (f" [{', '.join(ends)}]" if ends else "")


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
