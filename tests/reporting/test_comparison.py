"""Proves that runs are compared on the same texts only, with the numbers that they saved, and that whatever cannot be
compared is refused in one line that names what is wrong.
"""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from minitext import cli as command_line
from minitext.data.dataset import DataConfig, load_dataset
from minitext.evaluation import metrics
from minitext.models.mean_encoder import MeanEncoder
from minitext.models.static import LogisticRegression, StaticClassifier
from minitext.reporting import comparison as compare_file
from minitext.reporting import disagreements
from minitext.reporting.comparison import by_kind, compare, show_comparison, tag_rows
from minitext.reporting.saved_run import read_runs, short_names
from minitext.utils.errors import UserError

ROWS = [("pos", "a good film"), ("neg", "a bad film"), ("pos", "good, not bad"), ("neg", "bad, not good"),
        ("pos", "good good"), ("neg", "bad bad")]  # fmt: skip


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 50)


@pytest.fixture
def data(tmp_path) -> Path:
    """Labelled texts; a third of them become the test."""
    path = tmp_path / "reviews.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "text"), *ROWS * 4])
    return path


def save_run(folder: Path, data: Path, wrong: Sequence[int] = (), seed: int = 0, fraction: float = 1.0, **more) -> Path:
    """A finished run without training: sure of each test text's class by 0.8, except of the texts `wrong`."""
    options = {"data": str(data), "test_fraction": 0.34, "subset": [1.0, fraction]}
    splits = load_dataset(DataConfig(**{**options, "subset": (1.0, fraction)}), seed)
    test = splits.test
    own = np.where(np.isin(np.arange(len(test)), wrong), 0.2, 0.8)
    probabilities = np.stack([np.where(test.labels == c, own, 1 - own) for c in range(2)], axis=1)
    folder.mkdir(parents=True)
    encoder = MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]]))
    StaticClassifier(encoder, LogisticRegression(1, 2), splits.train.class_names).save(folder)
    settings = {
        "data": options, "run": {"seed": seed}, "classes": splits.train.class_names, "command": "train_static.py",
        "started": "2026-11-24", "machine": "x86_64", "versions": {"torch": "2.13"},
        "data_found": {"test": {"texts": len(test), "fingerprint": test.fingerprint()}},
    }  # fmt: skip
    scores = {
        "train": metrics.score(splits.train.labels, np.eye(2)[splits.train.labels], test.class_names, seed),
        "test": metrics.score(test.labels, probabilities, test.class_names, seed),
    }
    journal = [{"epoch": e, "train": {"loss": 1 / e, "accuracy": 0.8}, "valid": {"loss": 1.0, "accuracy": 0.7}}
               for e in (1, 2)]  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in journal))
    tags = more.get("tags")
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["id", "label", "predicted", *(f"p({name})" for name in test.class_names), *(["tag"] if tags else [])]
        )
        for i, (place, label, row) in enumerate(zip(test.ids, test.labels, probabilities, strict=True)):
            writer.writerow(
                [place, test.class_names[label], test.class_names[row.argmax()], *row, *([tags[i]] if tags else [])]
            )
    if "costs" in more:
        (folder / "costs.json").write_text(json.dumps(more["costs"]))
    return folder


@pytest.fixture
def two(tmp_path, data) -> list[Path]:
    """Eight test texts, four of either class: the first run has one wrong, the second three."""
    return [save_run(tmp_path / "runs" / "first", data, [0]), save_run(tmp_path / "runs" / "second", data, [1, 2, 3])]


def refused(*folders: Path) -> str:
    with pytest.raises(UserError) as error:
        compare(folders)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# What is compared


def test_scores_are_those_that_the_runs_saved(two):
    comparison = compare(two)
    for folder, scores in zip(two, comparison.scores, strict=True):
        saved = json.loads((folder / "scores.json").read_text())["test"]
        assert {name: scores[name] for name in ("accuracy", "macro_f1", "log_loss")} == {
            name: saved[name] for name in ("accuracy", "macro_f1", "log_loss")
        }


