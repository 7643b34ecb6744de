"""The contributions of words are what the model computes from them: exact where it is linear, adding up everywhere, and
at their own place in the text.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saved_models import CPU, PREDICTORS, bert_predictor, scratch_predictor, static_predictor
from tokenizers import ByteLevelBPETokenizer
from torch import nn

from minitext.data.ngrams import add_ngrams
from minitext.data.tokenizer import TokenizedTexts
from minitext.data.words import words
from minitext.evaluation.attribution import Attribution, WordAttribution, explain, word_spans
from minitext.evaluation.integrated_gradients import MAX_ERROR
from minitext.evaluation.predictor import Predictor
from minitext.models.static import LogisticRegression, MeanEncoder, StaticClassifier

TEXT = "So GOOD, the film; unheard-of! The film..."
TOKEN_KINDS = ("scratch", "n-grams", "binary n-grams", "n-grams with special tokens", "BERT", "BERT with windows")


def logit_margin(predictor: Predictor, text: str, target: int) -> float:
    logits = predictor.predict_logits([text])[0]
    others = [c for c in range(len(logits)) if c != target]
    return (logits[target] - logits[others].mean()).item()


def seen(found: Attribution) -> list[str]:
    return [found.text[word.start : word.end] for word in found.words if word.seen]


def by_word(found: Attribution) -> dict[str, float]:
    return {found.text[word.start : word.end]: word.contribution for word in found.words}


# All models


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", PREDICTORS)
def test_contributions_sum_to_the_change_from_the_baseline(kind: str, classes: int):
    predictor = PREDICTORS[kind](classes)
    for target in range(classes):
        found = explain(predictor, TEXT, target)
        missing = sum(word.contribution for word in found.words) - (found.margin - found.baseline_margin)
        limit = MAX_ERROR if kind.startswith("BERT") else 1e-9  # exact, in float64
        assert abs(missing) < limit * max(abs(found.margin - found.baseline_margin), 0.1)
        assert sum(abs(word.contribution) for word in found.words) > 0.1  # the case is not trivial
        assert found.completeness_error < limit


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", PREDICTORS)
def test_margin_is_that_of_the_predicted_logits(kind: str, classes: int):
    predictor = PREDICTORS[kind](classes)
    for target in range(classes):
        expected = logit_margin(predictor, TEXT, target)
        assert explain(predictor, TEXT, target).margin == pytest.approx(expected, abs=1e-4)  # float32


@pytest.mark.parametrize("kind", PREDICTORS)
def test_with_two_classes_the_margin_is_the_log_odds_and_the_other_class_is_its_negative(kind: str):
    predictor = PREDICTORS[kind](2)
    one, other = explain(predictor, TEXT, 0), explain(predictor, TEXT, 1)
    assert 1 / (1 + math.exp(-one.margin)) == pytest.approx(one.probabilities[0], abs=1e-5)  # float32
    negative = [-word.contribution for word in other.words]
    assert [word.contribution for word in one.words] == pytest.approx(negative, abs=1e-5)


@pytest.mark.parametrize("kind", PREDICTORS)
def test_default_target_is_the_predicted_class(kind: str):
    predictor = PREDICTORS[kind](3)
    found = explain(predictor, TEXT)
    assert [predictor.class_names[found.target]] == predictor.predict([TEXT])
    assert found.probabilities == predictor.predict_proba([TEXT])[0].tolist()


@pytest.mark.parametrize("kind", PREDICTORS)
@pytest.mark.parametrize("text", ["", " \n\t ", "...", "qqq", "\U0001f600", "good", "good " * 300, "\u0130 \ufb01lm"])
def test_any_text_is_explained_with_its_words_in_order(kind: str, text: str):
    found = explain(PREDICTORS[kind](2), text)
    edges = [edge for word in found.words for edge in word[:2]]
    assert edges == sorted(edges)
    assert all(0 <= word.start < word.end <= len(text) for word in found.words)
    assert all(map(math.isfinite, (found.margin, found.baseline_margin, found.completeness_error)))


@pytest.mark.parametrize("kind", PREDICTORS)
def test_text_without_seen_words_is_its_own_baseline(kind: str):
    found = explain(PREDICTORS[kind](2), "qqq \U0001f408")
    assert found.margin == pytest.approx(found.baseline_margin, abs=1e-6)  # float32
    assert not seen(found)
    assert {word.contribution for word in found.words} <= {0.0}


@pytest.mark.parametrize("kind", PREDICTORS)
def test_predictor_is_not_changed(kind: str):
    predictor = PREDICTORS[kind](2)
    before = predictor.predict_logits([TEXT])
    explain(predictor, TEXT)
    assert torch.equal(predictor.predict_logits([TEXT]), before)
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


# Mean vectors


def test_words_of_a_linear_model_contribute_weight_times_vector_divided_by_the_number_of_words():
    encoder = MeanEncoder(["good", "bad"], torch.tensor([[2.0, 1.0], [-4.0, 0.0]]))
    classifier = LogisticRegression(2, 2)
    classifier.load_state_dict({"output.weight": torch.tensor([[3.0, 6.0]]), "output.bias": torch.tensor([0.5])})
    model = StaticClassifier(encoder, classifier, ("neg", "pos"))
    found = explain(Predictor(("neg", "pos"), model, CPU), "Good, good... BAD; unknown!", 1)
    assert found.words == [
        WordAttribution(0, 4, pytest.approx(12 / 3), True),
        WordAttribution(6, 10, pytest.approx(12 / 3), True),
        WordAttribution(14, 17, pytest.approx(-12 / 3), True),
        WordAttribution(19, 26, 0.0, False),
    ]
    assert (found.baseline_margin, found.margin, found.method) == (0.5, pytest.approx(4.5), "exact")


def test_with_many_classes_a_word_counts_relative_to_the_mean_of_the_others():
    predictor = static_predictor(3)
    weight, table = predictor.model.classifier.output.weight, predictor.model.encoder.table
    expected = ((weight[2] - (weight[0] + weight[1]) / 2) @ table[0] / 2).item()  # "good", one of two words
    assert explain(predictor, "good film", 2).words[0].contribution == pytest.approx(expected, abs=1e-5)  # float32


def test_sif_words_contribute_their_weight_without_the_common_direction():
    predictor = static_predictor(sif=True)
    encoder = predictor.model.encoder
    vector = encoder.word_weights[0] * encoder.table[0] / 2
    vector = vector - (vector @ encoder.common) * encoder.common
    expected = (predictor.model.classifier.output.weight[0] @ vector).item()
    assert explain(predictor, "good film", 1).words[0].contribution == pytest.approx(expected, abs=1e-5)  # float32


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("It's GREAT, isn\u2019t it?", ["It's", "GREAT", "isn\u2019t", "it"]),
        ("'the' ''best''", ["the", "best"]),
        ("well-made\n10/10", ["well", "made", "10", "10"]),
        ("\u0130stanbul \u039f\u0394\u039f\u03a3, film", ["\u0130stanbul", "\u039f\u0394\u039f\u03a3", "film"]),
        ("good\U0001f600film", ["good", "film"]),
    ],
)
def test_spans_are_those_of_the_text_as_written(text: str, spans: list[str]):
    assert [text[start:end] for _, start, end in word_spans(text)] == spans


@given(st.text(st.one_of(st.characters(), st.sampled_from("a'\u2019 .-\u0130\u03a3\n")), max_size=40))
def test_words_with_spans_are_the_words_of_the_text(text: str):
    assert [word for word, _, _ in word_spans(text)] == words(text)


# Tokens


@pytest.mark.parametrize("kind", TOKEN_KINDS)
def test_subwords_are_merged_into_words(kind: str):
    predictor = PREDICTORS[kind](2)
    assert len(predictor.tokens.tokenizer.encode("goodnesses", add_special_tokens=False)) > 1
    assert seen(explain(predictor, "So GOODNESSES, so")) == ["So", "GOODNESSES", ",", "so"]


@pytest.mark.parametrize("binary_counts", [False, True])
def test_n_gram_is_shared_equally_by_its_tokens_and_a_binary_count_by_its_occurrences(binary_counts: bool):
    predictor = scratch_predictor(ngrams=2, binary_counts=binary_counts)
    model = predictor.model
    nn.init.constant_(model.hidden.bias, 1000.0)  # every unit is active: the margin is linear in the mean
    weight = (model.output.weight[1] - model.output.weight[0]) @ model.hidden.weight
    ids = [predictor.tokens.tokenizer.token_to_id(word) for word in ("good", "film")]
    pair, reverse = (
        add_ngrams(TokenizedTexts(torch.tensor(row, dtype=torch.int32), torch.tensor([0, 2])), model.vocab_size, 2, 50)
        .ids[2]
        .item()
        for row in (ids, ids[::-1])
    )
    good, film, there, back = (weight @ model.embedding.weight[row] for row in (*ids, pair, reverse))
    # good film good film: tokens and pairs are good, film twice, there twice, back once
    if binary_counts:  # four rows
        first, second = (good / 2 + there / 4) / 4, (film / 2 + there / 4 + back / 2) / 4
    else:  # seven rows
        first, second = (good + there / 2) / 7, (film + there / 2 + back / 2) / 7
    found = explain(predictor, "good film good film", 1)
    expected = [first.item(), second.item()]
    assert [word.contribution for word in found.words[:2]] == pytest.approx(expected, abs=1e-5)  # float32


@pytest.mark.parametrize(
    ("truncate", "expected"),
    [("head", ["good", "bad", "so"]), ("tail", ["the", "film", "."]), ("head+tail", ["the", "film", "."])],
)
@pytest.mark.parametrize("make", [scratch_predictor, bert_predictor])
def test_truncated_words_are_listed_as_unseen(make, truncate: str, expected: list[str]):
    max_length = 3 if make is scratch_predictor else 5  # with [CLS] and [SEP]
    found = explain(make(max_length=max_length, truncate=truncate), "good bad so the film .")
    assert len(found.words) == 6
    assert seen(found) == expected
    assert all(word.contribution == 0 for word in found.words if not word.seen)


def test_head_and_tail_contribute_as_in_the_text_of_both():
    long = by_word(explain(bert_predictor(max_length=6, truncate="head+tail"), "good bad so the film .", 1))
    both = by_word(explain(bert_predictor(max_length=6), "good the film .", 1))
    assert {word: value for word, value in long.items() if word in both} == pytest.approx(both, abs=1e-6)  # float32


def test_words_of_all_windows_contribute_the_mean_of_what_they_contribute_to_each():
    windows = ["good bad so the film", "film . so bad good", "good film"]  # of five tokens, the first one repeated
    found = explain(bert_predictor(max_length=7, windows=True), "good bad so the film . so bad good film", 1)
    alone = [explain(bert_predictor(), window, 1) for window in windows]
    expected = [0.0] * 10
    for start, part in zip((0, 4, 8), alone, strict=True):
        for place, word in enumerate(part.words, start):
            expected[place] += word.contribution / 3
    assert all(word.seen for word in found.words)
    # each is integrated with as many points as its own error needs
    assert [word.contribution for word in found.words] == pytest.approx(expected, abs=0.02)
    assert found.margin == pytest.approx(sum(part.margin for part in alone) / 3, abs=1e-5)  # float32
    assert found.baseline_margin == pytest.approx(sum(part.baseline_margin for part in alone) / 3, abs=1e-5)


@pytest.mark.parametrize("make", [scratch_predictor, bert_predictor])
def test_unknown_word_is_listed_and_contributes_nothing(make):
    found = explain(make(), "good \U0001f408 film")
    assert seen(found) == ["good", "film"]
    assert found.words[1] == WordAttribution(5, 6, 0.0, False)


def test_baseline_of_bert_is_the_text_of_mask_tokens():
    predictor = bert_predictor()
    expected = logit_margin(predictor, "[MASK] [MASK]", 1)  # the tokenizer finds its special tokens in a text
    assert explain(predictor, "good film", 1).baseline_margin == pytest.approx(expected, abs=1e-5)  # float32


def test_byte_level_tokens_of_one_character_are_one_word_and_spaces_are_outside():
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["good film"] * 9, 300, show_progress=False, special_tokens=["<mask>"])
    found = explain(bert_predictor(max_length=20, tokenizer=tokenizer._tokenizer), "good \U0001f408 film")
    assert seen(found) == ["good", "\U0001f408", "film"]
    assert found.completeness_error < MAX_ERROR
