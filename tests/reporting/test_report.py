"""Proves that the report and the terminal's tables show the numbers of the run's files, each with its interval."""

import json
from pathlib import Path

import pytest

from minitext.reporting.report import (
    METRIC_LABELS,
    class_rows,
    generalization_gap_line,
    markdown_table,
    score_rows,
    show,
    temperature_line,
    text_table,
    write_report,
)

SETTINGS = {
    "run": {"seed": 3},
    "command": "train_static.py --data réviews.csv",
    "started": "2026-11-24T10:00:00+00:00",
    "machine": "x86_64, 2 cores, Linux",
    "versions": {"torch": "2.8.0"},
}


def part(value: float, count: int) -> dict:
    """Scores of one part of the data: every one `value`, with an interval of 0.05 to both sides."""
    return {
        **{key: {"value": value, "low": value - 0.05, "high": value + 0.05} for key in METRIC_LABELS},
        "count": count,
        "per_class": {
            "neg": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 1200},
            "pos": {"precision": 1.0, "recall": 0.0, "f1": 0.0, "support": 7},
        },
    }


SCORES = {"train": part(0.9, 5000), "valid": part(0.8, 100), "test": part(0.7, 1207)}
SCORES["test"] |= {
    "gap_to_train": {"value": 0.2, "low": 0.15, "high": 0.25, "overfitting": True},
    "before_temperature": {"temperature": 1.5, "log_loss": 0.75, "ece": 0.125, "brier": 0.25},
    **{key: {"value": 0.0625} for key in ("ece_equal_mass", "ece_debiased", "ece_by_chance", "ece_classwise")},
    "brier_parts": {"reliability": 0.01, "resolution": 0.05, "uncertainty": 0.25, "within_bins": 0.001},
    "subgroup_accuracy": [{"by": "tag", "slice": "irony", "count": 1200, "accuracy": 0.5, "low": 0.4, "high": 0.6}],
}
MISTAKES = "id,label,predicted,probability,text\nr.csv:7,neg,pos,0.9876,a secret text\n"


@pytest.fixture
def report(tmp_path) -> str:
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "scores.json").write_text(json.dumps(SCORES), encoding="utf-8")
    (tmp_path / "mistakes.csv").write_text(MISTAKES, encoding="utf-8")
    write_report(tmp_path, "mlp", {"texts": "train 5,000", "words with a vector": "train 97 %"})
    return (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_share_is_shown_in_percent_with_its_interval():
    assert show({"value": 0.741, "low": 0.735, "high": 0.7464}, percent=True) == "74.1 % [73.5, 74.6]"


def test_other_scores_have_three_digits():
    assert show({"value": 0.5123, "low": 0.505, "high": 0.5194}, percent=False) == "0.512 [0.505, 0.519]"


def test_a_score_that_a_part_cannot_have_is_none():
    assert show({"value": None, "low": None, "high": None}, percent=False) == "none"


def test_a_score_without_an_interval_is_shown_alone():
    assert show({"value": 1.0, "low": None, "high": None}, percent=False).startswith("1.000")


def test_scores_have_a_column_a_part_and_a_row_a_score():
    head, *body = score_rows(SCORES)
    assert head == ["", "train", "valid", "test"]
    assert [row[0] for row in body] == list(METRIC_LABELS.values())
    assert body[0] == ["accuracy", "90.0 % [85.0, 95.0]", "80.0 % [75.0, 85.0]", "70.0 % [65.0, 75.0]"]
    assert body[-1] == ["calibration error", *(row for row in body[0][1:])]
    assert body[-2][3] == "0.700 [0.650, 0.750]"


def test_classes_have_a_row_each():
    assert class_rows(SCORES["test"]) == [
        ["class", "precision", "recall", "F1", "texts"],
        ["neg", "50.0%", "25.0%", "33.3%", "1,200"],
        ["pos", "100.0%", "0.0%", "0.0%", "7"],
    ]


def test_a_markdown_table_has_a_line_below_its_head():
    assert markdown_table([["", "a"], ["b", "1"]]) == "|  | a |\n| --- | --- |\n| b | 1 |"


def test_a_bar_in_a_class_name_does_not_open_a_column():
    table = markdown_table([["class", "texts"], ["neg|pos", "1"]])
    assert table.splitlines()[2].replace("\\|", "").count("|") == 3


def test_a_text_table_lines_its_columns_up():
    assert text_table([["", "a"], ["long", "1"], ["b", "22"]]) == "      a\nlong  1\nb     22"


def test_the_report_opens_with_name_command_and_machine(report):
    lines = report.splitlines()
    assert lines[0] == "# mlp"
    assert lines[2].strip() == "`train_static.py --data réviews.csv`"
    assert lines[4] == "2026-11-24T10:00:00+00:00, x86_64, 2 cores, Linux, torch 2.8.0"


def test_the_report_holds_both_tables(report):
    assert markdown_table(score_rows(SCORES)) in report
    assert markdown_table(class_rows(SCORES["test"])) in report


def test_the_report_counts_the_texts_behind_its_intervals(report):
    assert "5,000 train, 100 valid, 1,207 test" in report


@pytest.mark.parametrize("figure", ["curves.png", "confusion.png", "probabilities.png", "reliability.png"])
def test_the_report_shows_every_figure(report, figure: str):
    assert f"]({figure})" in report


def test_the_report_says_whether_train_and_test_lie_apart(report):
    assert "Accuracy on train less that on test: 20.0 points [15.0, 25.0], overfitted" in report
    calm = {"value": 0.005, "low": -0.01, "high": 0.02, "overfitting": False}
    assert generalization_gap_line(calm).endswith("0.5 points [-1.0, 2.0], not more than chance and a point.")


def test_the_report_shows_calibration_before_and_after_the_temperature(report):
    assert "|  | as trained | temperature 1.50 |" in report
    assert "| calibration error, 15 bins of equal width | 12.5% | 70.0 % [65.0, 75.0] |" in report
    assert "0.0100 - 0.0500 + 0.2500 +0.0010" in report


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(0.12, 0.05, "half of it or less"), (0.12, 0.09, "not half of it: a perfect model would show 4.0%"),
     (0.05, 0.06, "no better: a perfect model would show 4.0%")],
)  # fmt: skip
def test_the_report_says_what_the_temperature_did_and_why_not_more(before: float, after: float, said: str):
    scores = {"before_temperature": {"ece": before}, "ece": {"value": after}, "ece_by_chance": {"value": 0.04}}
    assert said in temperature_line(scores)


def test_the_report_shows_accuracy_by_kind_of_text(report):
    assert "| tag | irony | 1,200 | 50.0 % [40.0, 60.0] |" in report


def test_the_report_names_the_most_confident_mistakes_without_their_texts(report):
    assert "| r.csv:7 | neg | pos | 0.9876 |" in report
    assert "secret" not in report


def test_the_report_lists_what_was_found_on_the_way(report):
    assert "- texts: train 5,000\n- words with a vector: train 97 %" in report


def test_the_report_ends_with_the_settings(report):
    assert json.loads(report.partition("```json\n")[2].partition("\n```")[0]) == SETTINGS


def test_only_the_report_is_written(report, tmp_path: Path):
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mistakes.csv", "report.md", "scores.json", "settings.json"
    ]  # fmt: skip
