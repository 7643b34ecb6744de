"""Tests of the texts on which runs disagree: which are found, and what is shown when data or time are missing."""

import pytest

from minitext.reporting import disagreements
from minitext.reporting.disagreements import attach_texts, find_disagreements
from minitext.reporting.saved_run import read_runs


@pytest.fixture
def runs(two_runs):
    return read_runs(two_runs)


def test_texts_that_only_one_run_has_right_are_found(runs):
    found = find_disagreements(runs, best=0)
    assert [members for _, members in found] == [[0, 1], [0, 1], [1, 0]]  # PER_DIRECTION of three, and the one
    assert [row for row, _ in found] == [1, 2, 0]


def test_a_single_run_shows_its_errors(runs):
    assert find_disagreements(runs[1:], best=0) == [(1, [0]), (2, [0]), (3, [0])]


def test_texts_have_colored_words_of_both_runs(runs):
    shown, remarks = attach_texts(runs, find_disagreements(runs, best=0))
    assert remarks == []
    for text in shown:
        right, wrong = text.sides
        assert right.predicted == text.label != wrong.predicted
        assert (right.probability, wrong.probability) == (0.8, 0.8)
        assert ("good" in text.text) or ("bad" in text.text)
        assert 'class="w' in right.words
        assert 'class="w' in wrong.words


def test_changed_texts_are_left_out_with_a_reason(runs, data):
    data.write_text(data.read_text().replace("film", "play"))
    shown, remarks = attach_texts(runs, find_disagreements(runs, best=0))
    assert [text.text for text in shown] == [None] * 3
    assert remarks == [f"Texts are left out because {data} now has other test texts."]


def test_missing_data_are_left_out_with_a_reason(runs, data):
    data.unlink()
    shown, (remark,) = attach_texts(runs, find_disagreements(runs, best=0))
    assert all(side.words is None for text in shown for side in text.sides)
    assert remark.startswith(f"Texts are left out because the data could not be read again: {data}")


def test_colors_are_left_out_after_the_time_limit(runs, monkeypatch):
    monkeypatch.setattr(disagreements, "EXPLAIN_SECONDS", 0.0)
    shown, (remark,) = attach_texts(runs, find_disagreements(runs, best=0))
    assert all(text.text and not text.sides[0].words for text in shown)
    assert "time limit" in remark
