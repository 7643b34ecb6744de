"""Proves that what words are said to contribute is what the model makes of them (exactly where it is linear, summing up
everywhere), that each contribution stands at its own place of the text as written, and that no text gets out of hand.
"""

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.processors import BertProcessing
from torch import nn

from minitext import cli as command_line
from minitext.data.tokenizer import encode, train_tokenizer
from minitext.data.words import words
from minitext.evaluation import attribution as module
from minitext.evaluation.attribution import (
    Attribution,
    Word,
    clenshaw_curtis,
    explain,
    integrated_gradients,
    word_spans,
)
from minitext.evaluation.predictor import Predictor, TokenSettings
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.models.mean_encoder import MeanEncoder, fit_sif
from minitext.models.static import LogisticRegression, StaticClassifier, build_mlp
from minitext.reporting.attribution_view import html_words, show

VOCABULARY = ["good", "bad", "film", "the", "so"]
TEXT = "So GOOD, the film; unheard-of! The film..."


def draw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough for every word to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1, generator=generator)
    return model.eval()


def static(classes: int = 2, mlp: bool = False, sif: bool = False, temperature: float = 1.0) -> Predictor:
    table = torch.randn(len(VOCABULARY), 4, generator=torch.Generator().manual_seed(1))
    encoder = (  # words are so frequent in two short texts that SIF all but silences them
        fit_sif(VOCABULARY, 200 * table, ["so good the film", "the bad film"])
        if sif
        else MeanEncoder(VOCABULARY, table)
    )
    classifier = draw(build_mlp(4, 8, classes, 0.5) if mlp else LogisticRegression(4, classes))
    model = StaticClassifier(encoder, classifier, [f"c{c}" for c in range(classes)])
    return Predictor(model.class_names, model, model.logits, temperature)


def token_predictor(model: nn.Module, classes: int, tokenizer: Tokenizer, max_length: int, truncate: str) -> Predictor:
    def logits(texts):
        rows = [encode(tokenizer, [text], max_length, truncate).ids.long()[None] for text in texts]
        return torch.cat([model(row, torch.ones_like(row, dtype=torch.bool)) for row in rows]).detach()

    names = tuple(f"c{c}" for c in range(classes))
    return Predictor(names, model, logits, 1.0, TokenSettings(tokenizer, max_length, truncate))


