"""Proves that the page needs nothing from elsewhere, is sound HTML, escapes what it shows, and draws what was saved."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from minitext.evaluation.significance import BootstrapEstimate, McNemar
from minitext.reporting import charts, svg
from minitext.reporting.comparison import Comparison, PairwiseTest
from minitext.reporting.disagreements import Disagreement, RunPrediction
from minitext.reporting.html import page, write_page
from minitext.reporting.saved_run import SavedRun

EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NASTY = "<b>&\"'</b>"


class Reader(HTMLParser):
    """Elements, attributes and words of a page; `wrong` lists tags that do not close what is open."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


def result(name: str, accuracy: float = 0.75, names: tuple[str, ...] = ("neg", "pos"), **more) -> SavedRun:
    """A run on forty texts, of which the first are right."""
    labels = np.arange(40) % len(names)
    right = np.arange(40) < 40 * accuracy
    predicted = np.where(right, labels, (labels + 1) % len(names))
    probabilities = np.full((40, len(names)), 0.1 / (len(names) - 1))
    probabilities[np.arange(40), predicted] = 0.9
    matrix = np.bincount(labels * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), -1).tolist()
    score = {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}
    journal = [{"epoch": e, "train": {"loss": 1 / e, "accuracy": 0.5 + e / 10}, "valid": {"loss": 0.7, "accuracy": 0.6},
                "best": e == 2} for e in (1, 2, 3)]  # fmt: skip
    fields = {
        "folder": Path("runs") / name, "name": name, "class_names": names, "journal": journal, "size": 1500, "tags": None,
        "settings": {"data": {"data": "reviews.csv"}, "started": "2026-11-24", "machine": "x86_64",
                     "versions": {"torch": "2.13"}, "command": "train_static.py"},
        "scores": {"test": {"accuracy": score, "macro_f1": score, "log_loss": score, "confusion": matrix}},
        "costs": {}, "ids": [f"reviews.csv:{i}" for i in range(40)],
        "labels": labels, "predicted": predicted, "probabilities": probabilities,
    }  # fmt: skip
    return SavedRun(**{**fields, **more})


def comparison(*runs: SavedRun, **more) -> Comparison:
    """Nothing but the first two runs' difference, and one text on which they disagree."""
    gap = BootstrapEstimate(0.1, np.linspace(0.05, 0.15, 99))
    pairs = [PairwiseTest(0, 1, dict.fromkeys(("accuracy", "macro_f1", "log_loss"), gap), McNemar(5, 1, 0.2), 0.2)]
    scores = [{**run.scores["test"], "ece": {"value": 0.1, "low": None, "high": None}} for run in runs]
    words = '<span class="w" style="--c:-0.50">dull</span>'
    sides = [RunPrediction(i, name, 0.9, words) for i, name in zip(range(len(runs)), runs[0].class_names, strict=False)]
    fields = {
        "runs": list(runs), "scores": scores, "gaps": [gap] * len(runs), "best": 0, "seeds": [], "remarks": [],
        "pairs": pairs[: len(runs) - 1],
        "disagreements": [Disagreement("reviews.csv:3", runs[0].class_names[0], "dull", sides)],
    }  # fmt: skip
    return Comparison(**{**fields, **more})


COSTS = {"parameters": 10, "train_seconds": 3.0, "predict_seconds": 0.1, "texts": 40}


@pytest.fixture
def full() -> str:
    """A page with everything that a page can have."""
    tags = ["plain", "irony"] * 20
    runs = [result("first", costs=COSTS, tags=tags), result("second", 0.5, costs={**COSTS, "train_seconds": 90.0})]
    return page(comparison(*runs))


def test_every_element_is_closed_in_order(full: str):
    reader = Reader(full)
    assert (reader.open, reader.wrong) == ([], [])
    assert [tag for tag, _ in reader.tags].count("section") == 9


def test_nothing_is_fetched_from_elsewhere(full: str):
    reader = Reader(full)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "use"}
    names = {name for _, attributes in reader.tags for name in attributes}
    assert not names & {"src", "href", "srcset", "xlink:href", "action"}
    assert not re.search(r"https?:|url\(|@import|@font-face|\bon\w+=", full)


def test_every_drawing_is_sound_xml_with_a_title_and_a_description(full: str):
    drawings = re.findall(r"<svg.*?</svg>", full)
    assert drawings
    for drawing in drawings:
        root = ElementTree.fromstring(drawing.replace("&nbsp;", " "))
        if root.get("role") == "img":
            assert root.find("title").text
            assert root.find("desc").text
        else:
            assert root.get("aria-hidden") == "true"  # a mark beside its name, an interval beside its numbers


def test_every_number_in_a_drawing_is_finite(full: str):
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r"<svg.*?</svg>", full)), re.IGNORECASE)


