"""Tests of the texts on which runs disagree: which are found, and what is shown of them."""

import pytest

from minitext.reporting import disagreements
from minitext.reporting.disagreements import explain_texts, find_disagreements
from minitext.reporting.saved_run import read_runs


@pytest.fixture
def runs(two_runs):
    return read_runs(two_runs)


def test_texts_that_only_one_run_has_right_are_found(runs):
    # text, run that is right, run that is wrong: PER_DIRECTION of three, and the one
    assert find_disagreements(runs, best=0) == [(1, 0, 1), (2, 0, 1), (0, 1, 0)]


def test_texts_are_those_of_the_most_confident_errors(runs):
    runs[1].mistakes.pop(runs[1].ids[1])
    assert [row for row, _, _ in find_disagreements(runs, best=0)] == [2, 3, 0]


def test_a_single_run_has_no_disagreements(runs):
    assert find_disagreements(runs[1:], best=0) == []


def test_texts_have_colored_words_of_both_runs(runs):
    for text in explain_texts(runs, find_disagreements(runs, best=0), "cpu"):
        right, wrong = text.sides
        assert right.predicted == text.label != wrong.predicted
        assert (right.probability, wrong.probability) == (0.8, 0.8)
        for side in text.sides:
            assert '<span class="w' in side.words and ("good" in side.words or "bad" in side.words)


def test_texts_are_shown_without_the_data(runs, data):
    data.unlink()
    assert len(explain_texts(runs, find_disagreements(runs, best=0), "cpu")) == 3


def test_colors_are_left_out_after_the_time_limit(runs, monkeypatch):
    monkeypatch.setattr(disagreements, "EXPLAIN_SECONDS", 0.0)
    row, right, wrong = find_disagreements(runs, best=0)[0]
    runs[wrong].mistakes[runs[wrong].ids[row]] = "a <b>bad</b> film"
    (text,) = explain_texts(runs, [(row, right, wrong)], "cpu")
    assert [side.words for side in text.sides] == ["a &lt;b&gt;bad&lt;/b&gt; film"] * 2