def word_pieces(special: bool = False) -> Tokenizer:
    """`goodness` is two pieces or more; a cat is not known."""
    tokenizer = train_tokenizer(["good bad so the film . , ;"] * 9 + ["goodness"], 100)
    if special:
        tokenizer.post_processor = BertProcessing(*((name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")))
    return tokenizer


def scratch(
    classes: int = 2, ngrams: int = 1, distinct: bool = False, special: bool = False, max_length: int = 99,
    truncate: str = "head",
) -> Predictor:  # fmt: skip
    tokenizer = word_pieces(special)
    options = NetworkConfig(4, 8, ngrams=ngrams, buckets=50, binary_counts=distinct)
    model = draw(EmbeddingBagClassifier(tokenizer.get_vocab_size(), classes, options))
    return token_predictor(model, classes, tokenizer, max_length, truncate)


def bert(
    classes: int = 2, max_length: int = 20, truncate: str = "head", tokenizer: Tokenizer | None = None
) -> Predictor:
    tokenizer = tokenizer or word_pieces(special=True)
    torch.manual_seed(0)
    model = BertClassifier(BertConfig(tokenizer.get_vocab_size(), 8, 2, 2, 16, 24, init_std=0.5), classes).eval()
    return token_predictor(model, classes, tokenizer, max_length, truncate)


KINDS = {
    "logistic": static,
    "SIF": lambda classes: static(classes, sif=True),
    "perceptron": lambda classes: static(classes, mlp=True),
    "perceptron on SIF": lambda classes: static(classes, mlp=True, sif=True),
    "scratch": scratch,
    "n-grams": lambda classes: scratch(classes, 3),
    "distinct n-grams": lambda classes: scratch(classes, 3, distinct=True),
    "n-grams with special tokens": lambda classes: scratch(classes, 3, distinct=True, special=True),
    "BERT": bert,
}


def lead(predictor: Predictor, text: str, target: int) -> float:
    logits = predictor.logits([text])[0] / predictor.temperature
    others = [c for c in range(len(logits)) if c != target]
    return (logits[target] - logits[others].mean()).item()


def seen(explanation: Attribution) -> list[str]:
    return [explanation.text[word.start : word.end] for word in explanation.words if word.seen]


def by_word(explanation: Attribution) -> dict[str, float]:
    return {explanation.text[word.start : word.end]: word.contribution for word in explanation.words}


# What holds for every model


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_sum_to_the_change_from_the_baseline(kind: str, classes: int):
    predictor = KINDS[kind](classes)
    for target in range(classes):
        found = explain(predictor, TEXT, target)
        missed = sum(word.contribution for word in found.words) - (found.total - found.baseline)
        assert abs(missed) < 0.01 * max(abs(found.total - found.baseline), 0.1)  # what the file promises
        assert sum(abs(word.contribution) for word in found.words) > 0.1  # the case tells
        assert found.gap < 0.01


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_total_is_the_lead_of_the_logits_that_the_run_predicts(kind: str, classes: int):
    predictor = KINDS[kind](classes)
    for target in range(classes):
        assert explain(predictor, TEXT, target).total == pytest.approx(
            lead(predictor, TEXT, target), abs=1e-4
        )  # float32


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_classes_the_total_is_the_log_odds_of_the_probability_and_the_other_class_is_the_mirror(kind: str):
    predictor = KINDS[kind](2)
    one, other = explain(predictor, TEXT, 0), explain(predictor, TEXT, 1)
    assert torch.tensor(one.total).sigmoid().item() == pytest.approx(one.probabilities[0], abs=1e-5)  # float32
    mirrored = [-word.contribution for word in other.words]
    assert [word.contribution for word in one.words] == pytest.approx(mirrored, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_class_is_explained_unless_one_is_named(kind: str):
    predictor = KINDS[kind](3)
    found = explain(predictor, TEXT)
    assert found.target == predictor.predict([TEXT])[0].argmax().item()
    assert found.probabilities == predictor.predict([TEXT])[0].tolist()


def test_a_temperature_divides_score_and_contributions():
    plain, warm = explain(static(), TEXT, 1), explain(static(temperature=2.0), TEXT, 1)
    assert warm.total == pytest.approx(plain.total / 2, abs=1e-6)  # float32
    assert [w.contribution for w in warm.words] == pytest.approx([w.contribution / 2 for w in plain.words], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", " \n\t ", "...", "qqq", "\U0001f600", "good", "good " * 300, "\u0130 \ufb01lm"])
def test_any_text_is_explained_and_its_words_lie_in_order(kind: str, text: str):
    found = explain(KINDS[kind](2), text)
    edges = [edge for word in found.words for edge in word[:2]]
    assert edges == sorted(edges)
    assert all(0 <= word.start < word.end <= len(text) for word in found.words)
    assert all(torch.isfinite(torch.tensor([found.total, found.baseline, found.gap])))


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_which_nothing_is_seen_is_its_own_baseline(kind: str):
    found = explain(KINDS[kind](2), "qqq \U0001f408")
    assert found.total == pytest.approx(found.baseline, abs=1e-6)  # float32
    assert not seen(found)
    assert {word.contribution for word in found.words} <= {0.0}


# Mean vectors


def test_a_linear_model_s_words_contribute_weight_times_vector_over_words():
    encoder = MeanEncoder(["good", "bad"], torch.tensor([[2.0, 1.0], [-4.0, 0.0]]))
    classifier = LogisticRegression(2, 2)
    classifier.load_state_dict({"linear.weight": torch.tensor([[3.0, 6.0]]), "linear.bias": torch.tensor([0.5])})
    model = StaticClassifier(encoder, classifier, ("neg", "pos"))
    found = explain(Predictor(("neg", "pos"), model, model.logits), "Good, good... BAD; unknown!", 1)
    assert found.words == [
        Word(0, 4, pytest.approx(12 / 3), True),
        Word(6, 10, pytest.approx(12 / 3), True),
        Word(14, 17, pytest.approx(-12 / 3), True),
        Word(19, 26, 0.0, False),
    ]
    assert (found.baseline, found.total, found.method) == (0.5, pytest.approx(4.5), "exact")


def test_of_many_classes_a_linear_word_counts_against_the_mean_of_the_others():
    predictor = static(3)
    weight, table = predictor.model.classifier.linear.weight, predictor.model.encoder.table
    expected = ((weight[2] - (weight[0] + weight[1]) / 2) @ table[0] / 2).item()  # "good", one of two words
    assert explain(predictor, "good film", 2).words[0].contribution == pytest.approx(expected, abs=1e-5)  # float32


def test_sif_words_contribute_their_weight_without_the_common_direction():
    predictor = static(sif=True)
    encoder = predictor.model.encoder
    vector = encoder.word_weights[0] * encoder.table[0] / 2
    vector = vector - (vector @ encoder.common) * encoder.common
    expected = (predictor.model.classifier.linear.weight[0] @ vector).item()
    assert explain(predictor, "good film", 1).words[0].contribution == pytest.approx(expected, abs=1e-5)  # float32


def test_a_perceptron_without_a_kink_on_the_way_is_explained_as_the_linear_model_that_it_is():
    predictor = static(mlp=True)
    first, last = predictor.model.classifier[1], predictor.model.classifier[4]
    nn.init.constant_(first.bias, 1000.0)  # every unit is on, whatever the text
    weight = (last.weight[1] - last.weight[0]) @ first.weight
    found = explain(predictor, "good film", 1)
    expected = (weight @ predictor.model.encoder.table[0] / 2).item()
    assert found.words[0].contribution == pytest.approx(expected, abs=1e-3)  # float32 beside biases of 1000


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("It's GREAT, isn\u2019t it?", ["It's", "GREAT", "isn\u2019t", "it"]),
        ("'the' ''best''", ["the", "best"]),
        ("well-made\n10/10", ["well", "made", "10", "10"]),
        ("\u0130stanbul \u039f\u0394\u039f\u03a3, film", ["\u0130stanbul", "\u039f\u0394\u039f\u03a3", "film"]),
        ("good\U0001f600film", ["good", "film"]),
    ],
)
def test_words_are_found_where_they_stand(text: str, places: list[str]):
    assert [text[start:end] for _, start, end in word_spans(text)] == places


@given(st.text(st.one_of(st.characters(), st.sampled_from("a'\u2019 .-\u0130\u03a3\n")), max_size=40))
def test_words_with_places_are_the_words_of_the_text(text: str):
    assert [word for word, _, _ in word_spans(text)] == words(text)


# Tokens


@pytest.mark.parametrize("kind", ["scratch", "n-grams", "distinct n-grams", "n-grams with special tokens", "BERT"])
def test_pieces_of_a_word_are_shown_as_the_word(kind: str):
    predictor = KINDS[kind](2)
    assert len(predictor.tokens.tokenizer.encode("goodnesses", add_special_tokens=False)) > 1
    assert seen(explain(predictor, "So GOODNESSES, so")) == ["So", "GOODNESSES", ",", "so"]


def test_a_mean_of_tokens_without_a_kink_gives_each_its_part_of_the_mean():
    predictor = scratch()
    model = predictor.model
    nn.init.constant_(model.hidden.bias, 1000.0)  # every unit is on
    weight = (model.output.weight[1] - model.output.weight[0]) @ model.hidden.weight
    expected = [(weight @ model.embedding.weight[predictor.tokens.tokenizer.token_to_id(word)]).item() / 2
                for word in ("good", "film")]  # fmt: skip
    found = explain(predictor, "good film", 1)
    assert [word.contribution for word in found.words] == pytest.approx(expected, abs=1e-3)  # beside biases of 1000


@pytest.mark.parametrize("distinct", [False, True])
def test_an_n_gram_is_shared_equally_by_its_tokens_and_by_the_places_where_it_is_counted_once(distinct: bool):
    predictor = scratch(ngrams=2, distinct=distinct)
    model = predictor.model
    nn.init.constant_(model.hidden.bias, 1000.0)  # every unit is on: the score is linear in the mean
    weight = (model.output.weight[1] - model.output.weight[0]) @ model.hidden.weight
    ids = [predictor.tokens.tokenizer.token_to_id(word) for word in ("good", "film")]
    pair, reverse = (
        model.features(torch.tensor([row]), torch.ones(1, 2, dtype=torch.bool))[0].max().item()
        for row in (ids, ids[::-1])
    )
    good, film, there, back = (weight @ model.embedding.weight[row] for row in (*ids, pair, reverse))
    # good film good film: tokens and pairs are good, film twice, there twice, back once
    if distinct:  # four features
        first, second = (good / 2 + there / 4) / 4, (film / 2 + there / 4 + back / 2) / 4
    else:  # seven
        first, second = (good + there / 2) / 7, (film + there / 2 + back / 2) / 7
    found = explain(predictor, "good film good film", 1)
    expected = [first.item(), second.item()]
    assert [word.contribution for word in found.words[:2]] == pytest.approx(expected, abs=1e-3)  # beside biases of 1000


@pytest.mark.parametrize(
    ("truncate", "expected"), [("head", ["good", "bad", "so"]), ("tail", ["the", "film", "."]),
                               ("head+tail", ["the", "film", "."])]
)  # fmt: skip
@pytest.mark.parametrize("make", [scratch, bert])
def test_words_behind_the_cut_are_there_but_unseen(make, truncate: str, expected: list[str]):
    room = 3 if make is scratch else 5  # [CLS] and [SEP] count
    found = explain(make(max_length=room, truncate=truncate), "good bad so the film .")
    assert len(found.words) == 6
    assert seen(found) == expected
    assert all(word.contribution == 0 for word in found.words if not word.seen)


def test_head_and_tail_contribute_what_the_text_of_both_would():
    cut, short = bert(max_length=6, truncate="head+tail"), bert(max_length=6)
    long = explain(cut, "good bad so the film .", 1)
    both = explain(short, "good the film .", 1)
    assert {word: long_share for word, long_share in by_word(long).items() if word in by_word(both)} == pytest.approx(
        by_word(both), abs=1e-6
    )


@pytest.mark.parametrize("make", [scratch, bert])
def test_an_unknown_word_is_shown_and_contributes_nothing(make):
    found = explain(make(), "good \U0001f408 film")
    assert seen(found) == ["good", "film"]
    assert found.words[1] == Word(5, 6, 0.0, False)


def test_a_bert_s_baseline_is_the_text_of_masks():
    predictor = bert()
    masks = predictor.logits(["[MASK] [MASK]"])[0]  # the tokenizer reads its special tokens in a text
    assert explain(predictor, "good film", 1).baseline == pytest.approx(
        (masks[1] - masks[0]).item(), abs=1e-5
    )  # float32


def test_a_bert_is_left_as_it_was():
    predictor = bert()
    before = predictor.logits([TEXT])
    explain(predictor, TEXT)
    assert torch.equal(predictor.logits([TEXT]), before)
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def test_a_byte_level_tokenizer_s_pieces_of_one_character_are_one_word_and_spaces_are_outside():
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["good film"] * 9, 300, show_progress=False, special_tokens=["<mask>"])
    found = explain(bert(max_length=40, tokenizer=tokenizer._tokenizer), "good \U0001f408 film")
    assert seen(found) == ["good", "\U0001f408", "film"]
    assert found.gap < 0.01


# The integral


def test_the_rule_integrates_polynomials_of_its_degree():
    points, weights = clenshaw_curtis(8)
    for degree in range(9):
        assert (weights @ points**degree).item() == pytest.approx(1 / (degree + 1), abs=1e-14)  # float64


def test_half_of_the_points_are_those_of_half_the_steps():
    assert torch.equal(clenshaw_curtis(16)[0][::2], clenshaw_curtis(8)[0])


@pytest.mark.oracle
def test_contributions_are_scipy_s_integral_of_the_slopes():
    integrate_oracle = pytest.importorskip("scipy.integrate")

    def curve(scales: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * scales[:, 0]) * torch.exp(scales[:, 1])

    shares, baseline, _, gap, _ = integrated_gradients(curve, 2, 512, torch.device("cpu"))
    expected = [
        integrate_oracle.quad(lambda a: 3 * torch.tensor(3 * a).cos().item() * torch.tensor(a).exp().item(), 0, 1)[0],
        integrate_oracle.quad(lambda a: torch.tensor(3 * a).sin().item() * torch.tensor(a).exp().item(), 0, 1)[0],
    ]
    assert shares == pytest.approx(expected, abs=1e-5)  # float32 slopes
    assert (baseline, gap < 0.01) == (0.0, True)


def test_steps_are_doubled_until_the_contributions_add_up():
    taken = []
    for sharpness in (1, 30, 300):
        _, _, _, gap, steps = integrated_gradients(
            lambda s, k=sharpness: torch.tanh(k * (s[:, 0] - 0.3)), 1, 4096, torch.device("cpu")
        )
        assert gap < 0.01
        taken.append(steps)
    assert taken[0] == module.FEWEST_STEPS < taken[1] < taken[2]


def test_steps_end_at_the_most_and_the_gap_is_told():
    def step(scales: torch.Tensor) -> torch.Tensor:
        return (10_000 * (scales[:, 0] - 0.4)).sigmoid()  # all of it within a thousandth of the path

    _, _, _, gap, steps = integrated_gradients(step, 1, 64, torch.device("cpu"))
    assert (steps, gap > 0.01) == (64, True)
    told = Attribution("good", ("neg", "pos"), [0.3, 0.7], 1, [Word(0, 4, 0.2, True)], 0, 1, gap, "64 steps")
    assert "Not to be trusted" in show(told)
    assert "Not to be trusted" not in show(told._replace(gap=0.009))


# What is shown

FOUND = Attribution(
    "<b>good</b> & b\u00e4d\n\x1b[31mso",
    ("neg", "pos"),
    [0.25, 0.75],
    1,
    [Word(3, 7, 2.0, True), Word(14, 17, -1.0, True), Word(23, 25, -0.001, True), Word(8, 9, 0.0, False)],
    -0.5,
    0.5,
    0.0,
    "exact",
)
FOUND = FOUND._replace(words=sorted(FOUND.words))


class Spans(HTMLParser):
    """What a browser makes of a fragment."""

    def __init__(self, fragment: str):
        super().__init__()
        self.text, self.tags = "", []
        self.feed(fragment)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))


