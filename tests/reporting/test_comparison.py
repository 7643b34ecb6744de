"""Tests of the comparison: only runs on the same test texts, with the scores that they saved."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from minitext import cli
from minitext.evaluation import bootstrap
from minitext.reporting.comparison import (
    compare,
    overview_scores,
    pair_rows,
    show_comparison,
    tag_scores,
)
from minitext.reporting.html import page
from minitext.utils.errors import UserError


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)


def message_of(*folders: Path) -> str:
    with pytest.raises(UserError) as error:
        compare(folders)
    assert "\n" not in str(error.value)
    return str(error.value)


# What is compared


def test_the_overview_has_the_saved_scores(two_runs):
    scores = json.loads((two_runs[1] / "scores.json").read_text())
    scores["test"]["log_loss"] = {"value": 0.123, "low": 0.1, "high": 0.2}
    (two_runs[1] / "scores.json").write_text(json.dumps(scores))
    head, *rows = overview_scores(compare(two_runs))
    cells = {label: values for label, *values in rows}
    assert head == ["", "first", "second"]
    assert cells["accuracy"] == ["87.5 % [82.5, 92.5] ★", "62.5 % [57.5, 67.5]"]
    assert cells["log-loss (nats)"] == ["0.875 [0.825, 0.925]", "0.123 [0.100, 0.200] ★"]
    assert cells["generalization gap (points)"] == ["+10.0 [-5.0, +20.0]"] * 2
    assert cells["calibration error"] == ["87.5 %, above", "62.5 %, above ★"]
    assert cells["calibration error if calibrated"] == ["3.0 %, 95 % below 6.0 %"] * 2


def test_only_a_run_whose_validation_loss_rose_is_called_overfitted(tmp_path, data, save_run_on):
    losses = {"first": (0.4, 0.6), "second": (0.4, 0.4)}
    folders = []
    for name, (best, last) in losses.items():
        rows = [{"epoch": i, "train": {"loss": 0.1, "accuracy": 1.0}, "valid": {"loss": loss, "accuracy": 0.7},
                 "best": i == 1} for i, loss in ((1, best), (2, last))]  # fmt: skip
        folders.append(save_run_on(tmp_path / name, data, evaluations=rows))
    cells = {label: values for label, *values in overview_scores(compare(folders))}
    assert cells["validation loss, best to last"] == ["0.400 to 0.600 (overfitting)", "0.400 to 0.400"]


def test_the_best_run_is_the_most_accurate(two_runs):
    assert compare(two_runs).best == 0
    assert compare(two_runs[::-1]).best == 1


def test_a_pair_counts_the_texts_that_only_one_run_has_right(two_runs):
    comparison = compare(two_runs)
    (pair,) = comparison.pairs
    assert (pair.mcnemar.only_first, pair.mcnemar.only_second) == (3, 1)
    assert pair.mcnemar.p == pytest.approx(2 * 5 / 16)  # 1 of 4 or fewer, on either side
    assert pair.differences["accuracy"]["value"] == pytest.approx(2 / 8)
    assert pair.verdict == "not significant (p 0.625)"
    row = pair_rows(comparison)[1]
    assert row[0] == "first - second"
    assert row[1].startswith("+25.0 [")
    assert row[2:4] == ["not significant (p 0.625)", "3 / 1"]


def test_p_values_are_corrected_for_the_number_of_pairs(two_runs, tmp_path, data, save_run_on):
    third = save_run_on(tmp_path / "runs" / "third", data, range(8))
    pairs = compare([*two_runs, third]).pairs
    smallest = min(pairs, key=lambda pair: pair.mcnemar.p)
    assert smallest.corrected_p == pytest.approx(3 * smallest.mcnemar.p)


def test_runs_that_agree_everywhere_have_the_same_predictions_and_no_interval(two_runs, tmp_path, data, save_run_on):
    comparison = compare([two_runs[0], save_run_on(tmp_path / "copy", data, [0])])
    assert pair_rows(comparison)[1][:5] == ["first - copy", "the same predictions", "", "0 / 0", ""]
    assert "<b>copy</b>: the same predictions." in page(comparison)
    assert "the same predictions" not in show_comparison(compare(two_runs))


def test_runs_that_are_equally_accurate_on_other_texts_have_a_difference(tmp_path, data, save_run_on):
    comparison = compare([save_run_on(tmp_path / "a", data, [0]), save_run_on(tmp_path / "b", data, [1])])
    assert pair_rows(comparison)[1][1].startswith("+0.0 [-")


def test_a_clear_difference_is_significant(tmp_path, data, save_run_on):
    with open(data, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("pos", "a good film"), ("neg", "a bad film")] * 30)
    comparison = compare([save_run_on(tmp_path / "good", data), save_run_on(tmp_path / "bad", data, range(20))])
    assert comparison.pairs[0].verdict == "significant (p < 0.001)"
    assert "  significant (p < 0.001)" in show_comparison(comparison)


def test_a_single_run_has_no_pairs(two_runs):
    comparison = compare(two_runs[1:])
    assert comparison.pairs == []
    assert "1 run on 8 test texts" in show_comparison(comparison)
    assert "★" not in show_comparison(comparison)


def test_seeds_are_averaged(tmp_path, data, save_run_on):
    save_run_on(tmp_path / "mlp" / "seed0", data, [0])
    save_run_on(tmp_path / "mlp" / "seed1", data, [1, 2, 3])
    comparison = compare([tmp_path / "mlp"])
    (line,) = comparison.seeds  # the standard deviation of 7/8 and 5/8 is 0.177
    assert line.startswith("mlp, mean (standard deviation) of 2 seeds: accuracy 75.0 % (17.7), ")
    assert show_comparison(comparison).endswith(line)


# Other test texts


def test_another_file_is_named(two_runs, tmp_path, data, save_run_on):
    other = shutil.copy(data, tmp_path / "other.csv")
    with open(other, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("pos", "good"), ("neg", "bad")] * 3)
    message = message_of(two_runs[0], save_run_on(tmp_path / "third", other))
    assert f"data {other} against {data}" in message
    assert "number of texts 10 against 8" in message


def test_another_seed_is_named(two_runs, tmp_path, data, save_run_on):
    message = message_of(two_runs[0], save_run_on(tmp_path / "third", data, seed=1))
    assert "seed 1 against 0" in message


def test_another_subset_is_named(two_runs, tmp_path, data, save_run_on):
    message = message_of(two_runs[0], save_run_on(tmp_path / "third", data, fraction=0.5))
    assert "subset [1.0, 0.5] against [1.0, 1.0]" in message
    assert "number of texts 4 against 8" in message


def test_a_file_that_changed_between_the_runs_is_named(two_runs, tmp_path, data, save_run_on):
    data.write_text(data.read_text().replace("film", "play"))
    message = message_of(two_runs[0], save_run_on(tmp_path / "third", data))
    assert "(the data changed)" in message


def test_other_classes_are_named(two_runs, tmp_path, data, save_run_on):
    data.write_text(data.read_text().replace("pos,", "yes,"))
    message = message_of(two_runs[0], save_run_on(tmp_path / "third", data))
    assert "classes neg, yes against neg, pos" in message


def test_the_same_texts_at_another_path_can_be_compared(two_runs, tmp_path, data, save_run_on):
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(data, tmp_path / "moved" / "reviews.csv")
    assert len(compare([two_runs[0], save_run_on(tmp_path / "third", moved)]).runs) == 2


# Tables


def test_costs_are_shown(two_runs, tmp_path, data, save_run_on):
    costs = {"parameters": 1234, "train_seconds": 61.24, "predict_seconds": 0.5, "texts": 5000}
    third = save_run_on(tmp_path / "third", data, costs=costs)
    cells = {label: values for label, *values in overview_scores(compare([two_runs[0], third]))}
    assert cells["parameters"] == ["10", "1,234"]
    assert cells["training time (s)"] == ["3.0", "61.2"]
    assert cells["texts per second"] == ["100", "10,000"]


def test_accuracy_by_tag_has_one_row_per_tag_and_one_column_per_run(tmp_path, data, save_run_on):
    tags = ["plain"] * 6 + ["irony"] * 2
    folders = [
        save_run_on(tmp_path / "a", data, [7], tags=tags),
        save_run_on(tmp_path / "b", data, range(8), tags=tags),
    ]
    comparison = compare(folders)
    head, irony, plain = tag_scores(comparison)
    assert head == ["tag", "a", "b"]
    assert (irony[0], plain[0]) == ("irony (2)", "plain (6)")
    assert [cell.partition(" %")[0] for cell in (*irony[1:], *plain[1:])] == ["50.0", "0.0", "100.0", "0.0"]
    assert "irony (2)" in show_comparison(comparison)


def test_data_without_tags_have_no_rows_by_tag(two_runs):
    comparison = compare(two_runs)
    assert len(tag_scores(comparison)) == 1
    assert "tag" not in show_comparison(comparison)


# The command


def test_the_command_prints_a_table_and_writes_the_page(two_runs, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["minitext", "compare", *map(str, two_runs), "--out", str(page)])
    assert cli.main() == 0
    printed = capsys.readouterr().out
    assert "first - second  +25.0" in printed
    assert f"page: {page}" in printed
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_command_refuses_in_one_line_with_status_2(two_runs, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["minitext", "compare", str(two_runs[0]), str(tmp_path), "--out", str(page)])
    assert cli.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not page.exists()