def test_the_best_run_is_the_most_accurate(two):
    assert compare(two).best == 0
    assert compare(two[::-1]).best == 1


def test_a_pair_counts_the_texts_that_only_one_has_right(two):
    (pair,) = compare(two).pairs
    assert (pair.test.only_first, pair.test.only_second) == (3, 1)
    assert pair.test.p == pytest.approx(2 * 5 / 16)  # 1 of 4 or fewer, on either side
    assert pair.differences["accuracy"].value == pytest.approx(2 / 8)
    assert not pair.differ


def test_p_values_are_corrected_for_the_number_of_pairs(two, tmp_path, data):
    third = save_run(tmp_path / "runs" / "third", data, range(8))
    pairs = compare([*two, third]).pairs
    smallest = min(pairs, key=lambda pair: pair.test.p)
    assert smallest.corrected == pytest.approx(3 * smallest.test.p)


def test_a_clear_difference_is_called_one(tmp_path, data):
    with open(data, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ROWS * 10)
    folders = [save_run(tmp_path / "good", data), save_run(tmp_path / "bad", data, range(20))]
    comparison = compare(folders)
    assert comparison.pairs[0].differ
    assert "more than chance" in show_comparison(comparison)


def test_the_calibration_error_is_the_saved_one_where_there_is_one(two):
    assert compare(two).scores[0]["ece"]["value"] == pytest.approx(abs(7 / 8 - 0.8))  # all texts are in one bin
    edit(two[0] / "scores.json", lambda scores: scores["test"].update(ece={"value": 0.3, "low": 0.2, "high": 0.4}))
    assert compare(two).scores[0]["ece"] == {"value": 0.3, "low": 0.2, "high": 0.4}


def test_a_run_can_stand_alone(two):
    comparison = compare(two[1:])
    assert comparison.pairs == []
    assert [shown.label != shown.sides[0].predicted for shown in comparison.disagreements] == [True] * 3
    assert "1 run on 8 test texts" in show_comparison(comparison)


# Names and seeds


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/static/mlp", "y/static/mlp", "y/scratch"], ["x/static/mlp", "y/static/mlp", "scratch"]),
        (["static/mlp", "other/mlp"], ["static/mlp", "other/mlp"]),
        (["only"], ["only"]),
    ],
)
def test_a_name_is_the_shortest_end_of_the_path_that_tells_it_apart(folders: list[str], expected: list[str]):
    assert short_names([Path(folder) for folder in folders]) == expected


def test_a_folder_of_seeds_stands_for_its_runs_in_order(tmp_path, data):
    for seed in (10, 2):
        save_run(tmp_path / "mlp" / f"seed{seed}", data)
    (tmp_path / "mlp" / "seedling").mkdir()
    assert [result.name for result in read_runs([tmp_path / "mlp"])] == ["seed2", "seed10"]


def test_seeds_are_summed_up(tmp_path, data):
    save_run(tmp_path / "mlp" / "seed0", data, [0])
    save_run(tmp_path / "mlp" / "seed1", data, [1, 2, 3])
    comparison = compare([tmp_path / "mlp"])
    (seeds,) = comparison.seeds
    assert (seeds.name, seeds.runs) == ("mlp", [0, 1])
    assert seeds.scores["accuracy"] == pytest.approx((6 / 8, (2 * (1 / 8) ** 2) ** 0.5))
    assert "mlp, mean (deviation) over 2 seeds: accuracy 75.0 % (17.7)" in show_comparison(comparison)


# Other test texts


def test_another_file_is_named(two, tmp_path, data):
    other = shutil.copy(data, tmp_path / "other.csv")
    with open(other, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ROWS)
    message = refused(two[0], save_run(tmp_path / "third", other))
    assert f"data {other} against {data}" in message
    assert "10 texts against 8" in message