def test_html_has_a_span_a_word_with_its_share_of_the_largest():
    assert html_words(FOUND) == (
        '&lt;b&gt;<span class="w" style="--c:1.00">good</span>&lt;'
        '<span class="w unseen" style="--c:0.00">/</span>b&gt; &amp; '
        '<span class="w" style="--c:-0.50">b\u00e4d</span>\n\x1b[31m<span class="w" style="--c:0.00">so</span>'
    )


@given(st.text(max_size=30))
def test_html_holds_the_text_as_it_is_and_no_tag_of_its_own(text: str):
    shown = Spans(html_words(explain(static(), text)))
    assert shown.text == text
    assert all(tag == "span" and set(attributes) == {"class", "style"} for tag, attributes in shown.tags)


@pytest.mark.parametrize("kind", ["logistic", "scratch", "BERT"])
def test_html_of_every_kind_keeps_the_text(kind: str):
    text = 'So <script>alert("good")</script> & \U0001f408\n the  film'
    shown = Spans(html_words(explain(KINDS[kind](2), text)))
    assert shown.text == text
    assert {tag for tag, _ in shown.tags} == {"span"}
    assert max(abs(float(attributes["style"].removeprefix("--c:"))) for _, attributes in shown.tags) == 1


def terminal(monkeypatch, is_one: bool, **environment: str) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_one, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_without_a_terminal_there_is_a_table_of_the_strongest_words(monkeypatch):
    terminal(monkeypatch, False)
    assert show(FOUND).splitlines() == [
        "pos 75.0% \u00b7 neg 25.0%",
        "    +2.000 " + "\u2588" * 20 + " good",
        "    -1.000 " + "\u2588" * 10 + " " * 10 + " b\u00e4d",
        "    -0.001 " + " " * 20 + " so",
        "  1 of 4 words not seen: unknown, or behind the cut",
        (
            "+ speaks for pos, - against: what a word adds to the log-odds of pos. "
            "Without the words -0.50, with them +0.50 (exact)."
        ),
    ]


