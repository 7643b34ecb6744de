"""How much each word of a text speaks for a class, by integrated gradients.

In: a finished run and a text. Out: each word's signed share of the class's score; `highlight` shows it to people.
Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks" (ICML, arXiv:1703.01365), sections 3 and 5.
Letters: P parts of a text (words with a vector, or tokens), K points of the path, D vector width, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minitext.data.tokenizer import cut, pad_id, special_ids
from minitext.data.words import replacements
from minitext.evaluation.predictor import Predictor, TokenSettings
from minitext.models.bert import BertClassifier
from minitext.models.embedding_bag import EmbeddingBagClassifier
from minitext.models.hf_checkpoint import SPECIAL_ROLES, mask_id
from minitext.models.static import LogisticRegression, StaticClassifier

FEWEST_STEPS = 16  # of the path; doubled until the contributions add up, or there are as many as:
MOST_STEPS = {"smooth": 512, "relu": 4096}  # a ReLU's slope jumps on the way, which takes many steps, but cheap ones
COMPLETE = 0.01  # they add up when they miss the difference that they explain by less than this share of it
SMALLEST = 0.1  # log-odds, 2.5 points of probability: of a smaller difference any error would be many per cent
POINT_PARTS = 1024  # parts in a forward and backward pass, over several points of the path: bounds the memory


class Word(NamedTuple):
    """`text[start:end]`, and what it adds to the score."""

    start: int
    end: int
    contribution: float
    seen: bool  # False: the model has no vector for it, or the text was cut before it; it contributes nothing


class Attribution(NamedTuple):
    """Why a text got its probabilities.

    What is explained is the lead of the class `target`: its logit less the mean of the other classes' logits, over the
    temperature. Neither softmax nor a lead sees a constant that is added to all logits, which a logit alone would; of
    two classes, the lead is the log-odds of the probability that is shown.
    """

    text: str
    class_names: tuple[str, ...]
    probabilities: list[float]  # C, calibrated
    target: int
    words: list[Word]  # in reading order, never overlapping; their contributions add up to total - baseline
    baseline: float  # the lead of the text with nothing in the place of its words
    total: float  # the lead of the text
    gap: float  # by how much the contributions miss total - baseline, as a share of it
    method: str


class Part(NamedTuple):
    """A stretch of the text that the model reads as one."""

    start: int
    end: int
    word: int  # the parts of a word have the same number
    place: int | None  # its column in the scales; None: the model does not see it


class Path(NamedTuple):
    """A straight way from a baseline to the text."""

    parts: list[Part]
    columns: int  # P
    most_steps: int
    # Scales, (K, P), say how much of each part is there, from 0 (as in the baseline) to 1; to logits, (K, C)
    logits: Callable[[Tensor], Tensor]


def explain(predictor: Predictor, text: str, target: int | None = None) -> Attribution:
    """What each word of `text` contributes to the class `target` (None: to the likeliest one).

    Where nothing but a mean of vectors and a linear layer is between words and logits, the contributions are exact.
    Elsewhere they are integrated gradients of as many steps as it takes to add up, MOST_STEPS at most: `gap` tells.
    """
    model = predictor.model.eval()
    probabilities = predictor.predict([text])[0].tolist()
    if target is None:
        target = max(range(len(probabilities)), key=probabilities.__getitem__)
    others = [c for c in range(len(probabilities)) if c != target]
    kinds = {StaticClassifier: static_path, EmbeddingBagClassifier: feedforward_path, BertClassifier: bert_path}
    path = kinds[type(model)](model, text, predictor.tokens)

    def lead(scales: Tensor) -> Tensor:
        logits = path.logits(scales) / predictor.temperature  # (K, C)
        return logits[:, target] - logits[:, others].mean(dim=1)  # (K,)

    shares, baseline, total, gap, steps = integrated_gradients(
        lead, path.columns, path.most_steps, next(model.parameters()).device
    )
    linear = isinstance(model, StaticClassifier) and isinstance(model.classifier, LogisticRegression)
    method = "exact" if linear else f"integrated gradients, {steps} steps"
    words = merge_subwords(text, path.parts, shares)
    return Attribution(text, predictor.class_names, probabilities, target, words, baseline, total, gap, method)


def integrated_gradients(
    lead: Callable[[Tensor], Tensor], columns: int, most_steps: int, device: torch.device
) -> tuple[list[float], float, float, float, int]:
    """The integral of d lead / d scale along the straight path from all scales 0 to all 1 (equation 1 of the paper).

    Returns each part's share, the lead at both ends, the gap and the steps. The points are those of Clenshaw & Curtis:
    as good as Gauss's (Trefethen 2008, "Is Gauss quadrature better than Clenshaw-Curtis?", SIAM Review 50), and of
    twice the steps every other point is known already. For a linear lead any points give the exact shares.
    """

    def at(along: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes (K, P) and leads (K,) at points of the path, (K,)."""
        slopes, leads = [], []
        for some in along.split(max(1, POINT_PARTS // max(columns, 1))):
            scales = some.float()[:, None].repeat(1, columns).to(device).requires_grad_()
            value = lead(scales)
            slopes.append(torch.autograd.grad(value.sum(), scales)[0].double().cpu())
            leads.append(value.detach().double().cpu())
        return torch.cat(slopes), torch.cat(leads)

    steps = FEWEST_STEPS
    points, weights = clenshaw_curtis(steps)
    slopes, leads = at(points)
    baseline, total = leads[0].item(), leads[-1].item()
    while True:
        shares = weights @ slopes  # (P,)
        gap = abs(shares.sum().item() - (total - baseline)) / max(abs(total - baseline), SMALLEST)
        if gap < COMPLETE or steps >= most_steps:
            return shares.tolist(), baseline, total, gap, steps
        steps *= 2
        points, weights = clenshaw_curtis(steps)
        known, slopes = slopes, slopes.new_empty(steps + 1, columns)
        slopes[::2], slopes[1::2] = known, at(points[1::2])[0]


def clenshaw_curtis(steps: int) -> tuple[Tensor, Tensor]:
    """Points and weights, (steps + 1,) each, of the integral from 0 to 1; `steps` is even (Clenshaw & Curtis 1960)."""
    angles = torch.arange(steps + 1, dtype=torch.float64) * torch.pi / steps
    j = torch.arange(1, steps // 2 + 1, dtype=torch.float64)
    halves = torch.where(j == steps // 2, 1.0, 2.0) / (4 * j**2 - 1)
    weights = (1 - torch.cos(2 * angles[:, None] * j) @ halves) / steps
    weights[[0, -1]] /= 2
    return (1 - angles.cos()) / 2, weights


def static_path(model: StaticClassifier, text: str, tokens: None) -> Path:
    """The parts are the words with a vector; the baseline is a text without any, the zero vector."""
    parts, rows = [], []
    for number, (word, start, end) in enumerate(word_spans(text)):
        row = model.encoder.index.get(word)
        parts.append(Part(start, end, number, None if row is None else len(rows)))
        rows += [] if row is None else [row]
    # The encoder is linear in its words: a text's vector is the mean of what its words give as texts of their own.
    alone = model.encoder(torch.tensor(rows, dtype=torch.int64), torch.arange(len(rows) + 1))  # (P, D)
    vectors = alone / max(len(rows), 1)
    return Path(parts, len(rows), MOST_STEPS["relu"], lambda scales: model.classifier(scales @ vectors))


def word_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of `minitext.data.words.words`, each with its place: `text[start:end]`."""
    origins = [place for place, character in enumerate(text) for _ in character.lower()]  # "İ" becomes two characters
    table = replacements()
    word, start, end = "", 0, 0
    for character, origin in zip(text.lower() + " ", [*origins, len(text)], strict=True):
        kept = table.get(ord(character), character)
        if kept is None:  # an apostrophe is within its word
            continue
        if not kept.isspace():
            word, start, end = word + kept, start if word else origin, origin + 1
        elif word:
            yield word, start, end
            word = ""


def feedforward_path(model: EmbeddingBagClassifier, text: str, tokens: TokenSettings) -> Path:
    """The baseline is the embedding's mean with zeros for ordinary tokens and for n-grams that hold one.

    An n-gram is shared equally by its ordinary tokens; what is counted once in a text, by all places where it stands.
    """
    parts, ids, ordinary = read_tokens(tokens, text, model.embedding.weight.device)
    every = copy(model)  # the same network, in which each place counts
    every.options = replace(model.options, binary_counts=False)
    rows = every.features(ids[None], torch.ones_like(ids[None], dtype=torch.bool))[0][0]  # (F,): tokens, pairs, …
    weights = torch.full(rows.shape, 1 / max(len(rows), 1), device=rows.device)  # (F,)
    if model.options.binary_counts:
        _, which, places = rows.unique(return_inverse=True, return_counts=True)
        weights = 1 / (places[which] * len(places))
    grams = model.embedding.weight.detach()[rows] * weights[:, None]  # (F, D), what each adds to the mean
    vectors = grams.new_zeros(len(ids), grams.shape[1])  # (P, D), what each token adds
    fixed = grams.new_zeros(grams.shape[1])  # (D,), what is there from the start
    for n in range(1, min(model.options.ngrams, len(ids)) + 1):
        some, grams = grams[: len(ids) - n + 1], grams[len(ids) - n + 1 :]
        members = ordinary.unfold(0, n, 1)  # (n-grams, n)
        shares = members / members.sum(dim=1, keepdim=True).clamp_min(1)
        for place in range(n):
            vectors[place : place + len(some)] += some * shares[:, place, None]
        fixed += some[~members.any(dim=1)].sum(dim=0)
    return Path(
        parts, len(ids), MOST_STEPS["relu"], lambda scales: model.output(F.relu(model.hidden(fixed + scales @ vectors)))
    )


def bert_path(model: BertClassifier, text: str, tokens: TokenSettings) -> Path:
    """The baseline is the text with [MASK] for each ordinary token: the one token that stands for any word, in places
    where pretraining has met it. Without a mask token it is the zero vector.
    """
    table = model.encoder.tokens.weight.detach()  # (V, D)
    parts, ids, ordinary = read_tokens(tokens, text, table.device)
    if not len(ids):  # as the encoder reads a text of no tokens
        ids, ordinary = ids.new_tensor([pad_id(tokens.tokenizer)]), ordinary.new_zeros(1)
    mask = mask_id(tokens.tokenizer)
    blank = torch.zeros_like(table[0]) if mask is None else table[mask]  # (D,)

    def logits(scales: Tensor) -> Tensor:
        def blend(module: torch.nn.Module, inputs: tuple[Tensor], vectors: Tensor) -> Tensor:
            blended = blank + scales[:, :, None] * (vectors - blank)  # (K, P, D)
            return torch.where(ordinary[:, None], blended, vectors)

        rows = ids.expand(len(scales), -1)  # (K, P)
        hook = model.encoder.tokens.register_forward_hook(blend)
        try:
            return model(rows, torch.ones_like(rows, dtype=torch.bool))
        finally:
            hook.remove()

    return Path(parts, len(ids), MOST_STEPS["smooth"], logits)


def read_tokens(tokens: TokenSettings, text: str, device: torch.device) -> tuple[list[Part], Tensor, Tensor]:
    """The text's tokens as parts; the ids that the model is given, (P,); which of these are ordinary, (P,) bool.

    Not ordinary are special tokens, such as [CLS], and what stands for a word that the tokenizer does not know: they
    stay as they are along the whole path, and so contribute nothing.
    """
    tokenizer, max_length, truncate = tokens
    encoding = tokenizer.encode(text, add_special_tokens=False)
    before, after = special_ids(tokenizer)
    room = max_length - len(before) - len(after)
    kept = {token: len(before) + place for place, token in enumerate(cut(list(range(len(encoding))), room, truncate))}
    ids = torch.tensor([*before, *(encoding.ids[token] for token in kept), *after], dtype=torch.int64, device=device)
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    special |= {tokenizer.token_to_id(token) for role in SPECIAL_ROLES.values() for token in role} - {None}
    parts = []
    for token, ((start, end), word) in enumerate(zip(encoding.offsets, encoding.word_ids, strict=True)):
        place = None if encoding.ids[token] in special else kept.get(token)
        parts.append(Part(start, end, -1 - token if word is None else word, place))
    return parts, ids, ~torch.isin(ids, torch.tensor(sorted(special), dtype=torch.int64, device=device))


def merge_subwords(text: str, parts: Sequence[Part], shares: Sequence[float]) -> list[Word]:
    """The parts of a word together. So are parts that share a character: byte-level tokenizers cut within one."""
    words: list[Word] = []
    number = None
    for part in parts:
        word = Word(part.start, part.end, 0.0 if part.place is None else shares[part.place], part.place is not None)
        if words and (part.word == number or part.start < words[-1].end or part.start == part.end):
            start, end, contribution, seen = words.pop()
            word = Word(start, max(end, word.end), contribution + word.contribution, seen or word.seen)
        words.append(word)
        number = part.word
    return [strip_leading_space(text, word) for word in words]


def strip_leading_space(text: str, word: Word) -> Word:
    """Without the white space before it, which RoBERTa's pieces hold; of nothing else, it is the word."""
    stretch = text[word.start : word.end]
    return word._replace(start=word.end - len(stretch.lstrip())) if stretch.strip() else word