def test_whatever_comes_from_outside_is_escaped():
    names = (f"neg{NASTY}", f"pos{NASTY}")
    settings = result("x").settings | {"command": NASTY, "machine": NASTY, "data": {"data": NASTY}}
    runs = [result(f"{run}{NASTY}", class_names=names, tags=[NASTY] * 40, costs=COSTS, settings=settings) for run in "ab"]
    sides = [RunPrediction(i, names[i], 0.9, None) for i in (0, 1)]
    shown = [Disagreement(NASTY, names[0], f"text {NASTY}", sides)]
    text = page(comparison(*runs, disagreements=shown, remarks=[NASTY]))
    assert NASTY not in text
    assert "<b>&" not in text
    reader = Reader(text)
    assert reader.wrong == []
    assert f"text {NASTY}" in reader.words


def test_words_come_coloured(full: str):
    assert full.count('<span class="w" style="--c:-0.50">dull</span>') == 2


def test_a_missing_cost_is_a_dash_and_has_no_place_in_the_scatter():
    one = page(comparison(result("first", costs=COSTS), result("second")))
    assert '<td data-label="parameters">–</td>' in one
    drawing = re.search(r'<svg class="chart wide".*?</svg>', one).group()
    assert "first" in drawing
    assert "second" not in drawing


def test_without_any_cost_there_is_no_scatter():
    assert "What accuracy costs" not in page(comparison(result("first"), result("second")))


def test_accuracy_by_tag_counts_its_texts():
    tags = ["irony"] * 10 + ["plain"] * 30
    reader = Reader(page(comparison(result("first", tags=tags), result("second", 0.5, tags=tags))))
    # of the ten first texts all are right, of the other thirty twenty, or ten
    assert re.search(r"irony10 texts100\.0 %.*100\.0 %.*plain30 texts66\.7 %.*33\.3 %", reader.words)


def test_a_run_alone_has_a_page_without_pairs():
    reader = Reader(page(comparison(result("only"))))
    assert reader.wrong == []
    assert "Differences" not in reader.words
    assert "1 run on 40 test texts" in reader.words
    assert "Its most confident mistakes" in reader.words


def test_a_run_with_one_check_says_so_in_place_of_a_curve():
    rows = result("x").journal
    text = page(comparison(result("first"), result("second", journal=rows[:1])))
    assert "Checked once, at the end: validation accuracy 60.0 %, loss 0.700." in text


def test_a_lead_that_may_be_chance_is_called_so():
    runs = [result("first"), result("second", 0.5)]
    assert "second is 10.0 points behind, which may be chance" in Reader(page(comparison(*runs))).words
    gap = BootstrapEstimate(0.1, np.linspace(0.05, 0.15, 99))
    sure = PairwiseTest(0, 1, dict.fromkeys(("accuracy", "macro_f1", "log_loss"), gap), McNemar(25, 1, 1e-6), 1e-6)
    words = Reader(page(comparison(*runs, pairs=[sure]))).words
    assert "second is 10.0 points behind, more than chance" in words
    assert "p under 0.001" in words


def test_many_runs_and_many_classes_make_a_page():
    names = tuple(f"class number {c}" for c in range(12))
    runs = [result(f"run {i}", class_names=names, costs={**COSTS, "train_seconds": 10.0**i}) for i in range(9)]
    reader = Reader(page(comparison(*runs)))
    assert reader.wrong == []
    assert sum(attributes.get("aria-label", "").startswith("Confusion") for _, attributes in reader.tags) == 9


def test_the_page_is_written_whole(tmp_path):
    write_page(comparison(result("first"), result("second")), tmp_path / "compare.html")
    assert (tmp_path / "compare.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["compare.html"]


# What drawings are made of


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.52, 0.77, [0.6, 0.7]),
        (0, 40, [0, 10, 20, 30, 40]),
        (-0.013, 0.021, [-0.01, 0, 0.01, 0.02]),
    ],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, expected: list[float]):
    assert svg.ticks(low, high, 5) == expected


def test_runs_differ_in_shape_or_colour():
    drawn = {svg.mark(run, 0, 0) for run in range(svg.COLOURS * len(svg.MARKS))}
    assert len(drawn) == svg.COLOURS * len(svg.MARKS)


def test_neighbouring_runs_differ_in_both():
    for run in range(12):
        one, two = (re.sub(r" s\d", "", svg.mark(i, 0, 0)) for i in (run, run + 1))
        assert one != two


def test_labels_that_would_overlap_move_apart():
    assert charts.apart([10.0, 50.0, 12.0], 16) == [10, 50, 26]


def test_a_value_outside_an_axis_stays_at_its_end():
    axis = svg.Axis(0, 1, 100, 200)
    assert (axis(-1), axis(0.25), axis(2)) == (100, 125, 200)


@pytest.mark.slow
def test_the_page_fits_a_phone_and_a_desk(tmp_path, full: str):
    """A browser draws the page as wide as the window: nothing sticks out to the right."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs chromium to draw the page")
    page_file = tmp_path / "page.html"
    page_file.write_text(full, encoding="utf-8")
    frame = tmp_path / "frame.html"
    for width in (390, 1280):
        frame.write_text(
            f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:800px" '
            "onload=\"document.title = 'wide ' + this.contentDocument.documentElement.scrollWidth\"></iframe>"
        )
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
        command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
        drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert f"<title>wide {width}</title>" in drawn