def test_equal_words_are_one_line_and_many_words_end_in_a_sum(monkeypatch):
    terminal(monkeypatch, False)
    text = " ".join(["Bad", "bad", *"abcdefghijk"])
    places = [match.span() for match in re.finditer(r"\S+", text)]
    found = FOUND._replace(text=text, words=[Word(start, end, -1.0, True) for start, end in places])
    lines = show(found).splitlines()
    assert lines[1].split() == ["-2.000", "\u2588" * 20, "bad", "\u00d72"]
    assert lines[11].split() == ["-2.000", "2", "other", "words"]


def test_of_more_classes_the_score_is_named_for_what_it_is(monkeypatch):
    terminal(monkeypatch, False)
    assert "the logit of c1, less the other classes' mean" in show(explain(static(3), TEXT, 1))


def test_a_terminal_gets_colours_by_sign_and_strength_and_dim_for_the_unseen(monkeypatch):
    terminal(monkeypatch, True)
    assert show(FOUND).startswith(
        "pos 75.0% \u00b7 neg 25.0%\n"
        "<b>\x1b[1;97;48;5;28mgood\x1b[0m<\x1b[2m/\x1b[0mb> & \x1b[97;48;5;127mb\u00e4d\x1b[0m\n\ufffd[31mso\n"
    )


