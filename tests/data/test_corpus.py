"""A corpus has no text that a training script with the same options would validate or test on, nor its duplicates."""

import gzip
import json
from pathlib import Path

import pytest

from minitext.data.corpus import CorpusConfig, load_corpus
from minitext.data.dataset import DataConfig, load_dataset
from minitext.data.duplicates import words_digest
from minitext.data.readers import read_rows


def table(path: Path, count: int = 60) -> Path:
    """Labeled texts without splits."""
    rows = [{"text": f"text number {number}", "label": "ab"[number % 2]} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("seed, fractions", [(0, {}), (7, {}), (0, {"valid_fraction": 0.3, "test_fraction": 0.4})])
def test_the_texts_are_the_training_part_of_the_scripts(tmp_path, seed, fractions):
    path = str(table(tmp_path / "texts.jsonl"))
    train, valid, test = load_dataset(DataConfig(data=path, **fractions), seed)
    texts, note = load_corpus(CorpusConfig(data=(path,), **fractions), seed)
    assert texts == train.texts
    assert note == f"{len(train):,} texts; left out: {len(valid) + len(test):,} that validate or test, 0 duplicates"


def test_marked_splits_are_used_as_they_are(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,split\nfine,1,train\ntested,1,test\nvalidated,0,valid\npoor,0,train\n")
    assert load_corpus(CorpusConfig(data=(str(path),)), seed=0)[0] == ["fine", "poor"]


def test_texts_of_a_test_file_are_left_out_of_every_source(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nfine,1\npoor,0\n" + "good,1\nbad,0\n" * 5)
    (tmp_path / "test.csv").write_text("text,label\nFine!,1\nnew,0\n")
    (tmp_path / "more.txt").write_text("new\nother\n")
    sources = (str(tmp_path / "train.csv"), str(tmp_path / "more.txt"))
    texts, _ = load_corpus(CorpusConfig(data=sources, test_data=str(tmp_path / "test.csv")), seed=0)
    assert {"fine", "new"}.isdisjoint(texts) and {"poor", "other"} <= set(texts)


def test_duplicates_of_held_out_texts_are_dropped_unless_they_are_kept(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(
        "text,label,split\nfine,1,train\nFINE!,1,test\nvalidated,0,valid\npoor,0,train\nValidated,1,train\n"
    )
    texts, note = load_corpus(CorpusConfig(data=(str(path),)), seed=0)
    assert texts == ["poor"] and note.endswith("left out: 2 that validate or test, 2 duplicates")
    kept, note = load_corpus(CorpusConfig(data=(str(path),), keep_duplicates=True), seed=0)
    assert kept == ["fine", "poor", "Validated"] and note.endswith("0 duplicates")


def test_a_txt_file_has_one_text_per_line(tmp_path):
    (tmp_path / "texts.txt").write_text("one text\n\nan\u2028other\n", encoding="utf-8")
    assert load_corpus(CorpusConfig(data=(str(tmp_path / "texts.txt"),)), seed=0)[0] == ["one text", "an\u2028other"]


@pytest.mark.slow
def test_no_test_review_of_imdb_is_in_its_corpus(imdb):
    texts, note = load_corpus(CorpusConfig(data=(str(imdb),)), seed=0)
    tested = {words_digest(row.text) for row in read_rows(str(imdb)) if row.split == "test"}
    assert sum(words_digest(text) in tested for text in texts) == 0
    assert len(texts) > 72_000 and "left out: 27,500 that validate or test" in note


def test_an_encoding_and_a_format_are_those_of_the_scripts(tmp_path):
    (tmp_path / "texts.txt").write_bytes("café\nfilm\n".encode("latin-1"))
    config = CorpusConfig(data=(str(tmp_path / "texts.txt"),), encoding="latin-1")
    assert load_corpus(config, seed=0)[0] == ["café", "film"]
    (tmp_path / "table.csv").write_text("\n".join(f"{number % 2};text {number}" for number in range(40)))
    config = CorpusConfig(data=(str(tmp_path / "table.csv"),), no_header=True, delimiter=";", text_column="2",
                          label_column="1")  # fmt: skip
    assert len(load_corpus(config, seed=0)[0]) == 28  # less a fifth for test, and a tenth of the rest for validation


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1e"])
def test_only_newlines_separate_the_texts_of_a_txt_file(tmp_path, mark: str):
    (tmp_path / "texts.txt").write_bytes((f"one{mark}two{mark}three\r\n" * 25).encode())
    assert load_corpus(CorpusConfig(data=(str(tmp_path / "texts.txt"),)), 0)[0] == [f"one{mark}two{mark}three"] * 25


def test_a_txt_file_may_be_utf_16_and_gzipped(tmp_path):
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress("caf\u00e9\nfilm\n".encode("utf-16")))
    assert load_corpus(CorpusConfig(data=(str(tmp_path / "texts.txt.gz"),)), 0)[0] == ["caf\u00e9", "film"]
