"""Tests of the figures: each shows the saved numbers, names its axes, and is written as PNG or SVG."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from minitext.reporting import plots
from minitext.reporting.class_tables import describe_cells
from minitext.reporting.plots import (
    confusion,
    curves,
    draw,
    histogram,
    intervals,
    reliability,
    share_scales,
    to_svg,
)
from minitext.utils.terminal import shorten

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def evaluations(count: int, unit: str = "epoch", best: int | None = 2, scale: float = 1.0) -> list[dict]:
    """Training losses 1/1, 1/2, 1/3 …, twice that on validation, times `scale`; accuracies rise."""
    rows = []
    for i in range(1, count + 1):
        row = {unit: i, "train": {"loss": scale / i, "accuracy": 1 - 1 / (i + 1)},
               "valid": {"loss": 2 * scale / i, "accuracy": 1 - 1.5 / (i + 1)}}  # fmt: skip
        rows.append(row | ({"best": True} if i == best else {}))
    return rows


def labels_of(figure: Figure) -> list[tuple[str, str]]:
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


def legend_of(figure: Figure) -> list[str]:
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + figure.legends
    return [text.get_text() for legend in legends for text in legend.get_texts()]


# Learning curves


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_curves_name_their_axes(unit: str):
    assert labels_of(curves(evaluations(3, unit))) == [(unit, "loss (nats)"), (unit, "accuracy")]


def test_curves_distinguish_train_and_validation():
    assert legend_of(curves(evaluations(3))) == ["train", "validation", "best"]


@pytest.mark.parametrize("count", [1, 2, 40])
def test_curves_have_one_point_per_evaluation(count: int):
    rows = evaluations(count, best=None)
    for axis, key in zip(curves(rows).axes, ("loss", "accuracy"), strict=True):
        for line, part in zip(axis.get_lines(), ("train", "valid"), strict=True):
            assert list(line.get_xdata()) == [row["epoch"] for row in rows]
            assert list(line.get_ydata()) == [row[part][key] for row in rows]


def test_curves_of_validation_alone():
    rows = [{"epoch": 1, "valid": {"loss": 0.5, "accuracy": 0.75}}]
    assert legend_of(curves(rows)) == ["validation"]


def test_a_single_epoch_is_a_visible_point():
    assert {line.get_marker() for line in curves(evaluations(1, best=None)).axes[0].get_lines()} == {"o", "s"}


def test_the_best_epoch_is_marked():
    for axis in curves(evaluations(5, best=3)).axes:
        (line,) = (line for line in axis.get_lines() if line.get_label() == "best")
        assert list(line.get_xdata()) == [3, 3]


def test_without_a_best_evaluation_there_is_no_mark():
    assert legend_of(curves(evaluations(3, best=None))) == ["train", "validation"]


def test_curves_can_be_stacked():
    loss, accuracy = curves(evaluations(3), stacked=True).axes
    assert loss.get_position().y0 > accuracy.get_position().y1
    assert loss.get_position().x0 == accuracy.get_position().x0


def test_the_mean_curve_ends_where_a_seed_stopped():
    figure = curves(evaluations(3, scale=1), evaluations(2, scale=3))
    assert legend_of(figure) == ["train, mean of 2", "validation, mean of 2"]
    first, second, mean = figure.axes[0].get_lines()[:3]
    assert [len(line.get_xdata()) for line in (first, second, mean)] == [3, 2, 2]
    assert list(mean.get_ydata()) == [2, 1]  # of 1 and 3, and of 1/2 and 3/2


def test_figures_with_shared_scales_show_all_points():
    low, high = curves(evaluations(3)), curves(evaluations(3, scale=10))
    before = high.axes[0].get_ylim()
    share_scales([low, high])
    assert low.axes[0].get_ylim() == high.axes[0].get_ylim()
    assert low.axes[0].get_ylim()[1] == before[1]


# Confusion matrix


def test_the_confusion_matrix_names_its_axes_and_classes():
    figure = confusion(np.array([[3, 1], [0, 4]]), ["neg", "pos"])
    assert labels_of(figure) == [("predicted class", "true class")]
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["neg", "pos"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["neg", "pos"]


def cell_texts(figure: Figure) -> dict[tuple[int, int], str]:
    """(column, row) -> text."""
    return {cell.get_position(): cell.get_text() for cell in figure.axes[0].texts}


def test_a_cell_holds_its_count_and_its_fraction_of_the_row_and_an_empty_one_nothing():
    cells = cell_texts(confusion(np.array([[3, 1], [0, 4000]]), ["neg", "pos"]))
    assert cells == {(0, 0): "3\n75.0%", (1, 0): "1\n25.0%", (1, 1): "4,000\n100.0%"}


def test_a_class_without_texts_has_an_empty_row():
    assert cell_texts(confusion(np.array([[2, 0], [0, 0]]), ["neg", "pos"])) == {(0, 0): "2\n100.0%"}


def many_classes(classes: int) -> Figure:
    return confusion(np.eye(classes, dtype=int), [f"class {c}" for c in range(classes)])


@pytest.mark.parametrize(
    ("classes", "cell", "caption"),
    [
        (8, "1\n100.0%", "the number of texts, and their fraction of the true class."),
        (9, "1", "the number of texts."),
        (20, "1", "the number of texts."),
        (21, None, "no number; the table of confusions has the counts."),
    ],
)
def test_the_caption_says_what_a_cell_holds(classes: int, cell: str | None, caption: str):
    cells = cell_texts(many_classes(classes))
    assert cells == ({(c, c): cell for c in range(classes)} if cell else {})
    assert f"A cell holds {caption}" in describe_cells(classes)


@pytest.mark.parametrize(("classes", "axes"), [(2, 1), (20, 1), (21, 2), (77, 2), (1000, 2)])
def test_the_size_of_the_confusion_matrix_is_bounded(classes: int, axes: int):
    figure = many_classes(classes)
    assert max(figure.get_size_inches()) <= 10
    assert len(figure.axes) == axes  # a color bar replaces the numbers


@pytest.mark.parametrize(("classes", "step"), [(77, 1), (80, 1), (81, 2), (1000, 13)])
def test_each_name_is_at_the_tick_of_its_class(classes: int, step: int):
    axis = many_classes(classes).axes[0]
    for ticks, labels in ((axis.get_xticks(), axis.get_xticklabels()), (axis.get_yticks(), axis.get_yticklabels())):
        assert list(ticks) == list(range(0, classes, step))
        assert [label.get_text() for label in labels] == [f"class {c}" for c in ticks]


@pytest.mark.parametrize("name", ["x" * 60, "退款没有显示在账户里面的情况"])
def test_a_long_class_name_is_shortened(name: str):
    labels = confusion(np.eye(2, dtype=int), [name, "pos"]).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [shorten(name, 20), "pos"]


@pytest.mark.parametrize(("names", "rotation"), [(["neg", "pos"], 0), (["neg", "x" * 15], 90), (list("abcdefghi"), 0)])
def test_names_below_the_matrix_are_upright_where_they_would_touch(names: list[str], rotation: int):
    labels = confusion(np.eye(len(names), dtype=int), names).axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {rotation}


# Probabilities


def heights(figure: Figure) -> tuple[int, int]:
    """The number of texts in the bars of correct and of wrong predictions."""
    correct, wrong = figure.axes[0].containers
    return sum(bar.get_height() for bar in correct), sum(bar.get_height() for bar in wrong)


def test_two_classes_show_the_probability_of_the_second():
    figure = histogram(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([True, False]), ["neg", "pos"])
    assert labels_of(figure) == [("predicted probability of 'pos'", "test texts")]
    correct, wrong = figure.axes[0].containers
    (low,), (high,) = (
        [bar.get_x() + bar.get_width() / 2 for bar in bars if bar.get_height()] for bars in (correct, wrong)
    )
    assert abs(low - 0.1) < 0.03
    assert abs(high - 0.9) < 0.03


def test_more_classes_show_the_probability_of_the_predicted_one():
    figure = histogram(np.array([[0.2, 0.5, 0.3], [1.0, 0, 0]]), np.array([True, True]), ["a", "b", "c"])
    assert labels_of(figure) == [("probability of the predicted class", "test texts")]
    assert figure.axes[0].get_xlim() == pytest.approx((1 / 3, 1))


@pytest.mark.parametrize("classes", [2, 5])
def test_every_text_is_in_one_bar(classes: int):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(classes), size=50)
    probabilities[0] = np.eye(classes)[0]  # certain
    probabilities[1] = 1 / classes  # uniform
    correct = np.arange(50) < 30
    assert heights(histogram(probabilities, correct, [f"class {c}" for c in range(classes)])) == (30, 20)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_all_correct_or_all_wrong_is_a_figure_too(accuracy: float):
    figure = histogram(np.array([[0.3, 0.7]] * 4), np.full(4, bool(accuracy)), ["neg", "pos"])
    assert heights(figure) == (4 * accuracy, 4 - 4 * accuracy)


def test_the_histogram_distinguishes_correct_and_wrong():
    figure = histogram(np.array([[0.9, 0.1]] * 4), np.array([True, True, True, False]), ["neg", "pos"])
    assert legend_of(figure) == ["correct (75.0%)", "wrong (25.0%)"]


# Reliability and intervals


def test_the_reliability_diagram_has_one_titled_plot_per_panel():
    labels, probabilities = np.array([1, 1, 1, 0]), np.array([[0.2, 0.8]] * 4)  # confidence 80 %, accuracy 75 %
    left, right = reliability(labels, {"": probabilities, "after": np.array([[0.1, 0.9]] * 4)}).axes
    assert left.get_title() == "calibration error 5.0%"
    assert right.get_title() == "after: calibration error 15.0%"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["perfect calibration", "test texts"]


def test_points_of_the_reliability_diagram_are_at_confidence_and_accuracy():
    labels, probabilities = np.array([1, 1, 1, 0]), np.array([[0.2, 0.8]] * 4)
    (axis,) = reliability(labels, {"": probabilities}).axes
    points = [tuple(point) for collection in axis.collections for point in collection.get_offsets()]
    assert any(point == pytest.approx((0.8, 0.75)) for point in points)


def test_intervals_are_rows_in_per_cent_from_top_to_bottom():
    scores = [{"value": 0.5, "low": 0.4, "high": 0.7}, {"value": 0.6, "low": 0.5, "high": 0.65}]
    figure = intervals(["a", "b"], scores, "accuracy (%)")
    (axis,) = figure.axes
    points, _, (bars,) = axis.containers[0]
    assert points.get_xdata().tolist() == pytest.approx([50, 60])
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [
        pytest.approx([40, 70]),
        pytest.approx([50, 65]),
    ]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"]
    assert axis.yaxis_inverted()


# SVG


def test_svg_is_deterministic_accessible_and_scales_with_its_box():
    drawn = [to_svg(curves(evaluations(3)), "Curves of <a> & b") for _ in range(2)]
    assert drawn[0] == drawn[1]
    root = ElementTree.fromstring(drawn[0])
    assert (root.get("role"), root.get("aria-label")) == ("img", "Curves of <a> & b")
    assert root[0].text == "Curves of <a> & b"
    assert root.get("viewBox")
    assert root.get("width") is root.get("height") is None
    assert "loss (nats)" in "".join(root.itertext())  # text, not outlines


def test_svg_refers_to_its_own_ids_only():
    drawn = [to_svg(curves(evaluations(3)), title) for title in ("first", "second")]
    ids = [set(re.findall(r'\bid="([^"]+)"', drawing)) for drawing in drawn]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, drawing in zip(ids, drawn, strict=True):
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', drawing))
        assert used
        assert used <= own


def test_svg_has_no_style_that_applies_to_the_page():
    assert "<style" not in to_svg(confusion(np.eye(2, dtype=int), ["a", "b"]), "x")


# All figures of a run


def run_folder(save_run, folder: Path, names: list[str], epochs: int = 2) -> Path:
    """A run with four texts per class, of which one is wrong."""
    labels = np.repeat(np.arange(len(names)), 4)
    predicted = np.where(np.arange(len(labels)) % 4, labels, (labels + 1) % len(names))
    probabilities = np.where(np.eye(len(names))[predicted] == 1, 0.8, 0.2 / (len(names) - 1))
    return save_run(folder, names, labels, probabilities, evaluations=evaluations(epochs))


@pytest.mark.parametrize(("classes", "epochs"), [(2, 1), (5, 3)])
def test_draw_writes_four_pictures(tmp_path, save_run, classes: int, epochs: int):
    folder = run_folder(save_run, tmp_path / "run", [f"class {c}" for c in range(classes)], epochs)
    draw(folder)
    pictures = sorted(folder.glob("*.png"))
    assert [path.stem for path in pictures] == ["confusion", "curves", "probabilities", "reliability"]
    for path in pictures:
        content = path.read_bytes()
        assert content.startswith(PNG_SIGNATURE)
        assert len(content) > 5000, path.name  # an empty white picture of this size has about 2 KB
    assert not list(folder.glob(".*"))  # no temporary file remains


def test_draw_shows_the_calibration_before_and_after_the_temperature(tmp_path, save_run, monkeypatch):
    figures = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.update({path.stem: figure}))
    draw(run_folder(save_run, tmp_path / "run", ["neg", "pos"]))
    before, after = (axis.get_title() for axis in figures["reliability"].axes)
    raw = 0.8**1.5 / (0.8**1.5 + 0.2**1.5)  # the confidence before the temperature of 1.5
    assert before == f"before calibration: calibration error {raw - 0.75:.1%}"
    assert after == "temperature 1.50: calibration error 5.0%"


def test_class_names_are_not_read_as_formulas(tmp_path, save_run, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 20)  # the size does not matter here
    draw(run_folder(save_run, tmp_path / "run", ["$5^$", "a_b", "100 %"]))