def test_no_color_is_heeded(monkeypatch):
    terminal(monkeypatch, True, NO_COLOR="1")
    assert "\x1b" not in show(FOUND)


def test_a_text_cannot_steer_the_terminal(monkeypatch):
    text = "good\x1b[2J\x07\x9b5m film"
    for is_one in (True, False):
        terminal(monkeypatch, is_one)
        shown = re.sub(r"\x1b\[[\d;]*m", "", show(explain(static(), text)))  # without our own colours
        assert not set(shown) & set("\x1b\x07\x9b")


# On the command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "logistic"
    folder.mkdir()
    static(3).model.save(folder)
    (folder / "scores.json").write_text("{}")
    return folder


def call(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str, str]:
    """`minitext explain …` in this process: exit status, stdout, stderr."""
    monkeypatch.setattr("sys.argv", ["minitext", "explain", *map(str, arguments)])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    status = command_line.main()
    return status, *capsys.readouterr()


def test_json_has_a_line_a_text_with_every_word(monkeypatch, capsys, folder):
    status, out, _ = call(monkeypatch, capsys, folder, "good film", "caf\u00e9", "--json")
    one, other = (json.loads(line) for line in out.splitlines())
    expected = explain(static(3), "good film")
    assert (status, one["text"], one["class"]) == (0, "good film", expected.class_names[expected.target])
    assert one["words"][1]["word"] == "film"
    assert one["words"][1]["contribution"] == pytest.approx(expected.words[1].contribution, abs=1e-6)  # float32
    assert other["words"] == [{"word": "caf\u00e9", "start": 0, "end": 4, "contribution": 0.0, "seen": False}]
    assert set(one["probabilities"]) == {"c0", "c1", "c2"}


def test_a_named_class_is_explained(monkeypatch, capsys, folder):
    for name in ("c0", "c2"):
        _, out, _ = call(monkeypatch, capsys, folder, "good", "--class", name)
        assert f"+ speaks for {name}" in out


def test_texts_are_told_apart(monkeypatch, capsys, folder):
    _, out, _ = call(monkeypatch, capsys, folder, "good", "bad")
    assert len(out.split("\n\n")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("good", "--class", "best"), r"--class best: the classes of .*logistic are c0, c1, c2"),
        (("",), r"text 1: empty text; give at least one word"),
        (("good", " \n"), r"text 2: empty text; give at least one word"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(monkeypatch, capsys, folder, arguments, message: str):
    status, _, error = call(monkeypatch, capsys, folder, *arguments)
    assert status == 2
    assert re.fullmatch(f"error: {message}\n", error)
