"""Word attributions: how much each word of a text contributes to the score of a class.

Inputs: a predictor and a text. Outputs: an `Attribution` with one signed contribution per word.
Shapes: P tokens that the model sees in all windows of the text, K points of a path, H hidden, D vector width,
C classes.
Method: integrated gradients (`integrated_gradients.py`).
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitext.data.ngrams import add_ngrams
from minitext.data.tokenizer import TokenizedTexts, fit_length, special_ids
from minitext.data.words import replacements
from minitext.evaluation.integrated_gradients import Margin, PathIntegral, integrated_gradients, one_layer_gradients
from minitext.evaluation.predictor import EMPTY_TEXT_ID, Predictor, TokenSettings
from minitext.models.bert import BertClassifier, SequenceInfo
from minitext.models.embedding_bag import EmbeddingBagClassifier
from minitext.models.hf_checkpoint import SPECIAL_ROLES, mask_id
from minitext.models.static import MLP


class WordAttribution(NamedTuple):
    """The word `text[start:end]` and its contribution to the margin."""

    start: int
    end: int
    contribution: float
    seen: bool  # False: the word has no vector or is truncated, and its contribution is 0


class Attribution(NamedTuple):
    """The contributions of words to the logit margin: the target logit minus the mean of the other logits.

    Unlike a logit, it does not change if a constant is added to all of them. For two classes it is the log-odds.
    """

    text: str
    class_names: tuple[str, ...]
    probabilities: list[float]  # C
    target: int
    words: list[WordAttribution]  # in reading order, not overlapping
    baseline_margin: float  # of the baseline, a text without words
    margin: float  # of the text
    completeness_error: float  # |sum of contributions - (margin - baseline_margin)| relative to the latter
    method: str


class TokenSpan(NamedTuple):
    """A token and its character span."""

    start: int
    end: int
    word: int  # tokens of the same word have the same number
    columns: tuple[int, ...]  # indices among the P tokens, one per window that has it
    # none: the model does not see it, or it is a special token


def explain(predictor: Predictor, text: str, target: int | None = None) -> Attribution:
    """Attribute the logit margin of a class (default: the predicted one) to the words of a text.

    The contributions are integrated gradients, exact except for BERT.
    """
    probabilities = predictor.predict_proba([text])[0]
    target = int(probabilities.argmax()) if target is None else target
    others = [c for c in range(len(probabilities)) if c != target]

    def margin(logits: Tensor) -> Tensor:
        return logits[:, target] - logits[:, others].mean(dim=1)  # (K, C) to (K,)

    kinds = {BertClassifier: bert_gradients, EmbeddingBagClassifier: embedding_bag_gradients}
    spans, integral = kinds.get(type(predictor.model), static_gradients)(predictor, text, margin)
    return Attribution(
        text=text,
        class_names=predictor.class_names,
        probabilities=probabilities.tolist(),
        target=target,
        words=merge_subwords(text, spans, integral.contributions.tolist()),
        baseline_margin=integral.baseline_margin,
        margin=integral.margin,
        completeness_error=integral.completeness_error,
        method="exact" if integral.steps is None else f"integrated gradients, {integral.steps} steps",
    )


def static_gradients(predictor: Predictor, text: str, margin: Margin) -> tuple[list[TokenSpan], PathIntegral]:
    """Attribute to the known words, each of which adds its part of the mean vector. The baseline is the zero vector."""
    encoder, classifier = predictor.model.encoder, predictor.model.classifier
    spans, rows = [], []
    for number, (word, start, end) in enumerate(word_spans(text)):
        row = encoder.index.get(word)
        spans.append(TokenSpan(start, end, number, () if row is None else (len(rows),)))
        rows += [] if row is None else [row]
    # the encoder is linear: the vector of a text is the mean of the vectors of its words, encoded one by one
    vectors = encoder(torch.tensor(rows, dtype=torch.int64), torch.arange(len(rows) + 1)) / max(len(rows), 1)  # (P, D)
    hidden, output = None, classifier
    if isinstance(classifier, MLP):
        hidden, output = nn.Sequential(classifier.standardize, classifier.hidden), classifier.output
    return spans, one_layer_gradients(hidden, output, vectors, vectors.new_zeros(vectors.shape[1]), margin)


def word_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the words of `minitext.data.words.words` with their spans, `text[start:end]`."""
    origins = [i for i, character in enumerate(text) for _ in character.lower()]  # "İ" becomes two characters
    table = replacements()
    word, start, end = "", 0, 0
    for character, origin in zip(text.lower() + " ", [*origins, len(text)], strict=True):
        kept = table.get(ord(character), character)
        if kept is None:  # an apostrophe inside a word
            continue
        if not kept.isspace():
            word, start, end = word + kept, start if word else origin, origin + 1
        elif word:
            yield unicodedata.normalize("NFC", word), start, end
            word = ""


