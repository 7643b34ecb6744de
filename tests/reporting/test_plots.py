"""Proves that each figure shows what the run's files hold, says what its axes mean, and is written as a picture."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from minitext.reporting import plots
from minitext.reporting.plots import confusion, curves, draw, histogram, reliability

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def journal_rows(count: int, unit: str = "epoch", kept: int | None = 2) -> list[dict]:
    """Losses 1/1, 1/2, 1/3 … on train, twice that on validation; accuracies rise."""
    rows = []
    for i in range(1, count + 1):
        row = {unit: i, "train": {"loss": 1 / i, "accuracy": 1 - 1 / (i + 1)},
               "valid": {"loss": 2 / i, "accuracy": 1 - 1.5 / (i + 1)}}  # fmt: skip
        rows.append(row | ({"best": True} if i == kept else {}))
    return rows


def labels_of(figure: Figure) -> list[tuple[str, str]]:
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


def legend_of(figure: Figure) -> list[str]:
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + figure.legends
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def saved_run(folder: Path, names: list[str], epochs: int, unit: str = "epoch") -> Path:
    """The files that the figures are made from: four texts a class, one of them wrong."""
    folder.mkdir(exist_ok=True)
    classes = len(names)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in journal_rows(epochs, unit, epochs)))
    matrix = 3 * np.eye(classes, dtype=int) + np.roll(np.eye(classes, dtype=int), 1, axis=1)
    scores = {"test": {"per_class": {name: {} for name in names}, "confusion": matrix.tolist(),
                       "before_temperature": {"temperature": 1.5}}}  # fmt: skip
    (folder / "scores.json").write_text(json.dumps(scores))
    with open(folder / "predictions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "predicted", *(f"p({name})" for name in names)])
        for (i, j), count in np.ndenumerate(matrix):
            for k in range(count):
                probabilities = np.full(classes, 0.2 / (classes - 1))
                probabilities[j] = 0.8
                writer.writerow([f"t{i}{j}{k}", names[i], names[j], *probabilities])
    return folder


# Learning curves


def test_curves_say_what_their_axes_mean():
    assert labels_of(curves(journal_rows(3))) == [("epoch", "loss (nats)"), ("epoch", "accuracy")]


def test_curves_count_iterations_where_the_journal_does():
    assert [x for x, _ in labels_of(curves(journal_rows(3, "iteration")))] == ["iteration", "iteration"]


def test_curves_tell_train_from_validation():
    assert legend_of(curves(journal_rows(3))) == ["train", "validation", "kept"]


@pytest.mark.parametrize("count", [1, 2, 40])
def test_curves_have_a_point_a_row(count: int):
    rows = journal_rows(count, kept=None)
    for axis, key in zip(curves(rows).axes, ("loss", "accuracy"), strict=True):
        for line, part in zip(axis.get_lines(), ("train", "valid"), strict=True):
            assert line.get_xdata().tolist() == [row["epoch"] for row in rows]
            assert line.get_ydata().tolist() == [row[part][key] for row in rows]


def test_a_single_epoch_is_a_visible_point():
    assert {line.get_marker() for line in curves(journal_rows(1, kept=None)).axes[0].get_lines()} == {"o", "s"}


def test_the_kept_epoch_is_marked():
    for axis in curves(journal_rows(5, kept=3)).axes:
        (line,) = (line for line in axis.get_lines() if line.get_label() == "kept")
        assert list(line.get_xdata()) == [3, 3]


def test_a_journal_without_a_kept_row_has_no_mark():
    assert legend_of(curves(journal_rows(3, kept=None))) == ["train", "validation"]


# Confusion matrix


def test_the_confusion_matrix_says_what_its_axes_mean():
    figure = confusion(np.array([[3, 1], [0, 4]]), ["neg", "pos"])
    assert labels_of(figure)[0] == ("predicted class", "true class")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["neg", "pos"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["neg", "pos"]
    assert labels_of(figure)[1] == ("", "share of the true class")


def test_a_cell_holds_its_count_and_the_share_of_its_row():
    cells = confusion(np.array([[3, 1], [0, 4000]]), ["neg", "pos"]).axes[0].texts
    at = {cell.get_position(): cell.get_text() for cell in cells}  # (column, row)
    assert at == {(0, 0): "3\n75.0%", (1, 0): "1\n25.0%", (0, 1): "0\n0.0%", (1, 1): "4,000\n100.0%"}


def test_a_class_without_texts_has_shares_of_zero():
    cells = confusion(np.array([[2, 0], [0, 0]]), ["neg", "pos"]).axes[0].texts
    assert [cell.get_text() for cell in cells] == ["2\n100.0%", "0\n0.0%", "0\n0.0%", "0\n0.0%"]


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_the_confusion_matrix_has_a_cell_a_pair_of_classes(classes: int):
    names = [f"class {c}" for c in range(classes)]
    assert len(confusion(np.eye(classes, dtype=int), names).axes[0].texts) == classes**2


# Probabilities


def heights(figure: Figure) -> tuple[int, int]:
    """How many texts stand in the bars of right and of wrong predictions."""
    right, wrong = figure.axes[0].containers
    return sum(bar.get_height() for bar in right), sum(bar.get_height() for bar in wrong)


def test_two_classes_show_the_probability_of_the_second():
    figure = histogram(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([True, False]), ["neg", "pos"])
    assert labels_of(figure) == [("predicted probability of 'pos'", "test texts")]
    right, wrong = figure.axes[0].containers
    assert [bar.get_x() < 0.1 <= bar.get_x() + bar.get_width() + 1e-9 for bar in right if bar.get_height()] == [True]
    assert [bar.get_x() <= 0.9 + 1e-9 for bar in wrong if bar.get_height()] == [True]


def test_more_classes_show_the_probability_of_the_predicted_one():
    figure = histogram(np.array([[0.2, 0.5, 0.3], [1.0, 0, 0]]), np.array([True, True]), ["a", "b", "c"])
    assert labels_of(figure) == [("probability of the predicted class", "test texts")]
    assert figure.axes[0].get_xlim() == pytest.approx((1 / 3, 1))


@pytest.mark.parametrize("classes", [2, 5])
def test_every_text_stands_in_a_bar(classes: int):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(classes), size=50)
    probabilities[0] = np.eye(classes)[0]  # certain
    probabilities[1] = 1 / classes  # clueless
    right = np.arange(50) < 30
    assert heights(histogram(probabilities, right, [f"class {c}" for c in range(classes)])) == (30, 20)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_right_or_all_wrong_is_a_figure_too(share: float):
    right = np.full(4, bool(share))
    figure = histogram(np.array([[0.3, 0.7]] * 4), right, ["neg", "pos"])
    assert heights(figure) == (4 * share, 4 - 4 * share)


def test_the_histogram_tells_right_from_wrong():
    figure = histogram(np.array([[0.9, 0.1]] * 4), np.array([True, True, True, False]), ["neg", "pos"])
    assert legend_of(figure) == ["right (75.0%)", "wrong (25.0%)"]


# Reliability


def test_the_reliability_diagram_shows_both_calibration_errors_and_the_temperature():
    labels, probabilities = np.array([1, 1, 1, 0]), np.array([[0.2, 0.8]] * 4)  # said 80 %, found 75 %
    left, right = reliability(labels, probabilities, temperature=2.0).axes
    raw = 0.8**2 / (0.8**2 + 0.2**2)  # what was said before its logits were halved
    assert left.get_title() == f"as trained: calibration error {raw - 0.75:.1%}"
    assert right.get_title() == "temperature 2.00: calibration error 5.0%"


def test_a_point_of_the_reliability_diagram_stands_where_its_bin_is():
    labels, probabilities = np.array([1, 1, 1, 0]), np.array([[0.2, 0.8]] * 4)
    _, right = reliability(labels, probabilities, temperature=1.0).axes
    points = [tuple(point) for collection in right.collections for point in collection.get_offsets()]
    assert any(point == pytest.approx((0.8, 0.75)) for point in points)


# All figures of a run


@pytest.mark.parametrize(("classes", "epochs"), [(2, 1), (5, 3)])
def test_draw_writes_four_pictures(tmp_path, classes: int, epochs: int):
    folder = saved_run(tmp_path / "run", [f"class {c}" for c in range(classes)], epochs)
    draw(folder)
    pictures = sorted(folder.glob("*.png"))
    assert [path.name for path in pictures] == [
        "confusion.png", "curves.png", "probabilities.png", "reliability.png"
    ]  # fmt: skip
    for path in pictures:
        content = path.read_bytes()
        assert content.startswith(PNG_SIGNATURE)
        assert len(content) > 5000, path.name  # an empty white picture of this size has about 2 KB
    assert not list(folder.glob(".*"))  # no temporary file is left


def test_class_names_are_not_read_as_formulas(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 20)  # the size does not matter here
    draw(saved_run(tmp_path / "run", ["$5^$", "a_b", "100 %"], 2))


def test_only_rows_with_validation_are_drawn(tmp_path, monkeypatch):
    folder = saved_run(tmp_path / "run", ["neg", "pos"], 2)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "train": {"loss": 0.5}}\n')
    drawn = []
    monkeypatch.setattr(plots, "curves", lambda rows: drawn.extend(rows))
    monkeypatch.setattr(plots, "save", lambda *_: None)
    draw(folder)
    assert [row["epoch"] for row in drawn] == [1, 2]