def test_another_seed_is_named(two, tmp_path, data):
    message = refused(two[0], save_run(tmp_path / "third", data, seed=1))
    assert "seed 1 against 0" in message
    assert "text 1 is reviews.csv:" in message


def test_another_fraction_is_named(two, tmp_path, data):
    message = refused(two[0], save_run(tmp_path / "third", data, fraction=0.5))
    assert "subset [1.0, 0.5] against [1.0, 1.0]" in message
    assert "4 texts against 8" in message


def test_a_file_that_changed_between_the_runs_is_named(two, tmp_path, data):
    data.write_text(data.read_text().replace("film", "play"))
    message = refused(two[0], save_run(tmp_path / "third", data))
    assert "the same places hold other texts or labels" in message


def test_other_classes_are_named(two, tmp_path, data):
    data.write_text(data.read_text().replace("pos,", "yes,"))
    message = refused(two[0], save_run(tmp_path / "third", data))
    assert "classes are neg, yes" in message
    assert "neg, pos" in message


def test_the_same_texts_under_another_path_can_be_compared(two, tmp_path, data):
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(data, tmp_path / "moved" / "reviews.csv")
    assert len(compare([two[0], save_run(tmp_path / "third", moved)]).runs) == 2


# Folders that are no run


def test_a_folder_that_is_no_run_is_refused(two, tmp_path):
    assert "not a finished run; give the folder" in refused(two[0], tmp_path / "nothing")
    assert f"did you mean {tmp_path / 'runs' / 'first'}?" in refused(tmp_path / "runs")


def test_an_unfinished_run_is_refused(two):
    (two[1] / "scores.json").unlink()
    assert f"{two[1]}: unfinished" in refused(*two)


def test_a_run_named_twice_is_refused(two):
    assert "named twice" in refused(two[0], two[0] / ".." / "first")


@pytest.mark.parametrize("name", ["settings.json", "predictions.csv", "journal.jsonl"])
def test_a_missing_file_is_refused(two, name: str):
    (two[1] / name).unlink()
    message = refused(*two)
    assert message.startswith(f"{two[1]}: damaged (")
    assert name in message


