"""The bundled sample: 1,600 reviews, half of them positive, no two alike; word vectors and a BERT that fit it."""

import gzip
import json
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from packed_batches import pack
from safetensors.torch import load_file

from minitext.data.corpus import CorpusConfig, load_corpus
from minitext.data.dataset import DataConfig, load_dataset
from minitext.data.readers import SAMPLE
from minitext.data.word_vectors import SAMPLE as SAMPLE_VECTORS
from minitext.data.word_vectors import load_word_vectors
from minitext.data.words import words
from minitext.models import hub
from minitext.models.hf_checkpoint import load_classifier
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.pretraining.init import load_existing


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts(records) -> list[str]:
    return [record["text"] for record in records]


def phrases(text: str, length: int) -> set[tuple[str, ...]]:
    """All runs of `length` words."""
    found = words(text)
    return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}


def test_1600_reviews_half_of_them_positive(records):
    assert Counter(record["label"] for record in records) == {"pos": 800, "neg": 800}


def test_a_review_has_25_to_150_words(texts):
    assert [text for text in texts if not 25 <= len(text.split()) <= 150] == []


def test_each_tag_has_as_many_positive_as_negative_reviews_in_every_split(records):
    counts = Counter((record["split"], record["tag"], record["label"]) for record in records)
    special = ("negation", "mixed", "irony", "comparison", "expectation")
    sizes = {"train": (365, 27), "valid": (35, 3), "test": (200, 10)}  # of each label: plain, each other tag
    expected = {
        (split, tag, label): plain if tag == "plain" else other
        for split, (plain, other) in sizes.items()
        for tag in ("plain", *special)
        for label in ("neg", "pos")
    }
    assert counts == expected


def test_the_order_shows_neither_label_nor_split(records):
    """Two neighbours are alike as often as two random reviews are, within four standard errors."""
    splits = Counter(record["split"] for record in records)
    for key, chance in (("label", 0.5), ("split", sum((count / 1600) ** 2 for count in splits.values()))):
        alike = sum(one[key] == other[key] for one, other in pairwise(records)) / 1599
        assert abs(alike - chance) < 4 * (chance * (1 - chance) / 1599) ** 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_are_fixed(records, seed: int):
    splits = load_dataset(DataConfig(data="sample"), seed)
    assert [len(part) for part in splits] == [1000, 100, 500]
    for part, name in zip(splits, ("train", "valid", "test"), strict=True):
        assert part.texts == [record["text"] for record in records if record["split"] == name]


def test_half_of_every_split_is_positive():
    for part in load_dataset(DataConfig(data="sample"), 0):
        assert np.bincount(part.labels).tolist() == [len(part) // 2] * 2


@pytest.mark.parametrize(("length", "most"), [(2, 8), (5, 1)])
def test_few_reviews_start_with_the_same_words(texts, length: int, most: int):
    openings = Counter(tuple(words(text)[:length]) for text in texts)
    assert [opening for opening, count in openings.items() if count > most] == []


def test_no_two_reviews_share_eight_words_in_a_row(texts):
    counts = Counter(phrase for text in texts for phrase in phrases(text, 8))
    assert [phrase for phrase, count in counts.items() if count > 1] == []


def test_no_two_reviews_share_a_tenth_of_their_phrases_of_three_words(texts):
    sets = [phrases(text, 3) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(sets):
        for phrase in found:
            holders.setdefault(phrase, []).append(number)
    shared = Counter(pair for numbers in holders.values() for pair in combinations(numbers, 2))
    near = [(i, j) for (i, j), count in shared.items() if count >= 0.1 * len(sets[i] | sets[j])]
    assert near == []


def test_there_are_20000_vectors_of_100_numbers():
    vectors = load_word_vectors("sample")
    assert (len(vectors.words), vectors.table.shape) == (20_000, (20_000, 100))
    assert vectors.table.isfinite().all()


def test_each_line_of_the_vectors_file_has_a_word_and_100_numbers():
    with gzip.open(SAMPLE_VECTORS, "rt", encoding="utf-8") as file:
        assert {len(line.split(" ")) for line in file} == {101}


def test_the_vectors_cover_over_90_percent_of_the_samples_words(texts):
    known = set(load_word_vectors("sample").words)
    found = [word in known for text in texts for word in words(text)]
    assert sum(found) / len(found) > 0.9


def test_vectors_are_trained_on_the_train_part_of_the_sample_only(records):
    texts, _ = load_corpus(CorpusConfig(data=("sample",)), seed=0)
    assert texts == [record["text"] for record in records if record["split"] == "train"]


# The small BERT


def test_the_bundled_files_fit_into_14_megabytes():
    files = [path for path in SAMPLE.parent.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"reviews.jsonl", "vectors.txt.gz", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in files) <= 14_000_000


def test_the_bert_has_3_to_5_million_parameters_in_half_precision():
    tensors = load_file(hub.SAMPLE / "model.safetensors")
    assert 3_000_000 < sum(tensor.numel() for tensor in tensors.values()) < 5_000_000
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_whole_encoder_is_loaded_and_only_the_head_is_new():
    _, notes = load_classifier(hub.SAMPLE, ["neg", "pos"])
    assert notes[0] == "newly initialized: dense.weight, dense.bias, output.weight, output.bias"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("this is one of the worst [MASK] i have ever seen.", {"movies", "films", "movie", "film"}),
        ("the acting [MASK] terrible and the plot makes no sense.", {"is", "was"}),
        ("i would [MASK] this film to anyone.", {"recommend"}),
    ],
)
def test_the_bert_has_learned_to_fill_in_words(text: str, expected: set[str]):
    model, tokenizer, _ = load_existing("sample", 0.0)
    model.eval()
    ids = tokenizer.encode(text).ids
    with torch.no_grad():
        (row,) = model(pack(ids, masked=[ids.index(tokenizer.token_to_id("[MASK]"))]))
    assert tokenizer.id_to_token(int(row.argmax())) in expected


def test_the_bert_knows_over_98_percent_of_the_samples_tokens(texts):
    tokenizer = load_hub_tokenizer(hub.SAMPLE)
    ids = [number for text in texts for number in tokenizer.encode(text).ids]
    assert ids.count(tokenizer.token_to_id("[UNK]")) / len(ids) < 0.02


@pytest.mark.oracle
def test_transformers_gives_the_same_logits():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(hub.SAMPLE, dtype=torch.float32).eval()
    ours, tokenizer, _ = load_existing("sample", 0.0)
    ours.eval()
    ids = tokenizer.encode("a dull film with a [MASK] ending").ids
    masked = [ids.index(tokenizer.token_to_id("[MASK]"))]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, masked]
        torch.testing.assert_close(ours(pack(ids, masked=masked)), expected, atol=1e-4, rtol=0)  # float32