def embedding_bag_gradients(predictor: Predictor, text: str, margin: Margin) -> tuple[list[TokenSpan], PathIntegral]:
    """Attribute to the tokens, each of which adds its part of the mean of embeddings.

    An n-gram is shared equally by its ordinary tokens; with binary counts, a row also by its occurrences. The baseline
    has the rows without an ordinary token.
    """
    spans, ids, ordinary = read_tokens(predictor.tokens, text)
    model, config = predictor.model, predictor.model.config
    text_tokens = TokenizedTexts(ids.int(), torch.tensor([0, len(ids)]))
    rows = add_ngrams(text_tokens, model.vocab_size, config.ngrams, config.buckets).ids.long()  # tokens, pairs, …
    weights = torch.full(rows.shape, 1 / max(len(rows), 1))
    if config.binary_counts:
        _, inverse, counts = rows.unique(return_inverse=True, return_counts=True)
        weights = 1 / (counts[inverse] * len(counts))
    # what each row adds to the mean
    grams = model.embedding.weight.detach()[rows.to(predictor.device)].cpu() * weights[:, None]
    vectors, fixed = grams.new_zeros(len(ids), grams.shape[1]), grams.new_zeros(grams.shape[1])
    members = [range(i, i + n) for n in range(1, config.ngrams + 1) for i in range(len(ids) - n + 1)]  # of each row
    for tokens, gram in zip(members, grams, strict=True):
        if owners := [token for token in tokens if ordinary[token]]:
            vectors[owners] += gram / len(owners)
        else:
            fixed += gram
    return spans, one_layer_gradients(model.hidden, model.output, vectors, fixed, margin)


def bert_gradients(predictor: Predictor, text: str, margin: Margin) -> tuple[list[TokenSpan], PathIntegral]:
    """Attribute to the tokens, along a straight path between outputs of the embedding layer.

    The baseline is the text with [MASK] for each ordinary token, as in pretraining; without a mask token, zero vectors.
    In all of its windows, a token moves along the path at the same time.
    """
    spans, ids, ordinary = read_tokens(predictor.tokens, text)
    if not ids.numel():
        ids, ordinary = torch.tensor([EMPTY_TEXT_ID]), torch.tensor([False])
    device, model, length = predictor.device, predictor.model, len(ids)
    lengths = tuple(map(len, ids.split(predictor.tokens.max_length)))  # of the windows; all but the last are full
    positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
    ids, ordinary = ids.to(device), ordinary.to(device)
    mask = mask_id(predictor.tokens.tokenizer)
    with torch.no_grad():
        hidden = model.encoder.embed(ids, positions)  # (P, H)
        masked = (
            torch.zeros_like(hidden) if mask is None else model.encoder.embed(torch.full_like(ids, mask), positions)
        )
    baseline = torch.where(ordinary[:, None], masked, hidden)

    def margin_at(scales: Tensor) -> Tensor:
        blended = baseline + scales[:, :, None] * (hidden - baseline)  # (K, P, H)
        repeated = lengths * len(scales)
        starts = torch.tensor([0, *accumulate(repeated)], dtype=torch.int32, device=device)
        sequence = SequenceInfo(starts, max(lengths), repeated)
        logits = model.head(model.encoder.encode(blended.flatten(0, 1), sequence, first_only=True))
        return margin(logits.unflatten(0, (len(scales), len(lengths))).mean(dim=1))

    return spans, integrated_gradients(margin_at, length, device)


def read_tokens(tokens: TokenSettings, text: str) -> tuple[list[TokenSpan], Tensor, Tensor]:
    """Return the spans of all tokens; the `(P,)` ids that the model sees; and which of them are ordinary, (P,) bool.

    Special tokens, such as [CLS] and [UNK], are not ordinary: they are the same along the path and contribute nothing.
    """
    tokenizer = tokens.tokenizer
    encoding = tokenizer.encode(text, add_special_tokens=False)
    before, after = special_ids(tokenizer)
    room = tokens.max_length - len(before) - len(after)
    columns, ids = defaultdict(list), []
    for kept in fit_length(list(range(len(encoding))), room, tokens.truncate, tokens.windows):  # indices of tokens
        for column, token in enumerate(kept, len(ids) + len(before)):
            columns[token].append(column)
        ids += [*before, *(encoding.ids[token] for token in kept), *after]
    special = {tokenizer.token_to_id(token) for tokens_of_role in SPECIAL_ROLES.values() for token in tokens_of_role}
    spans = []
    for token, ((start, end), word) in enumerate(zip(encoding.offsets, encoding.word_ids, strict=True)):
        seen = () if encoding.ids[token] in special else tuple(columns[token])
        spans.append(TokenSpan(start, end, -1 - token if word is None else word, seen))
    ordinary = torch.tensor([number not in special for number in ids], dtype=torch.bool)
    return spans, torch.tensor(ids, dtype=torch.int64), ordinary


def merge_subwords(text: str, spans: Sequence[TokenSpan], contributions: Sequence[float]) -> list[WordAttribution]:
    """Add up the tokens of each word, and tokens that share a character, which byte-level tokenizers split."""
    words: list[WordAttribution] = []
    number = None
    for span in spans:
        contribution = sum((contributions[column] for column in span.columns), start=0.0)
        word = WordAttribution(span.start, span.end, contribution, bool(span.columns))
        if words and (span.word == number or span.start < words[-1].end or span.start == span.end):
            start, end, contribution, seen = words.pop()
            word = WordAttribution(start, max(end, word.end), contribution + word.contribution, seen or word.seen)
        words.append(word)
        number = span.word
    for i, (start, end, *_) in enumerate(words):
        if without_space := text[start:end].lstrip():  # RoBERTa's tokens include the space before a word
            words[i] = words[i]._replace(start=end - len(without_space))
    return words
