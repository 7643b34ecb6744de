"""Tests of the comparison page: self-contained, well-formed, escaped, and complete."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from minitext.evaluation.significance import McNemar
from minitext.reporting.comparison import Comparison, PairwiseTest
from minitext.reporting.disagreements import Disagreement, RunPrediction
from minitext.reporting.html import page, verdict
from minitext.reporting.saved_run import SavedRun
from minitext.utils.run_dir import Cost

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NASTY = "<b>&\"'</b>"
GAP = {"value": 0.1, "low": 0.05, "high": 0.15}


class Reader(HTMLParser):
    """Elements, attributes and text of a page; `wrong` lists end tags that do not match."""

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
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data


def saved(folder: Path, name: str, accuracy: float = 0.75, names: tuple[str, ...] = ("neg", "pos"), **more) -> SavedRun:
    """A run on forty texts, of which the first are right."""
    labels = np.arange(40) % len(names)
    predicted = np.where(np.arange(40) < 40 * accuracy, labels, (labels + 1) % len(names))
    probabilities = np.where(np.eye(len(names))[predicted] == 1, 0.9, 0.1 / (len(names) - 1))
    matrix = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(matrix, (labels, predicted), 1)
    score = {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1}
    fields = {
        "folder": folder, "name": name, "class_names": names, "tags": None, "cost": Cost(10, 3.0, 0.1, 40),
        "fingerprint": "abc", "mistakes": {},
        "settings": {"data": {"data": "reviews.csv"}, "started": "2026-11-24", "machine": "x86_64",
                     "versions": {"torch": "2.13"}, "command": "train_static.py"},
        "scores": {**dict.fromkeys(("accuracy", "macro_f1", "log_loss", "ece"), score), "confusion": matrix.tolist(),
                   "ece_if_calibrated": {"mean": 0.03, "percentile_95": 0.06, "verdict": "above"},
                   "generalization_gap": score},
        "evaluations": [{"epoch": e, "train": {"loss": 1 / e, "accuracy": 0.5 + e / 10},
                         "valid": {"loss": 0.7, "accuracy": 0.6}, "best": e == 2} for e in (1, 2, 3)],
        "ids": [f"reviews.csv:{i}" for i in range(40)],
        "labels": labels, "predicted": predicted, "probabilities": probabilities,
    }  # fmt: skip
    return SavedRun(**{**fields, **more})


def comparison(*runs: SavedRun, **more) -> Comparison:
    """The difference between the first two runs, and one text on which they disagree."""
    pairs = [PairwiseTest(0, 1, dict.fromkeys(("accuracy", "macro_f1", "log_loss"), GAP), McNemar(5, 1, 0.2), 0.2)]
    words = '<span class="w" style="--c:-0.50">dull</span>'
    sides = [RunPrediction(run.name, name, 0.9, words) for run, name in zip(runs, runs[0].class_names, strict=False)]
    fields = {
        "runs": list(runs), "best": 0, "seeds": [], "pairs": pairs[: len(runs) - 1],
        "disagreements": [Disagreement("reviews.csv:3", runs[0].class_names[0], sides)][: len(runs) - 1],
    }  # fmt: skip
    return Comparison(**{**fields, **more})


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> str:
    """A page with every section."""
    tmp_path = tmp_path_factory.mktemp("runs")
    first = saved(tmp_path, "first", tags=["plain", "irony"] * 20)
    return page(comparison(first, saved(tmp_path, "second", 0.5)))


def test_every_element_is_closed_in_order(full: str):
    reader = Reader(full)
    assert (reader.open, reader.wrong) == ([], [])
    assert re.findall(r"<h2>(.*?)</h2>", full) == [
        "Scores", "Differences", "Accuracy by tag", "Classes", "Calibration", "Predicted probabilities",
        "Confusion matrices", "Learning curves", "Disagreements", "Commands and environments",
    ]  # fmt: skip


def test_nothing_is_fetched_from_elsewhere(full: str):
    reader = Reader(full)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    sources = {"src", "href", "srcset", "xlink:href", "action"}
    links = [value for _, attributes in reader.tags for name, value in attributes.items() if name in sources]
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", full)
    assert not re.search(r"https?:|url\((?!#)|@import|@font-face|\bon\w+=", text)


def test_every_figure_is_well_formed_and_labeled(full: str):
    figures = re.findall(r"<svg.*?</svg>", full, re.DOTALL)
    assert len(figures) == 1 + 4 * 2
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("role") == "img"
        assert root.get("aria-label") == root.find("{http://www.w3.org/2000/svg}title").text
        assert not re.search(r"\b(nan|inf)\b", figure, re.IGNORECASE)


def test_input_is_escaped(tmp_path):
    names = (f"neg{NASTY}", f"pos{NASTY}")
    settings = dict.fromkeys(("command", "machine", "started"), NASTY)
    settings |= {"data": {"data": NASTY}, "versions": {"torch": NASTY}}
    (tmp_path / NASTY).mkdir(parents=True)
    runs = [saved(tmp_path / NASTY, f"{run}{NASTY}", names=names, tags=[NASTY] * 40, settings=settings) for run in "ab"]
    sides = [RunPrediction(f"run {NASTY}", names[i], 0.9, "") for i in (0, 1)]
    text = page(comparison(*runs, disagreements=[Disagreement(f"text {NASTY}", names[0], sides)], seeds=[NASTY]))
    assert NASTY not in text
    assert "<b>&" not in text
    reader = Reader(text)
    assert reader.wrong == []
    assert f"text {NASTY}" in reader.words


def test_words_are_colored(full: str):
    assert full.count('<span class="w" style="--c:-0.50">dull</span>') == 2


def test_the_tables_of_the_terminal_are_on_the_page(tmp_path):
    tags = ["irony"] * 10 + ["plain"] * 30
    reader = Reader(page(comparison(saved(tmp_path, "first", tags=tags), saved(tmp_path, "second", 0.5, tags=tags))))
    # the first ten texts are all right; of the other thirty twenty, or ten
    assert re.search(r"irony \(10\)100\.0 %.*100\.0 %.*plain \(30\)66\.7 %.*33\.3 %", reader.words)
    assert re.search(r"first - second\+10\.0 \[\+5\.0, \+15\.0\]", reader.words)


def test_a_single_run_has_a_page_without_differences(tmp_path):
    reader = Reader(page(comparison(saved(tmp_path, "only"))))
    assert reader.wrong == []
    assert "Differences" not in reader.words
    assert "1 run on 40 test texts" in reader.words
    assert "Highest accuracy: only, 75.0%." in reader.words
    assert "Disagreements" not in reader.words


def test_the_verdict_names_significance(tmp_path):
    runs = [saved(tmp_path, "first"), saved(tmp_path, "second", 0.5)]
    words = Reader(verdict(comparison(*runs))).words
    assert "second: 10.0 points lower, not significant (p 0.200)." in words
    sure = PairwiseTest(0, 1, {"accuracy": GAP}, McNemar(25, 1, 1e-6), 1e-6)
    words = Reader(verdict(comparison(*runs, pairs=[sure]))).words
    assert "second: 10.0 points lower, significant (p < 0.001)." in words


def test_many_runs_and_many_classes_make_a_page(tmp_path):
    names = tuple(f"class number {c}" for c in range(24))
    reader = Reader(page(comparison(*(saved(tmp_path, f"run {i}", names=names) for i in range(3)))))
    assert reader.wrong == []
    labels = [attributes.get("aria-label", "") for _, attributes in reader.tags]
    assert sum(label.startswith("Confusion matrices: run ") for label in labels) == 3


def test_of_many_classes_the_weakest_and_the_confusions_are_shown_and_the_others_folded(tmp_path):
    names = tuple(f"class number {c}" for c in range(24))
    text = page(comparison(saved(tmp_path, "run", names=names)))  # the last ten texts are wrong
    folded = re.search(r"<details><summary>All 24 classes</summary>(.*?)</details>", text).group(1)
    visible = Reader(text.replace(folded, "")).words
    assert all(f"class number {c} (" in Reader(folded).words for c in range(24))
    assert len(re.findall(r"class number \d+ \(\d\)", visible)) == 10
    assert "class number 6class number 71 (50.0 %)" in visible  # the 31st text
    assert "classes class number 0, " in visible and "… (24 in all)" in visible


LONG = tuple(f"{'a_long_name_' * 5}{c}" for c in range(15)) + tuple(f"{'退款没有显示' * 5}{c}" for c in range(15))


@pytest.mark.slow
@pytest.mark.parametrize("names", [("neg", "pos"), LONG])
def test_the_page_fits_phones_and_desktops(tmp_path, names: tuple[str, ...]):
    """A browser draws the page as wide as its window: nothing overflows to the right."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs chromium to draw the page")
    runs = saved(tmp_path, "first" * len(names), names=names), saved(tmp_path, "second", 0.5, names=names)
    (tmp_path / "page.html").write_text(page(comparison(*runs)), encoding="utf-8")
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
