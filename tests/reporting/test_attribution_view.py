"""Views of an attribution show each word with its sign and strength; no text can add HTML or control a terminal."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_models import PREDICTORS, static_predictor

from minitext.evaluation.attribution import Attribution, WordAttribution, explain
from minitext.reporting.attribution_view import format_attribution, html_words, json_attribution

FOUND = Attribution(
    text="<b>good</b> & b\u00e4d\n\x1b[31mso",
    class_names=("neg", "pos"),
    probabilities=[0.25, 0.75],
    target=1,
    words=[
        WordAttribution(3, 7, 2.0, True),
        WordAttribution(8, 9, 0.0, False),
        WordAttribution(14, 17, -1.0, True),
        WordAttribution(23, 25, -0.001, True),
    ],
    baseline_margin=-0.5,
    margin=0.5,
    completeness_error=0.0,
    method="exact",
)


class Spans(HTMLParser):
    """The text and the tags of a fragment, as a browser reads them."""

    def __init__(self, fragment: str):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(fragment)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))


# HTML


def test_html_has_one_span_per_word_with_its_relative_contribution():
    assert html_words(FOUND) == (
        '&lt;b&gt;<span class="w" style="--c:1.00">good</span>&lt;'
        '<span class="w unseen" style="--c:0.00">/</span>b&gt; &amp; '
        '<span class="w" style="--c:-0.50">b\u00e4d</span>\n\x1b[31m<span class="w" style="--c:0.00">so</span>'
    )


@settings(deadline=None)  # a shared machine
@given(st.text(max_size=30))
def test_html_keeps_the_text_and_adds_only_spans(text: str):
    shown = Spans(html_words(explain(static_predictor(), text)))
    assert shown.text == text
    assert all(tag == "span" and set(attributes) == {"class", "style"} for tag, attributes in shown.tags)


@pytest.mark.parametrize("kind", ["logistic", "scratch", "BERT"])
def test_html_of_every_model_keeps_the_text(kind: str):
    text = 'So <script>alert("good")</script> & \U0001f408\n the  film'
    shown = Spans(html_words(explain(PREDICTORS[kind](2), text)))
    assert shown.text == text
    assert {tag for tag, _ in shown.tags} == {"span"}
    assert max(abs(float(attributes["style"].removeprefix("--c:"))) for _, attributes in shown.tags) == 1


# Terminal


def set_terminal(monkeypatch, is_terminal: bool, **environment: str) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_without_a_terminal_there_is_a_table_of_the_strongest_words(monkeypatch):
    set_terminal(monkeypatch, False)
    assert format_attribution(FOUND).splitlines() == [
        "pos 75.0% \u00b7 neg 25.0%",
        "    +2.000  good",
        "    -1.000  b\u00e4d",
        "    -0.001  so",
        "  1 of 4 words not seen: unknown or truncated",
        (
            "contributions to the log-odds of pos (+ for, - against pos); without the words -0.50, "
            "with them +0.50 (exact)"
        ),
    ]


def test_equal_words_are_added_up_and_the_others_are_summed(monkeypatch):
    set_terminal(monkeypatch, False)
    text = " ".join(["Bad", "bad", *"abcdefghijk"])
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    found = FOUND._replace(text=text, words=[WordAttribution(start, end, -1.0, True) for start, end in spans])
    lines = format_attribution(found).splitlines()
    assert lines[1].split() == ["-2.000", "bad", "\u00d72"]
    assert lines[11].split() == ["-2.000", "2", "other", "words"]


def test_with_more_classes_the_score_is_described_as_a_margin(monkeypatch):
    set_terminal(monkeypatch, False)
    shown = format_attribution(explain(static_predictor(3), "good film", 1))
    assert "the logit of c1 minus the mean of the others (+ for, - against c1)" in shown


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, 3), (False, 5)])
def test_a_terminal_shows_the_most_probable_of_many_classes(monkeypatch, is_terminal: bool, shown: int):
    set_terminal(monkeypatch, is_terminal)
    names = format_attribution(explain(static_predictor(5), "good film")).splitlines()[0].split(" \u00b7 ")
    assert len([name for name in names if name.startswith("c")]) == shown
    assert names[3].startswith("2 other classes ") == is_terminal


def test_text_without_words_says_so(monkeypatch):
    set_terminal(monkeypatch, False)
    assert "  no words in this text" in format_attribution(FOUND._replace(text="", words=[]))


def test_large_completeness_error_is_reported(monkeypatch):
    set_terminal(monkeypatch, False)
    assert "unreliable" not in format_attribution(FOUND._replace(completeness_error=0.009))
    shown = format_attribution(FOUND._replace(completeness_error=0.123))
    assert shown.endswith("unreliable: the contributions miss their sum by 12.3%")


def test_terminal_colors_show_sign_and_strength_and_unseen_words_are_dim(monkeypatch):
    set_terminal(monkeypatch, True)
    assert format_attribution(FOUND).startswith(
        "pos 75.0% \u00b7 neg 25.0%\n"
        "<b>\x1b[1;97;48;5;28mgood\x1b[0m<\x1b[2m/\x1b[0mb> & \x1b[97;48;5;127mb\u00e4d\x1b[0m\n\\x1b[31mso\n"
    )


def test_no_color_is_respected(monkeypatch):
    set_terminal(monkeypatch, True, NO_COLOR="1")
    assert "\x1b" not in format_attribution(FOUND)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_text_cannot_control_the_terminal(monkeypatch, is_terminal: bool):
    set_terminal(monkeypatch, is_terminal)
    shown = format_attribution(explain(static_predictor(), "good\x1b[2J\x07\x9b5m film"))
    without_colors = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert not set(without_colors) & set("\x1b\x07\x9b")


# JSON


def test_json_is_one_line_with_every_word():
    line = json_attribution(FOUND)
    record = json.loads(line)
    assert "\n" not in line
    assert (record["class"], record["probabilities"]) == ("pos", {"neg": 0.25, "pos": 0.75})
    assert record["words"][0] == {"word": "good", "start": 3, "end": 7, "contribution": 2.0, "seen": True}
    assert (record["baseline_margin"], record["margin"], record["method"]) == (-0.5, 0.5, "exact")