@pytest.mark.parametrize("name", ["settings.json", "scores.json"])
def test_half_a_file_is_refused(two, name: str):
    text = (two[1] / name).read_text()
    (two[1] / name).write_text(text[: len(text) // 2])
    message = refused(*two)
    assert message.startswith(f"{two[1]}: damaged ({name}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("p(pos)", "pos", "no column p(pos)"),
        (",0.2", ",x", "could not convert"),
        (",0.2", ",nan", "do not add up to 1"),
        (",0.2", ",0.9", "do not add up to 1"),
        ("pos,pos", "pos,other", "not a row of this run"),
        ("pos,pos", "pos", "not a row of this run"),
        ("pos,pos", "pos,pos,1", "not a row of this run"),
    ],
)
def test_a_damaged_prediction_is_refused(two, old: str, new: str, expected: str):
    path = two[1] / "predictions.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    message = refused(*two)
    assert message.startswith(f"{two[1]}: damaged (")
    assert expected in message


def test_a_missing_row_is_refused(two):
    path = two[1] / "predictions.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert "7 rows for 8 texts" in refused(*two)


def test_a_missing_score_is_refused(two):
    edit(two[1] / "scores.json", lambda scores: scores["test"].pop("log_loss"))
    assert f"{two[1]}: damaged (scores.json test log_loss value is missing)" in refused(*two)


# Texts


def test_texts_are_those_that_only_one_has_right(two):
    texts = compare(two).disagreements
    assert len(texts) == 3  # two of the three that only the first has right, and the one of the second
    for shown in texts:
        right, wrong = shown.sides
        assert right.predicted == shown.label != wrong.predicted
        assert shown.text in {text for label, text in ROWS if label == shown.label}
        assert 'class="w' in right.words
    assert [[side.run for side in shown.sides] for shown in texts] == [[0, 1], [0, 1], [1, 0]]


def test_texts_that_changed_are_left_out_with_a_reason(two, data):
    data.write_text(data.read_text().replace("film", "play"))
    comparison = compare(two)
    assert all(shown.text is None for shown in comparison.disagreements)
    assert comparison.remarks == [f"The texts are left out, as {data} holds other test texts now."]


def test_data_that_are_gone_are_left_out_with_a_reason(two, data):
    data.unlink()
    comparison = compare(two)
    assert all(side.words is None for shown in comparison.disagreements for side in shown.sides)
    (remark,) = comparison.remarks
    assert remark.startswith(f"The texts are left out, as the data could not be read again: {data}")


def test_colours_that_take_too_long_are_left_out_with_a_reason(two, monkeypatch):
    monkeypatch.setattr(disagreements, "EXPLAINING", 0.0)
    comparison = compare(two)
    assert all(shown.text and not shown.sides[0].words for shown in comparison.disagreements)
    assert "3 texts are without colours" in comparison.remarks[0]


# On a terminal


def test_costs_are_shown_and_their_absence_is_a_dash(two, tmp_path, data):
    costs = {"parameters": 1234, "train_seconds": 61.24, "predict_seconds": 0.5, "texts": 50}
    third = save_run(tmp_path / "third", data, costs=costs)
    lines = {
        line[:17].strip(): line[17:].split("  ") for line in show_comparison(compare([two[0], third])).splitlines()
    }
    shown = {name: [cell.strip() for cell in cells if cell.strip()] for name, cells in lines.items()}
    assert shown["parameters"] == ["–", "1,234"]
    assert shown["training"] == ["–", "61.2 s"]
    assert shown["texts a second"] == ["–", "100"]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.25, "0.2 s"), (119, "119.0 s"), (600, "10 min"), (9000, "2.5 h"), (None, "–")]
)
def test_times_are_shown_in_a_unit_that_fits(seconds: float | None, expected: str):
    assert compare_file.time_or_dash(seconds) == expected


@pytest.mark.parametrize(("size", "expected"), [(1500, "2 kB"), (91_640_000, "91.6 MB"), (1_340_000_000, "1.34 GB")])
def test_sizes_are_shown_in_a_unit_that_fits(size: int, expected: str):
    assert compare_file.show_bytes(size) == expected


def test_the_size_is_that_of_the_model(two):
    before = compare(two).runs[0].size
    assert before == sum((two[0] / name).stat().st_size for name in ("model.safetensors", "config.json", "words.txt"))
    for name in ("report.md", "curves.png", "costs.json", "mistakes.csv"):
        (two[0] / name).write_text("{}")
    assert compare(two).runs[0].size == before


def test_accuracy_by_tag_has_a_row_a_tag_and_a_column_a_run(tmp_path, data):
    tags = ["plain"] * 6 + ["irony"] * 2
    runs = [save_run(tmp_path / "runs" / name, data, wrong, tags=tags) for name, wrong in (("a", [7]), ("b", range(8)))]
    head, irony, plain = tag_rows(compare(runs))
    assert head == ["accuracy on", "a", "b"]
    assert (irony[0], plain[0]) == ("irony (2)", "plain (6)")
    assert [cell.partition(" %")[0] for cell in (*irony[1:], *plain[1:])] == ["50.0", "0.0", "100.0", "0.0"]


def test_data_without_tags_have_no_rows_by_tag(two):
    assert by_kind(compare(two).runs) == []


def test_the_command_prints_a_table_and_writes_the_page(two, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["minitext", "compare", *map(str, two), "--out", str(page)])
    assert command_line.main() == 0
    printed = capsys.readouterr().out
    assert "first - second: accuracy +25.0 points" in printed
    assert f"page: {page}" in printed
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_command_refuses_in_one_line_with_status_2(two, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["minitext", "compare", str(two[0]), str(tmp_path), "--out", str(page)])
    assert command_line.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not page.exists()
