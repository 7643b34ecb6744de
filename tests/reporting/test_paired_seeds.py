"""Comparison of models over the same seeds: pairs, refusals, tables and page."""

import re
from pathlib import Path

import pytest

from minitext import cli
from minitext.reporting import html
from minitext.reporting.paired_seeds import (
    compare_seeds,
    difference_rows,
    format_difference,
    mean_rows,
    seed_rows,
    show_seeds,
)
from minitext.utils.errors import UserError

WRONG = {"a": {0: [0], 1: [0, 1, 2], 2: [0, 1]}, "b": {0: [0, 1], 1: [0, 1, 2, 3], 2: [0, 1]}}  # of eight test texts


@pytest.fixture
def groups(tmp_path, data, save_run_on) -> list[Path]:
    """Two models over three seeds; each seed has test texts of its own."""
    for name, wrong in WRONG.items():
        for seed, texts in wrong.items():
            save_run_on(tmp_path / name / f"seed{seed}", data, texts, seed=seed)
    return [tmp_path / "a", tmp_path / "b"]


def message_of(*folders: Path) -> str:
    with pytest.raises(UserError) as error:
        compare_seeds(folders)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_models_are_paired_by_seed_although_their_test_texts_differ(groups):
    comparison = compare_seeds(groups)
    assert not comparison.same_texts
    (pair,) = comparison.pairs
    # right: 7, 5, 6 against 6, 4, 6 of eight; differences of 1, 1 and 0 texts
    assert pair.differences["accuracy"] == {
        "mean": pytest.approx(2 / 24),
        "std": pytest.approx(1 / 8 / 3**0.5),
        "error": pytest.approx(1 / 24),
        "seeds": 3,
    }
    (row,) = difference_rows(comparison)[1:]
    assert (row[0], row[1], row[-1]) == ("a - b", "+8.33 (7.22), standard error 4.17", "3")


def test_seeds_are_in_numerical_order(groups, data, save_run_on):
    for folder in groups:
        save_run_on(folder / "seed10", data, seed=10)
    comparison = compare_seeds(groups)
    assert [group.seeds for group in comparison.groups] == [[0, 1, 2, 10]] * 2


def test_each_model_has_mean_and_standard_deviation(groups):
    head, accuracy, *_ = mean_rows(compare_seeds(groups))
    assert head == ["mean (standard deviation)", "a", "b"]
    assert accuracy == ["accuracy", "75.0 % (12.5)", "66.7 % (14.4)"]


def test_each_seed_has_its_accuracies(groups):
    rows = seed_rows(compare_seeds(groups))
    assert [row[0] for row in rows] == ["seed", "0", "1", "2"]
    assert rows[1][1].startswith("87.5 % [")


def test_a_difference_is_formatted_with_deviation_and_standard_error():
    found = {"mean": 0.0008, "std": 0.0036, "error": 0.0016, "seeds": 5}
    assert format_difference(found, percent=True) == "+0.08 (0.36), standard error 0.16"
    assert format_difference(found, percent=False) == "+0.0008 (0.0036), standard error 0.0016"


def test_other_seeds_are_refused(groups, data, save_run_on):
    save_run_on(groups[1] / "seed3", data, seed=3)
    assert message_of(*groups) == (
        f"{groups[1]}: seeds 0, 1, 2, 3, but {groups[0]} has 0, 1, 2; train both with the same seeds"
    )


def test_other_test_texts_of_one_seed_are_refused(groups, data, save_run_on, tmp_path):
    for seed in range(3):
        save_run_on(tmp_path / "half" / f"seed{seed}", data, seed=seed, fraction=0.5)
    assert "subset [1.0, 0.5] against [1.0, 1.0]" in message_of(groups[0], tmp_path / "half")


def test_single_runs_are_not_paired_by_seed(two_runs, groups):
    assert compare_seeds(two_runs) is None
    assert compare_seeds([groups[0], two_runs[0]]) is None


def test_seeds_of_one_model_are_averaged_where_their_test_texts_differ(groups, tmp_path, data, save_run_on):
    comparison = compare_seeds(groups[:1])
    assert comparison.pairs == [] and len(difference_rows(comparison)) == 1
    assert show_seeds(comparison).startswith("1 model over 3 seeds (0, 1, 2), test texts that differ between seeds")
    for seed in range(2):
        save_run_on(tmp_path / "same" / f"seed{seed}", data)
    assert compare_seeds([tmp_path / "same"]) is None  # these are compared with each other, text by text


def test_a_folder_that_is_given_twice_counts_once(groups):
    assert len(compare_seeds([*groups, groups[0]]).groups) == 2


def test_the_page_has_the_tables_and_one_figure_per_model(groups):
    comparison = compare_seeds(groups)
    page = html.seeds_page(comparison)
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Scores", "Differences", "Accuracy by seed", "Learning curves", "Commands and environments"
    ]  # fmt: skip
    for rows in (mean_rows(comparison), difference_rows(comparison), seed_rows(comparison)):
        assert all(f"{cell}</t" in page for row in rows for cell in row)
    assert page.count("<svg") == 2


def test_the_command_pairs_seeds(groups, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["minitext", "compare", *map(str, groups), "--out", str(page)])
    assert cli.main() == 0
    assert "a - b  +8.33 (7.22), standard error 4.17" in capsys.readouterr().out
    assert "+8.33 (7.22), standard error 4.17" in page.read_text(encoding="utf-8")
