"""Every text is in exactly one split; splits depend on the seed alone and are stratified by class; labels that cannot
be learned are errors with their row.
"""

import json
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitext.data.dataset import (
    DataConfig,
    Dataset,
    Splits,
    describe_splits,
    find_class_names,
    load_dataset,
    sample_by_class,
)
from minitext.data.readers import Row, read_rows
from minitext.utils.errors import UserError


def write(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("text", "label", "split")) -> str:
    """A JSONL table of (text, label) or (text, label, split)."""
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=False))) + "\n" for row in rows))
    return str(path)


def numbered(**counts: int) -> list[tuple[str, str]]:
    """`numbered(pos=2)` gives ("pos 0", "pos"), ("pos 1", "pos")."""
    return [(f"{label} {i}", label) for label, count in counts.items() for i in range(count)]


def split(path: str, seed: int = 0, **options) -> Splits:
    return load_dataset(DataConfig(data=path, **options), seed)


def texts(splits: Splits) -> list[list[str]]:
    return [part.texts for part in splits]


def by_class(part: Dataset) -> dict[str, int]:
    return dict(Counter(part.class_names[label] for label in part.labels))


# Splits


@settings(max_examples=50, deadline=None)  # no deadline: a file is written and read each time
@given(
    st.lists(st.integers(4, 30), min_size=2, max_size=6),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.5),  # leaves two texts of each class, one for train and one for validation
)
def test_the_splits_are_disjoint_and_complete(counts: list[int], seed: int, valid: float, test: float):
    rows = numbered(**{f"class{i}": count for i, count in enumerate(counts)})
    with tempfile.TemporaryDirectory() as folder:
        parts = texts(split(write(Path(folder) / "all.jsonl", rows), seed, valid_fraction=valid, test_fraction=test))
    assert sorted(text for part in parts for text in part) == sorted(text for text, _ in rows)
    assert all(len({text.split()[0] for text in part}) == len(counts) for part in parts)  # each class in each part


def test_a_file_is_split_by_class_in_the_given_fractions(tmp_path: Path):
    splits = split(write(tmp_path / "all.jsonl", numbered(pos=100, neg=50)), test_fraction=0.2, valid_fraction=0.1)
    assert by_class(splits.test) == {"pos": 20, "neg": 10}
    assert by_class(splits.valid) == {"pos": 8, "neg": 4}  # a tenth of what test left
    assert by_class(splits.train) == {"pos": 72, "neg": 36}


def test_every_text_keeps_its_label_and_id(tmp_path: Path):
    rows = numbered(pos=10, neg=10)
    for part in split(write(tmp_path / "all.jsonl", rows)):
        for text, label, place in zip(part.texts, part.labels, part.ids, strict=True):
            assert text.startswith(part.class_names[label])
            assert rows[int(place.removeprefix("all.jsonl:")) - 1][0] == text


def test_the_split_column_is_used(tmp_path: Path):
    rows = [("a", "pos", "train"), ("b", "neg", "train"), ("c", "pos", "dev"), ("d", "neg", "test")]
    assert texts(split(write(tmp_path / "all.jsonl", rows))) == [["a", "b"], ["c"], ["d"]]


def test_validation_is_split_off_from_train_if_only_test_is_given(tmp_path: Path):
    rows = [(text, label, "train") for text, label in numbered(pos=10, neg=10)] + [("last", "pos", "test")]
    splits = split(write(tmp_path / "all.jsonl", rows), valid_fraction=0.2)
    assert [len(part) for part in splits] == [16, 4, 1]
    assert splits.test.texts == ["last"]


def test_test_and_validation_may_be_separate_files(tmp_path: Path):
    splits = split(
        write(tmp_path / "train.jsonl", [("a", "pos"), ("b", "neg")]),
        valid_data=write(tmp_path / "valid.jsonl", [("c", "pos")]),
        test_data=write(tmp_path / "test.jsonl", [("d", "neg"), ("e", "pos")]),
    )
    assert texts(splits) == [["a", "b"], ["c"], ["d", "e"]]
    assert splits.test.labels.tolist() == [0, 1]  # numbered as in train


def test_named_columns_apply_to_the_test_file(tmp_path: Path):
    columns = ("body", "stars")
    splits = split(
        write(tmp_path / "train.jsonl", numbered(pos=4, neg=4), columns),
        test_data=write(tmp_path / "test.jsonl", [("last", "pos")], columns),
        text_column="body",
        label_column="stars",
    )
    assert splits.test.texts == ["last"]


def test_texts_stay_in_the_order_of_the_source(tmp_path: Path):
    rows = numbered(pos=20, neg=20)
    order = {text: i for i, (text, _) in enumerate(rows)}
    for part in texts(split(write(tmp_path / "all.jsonl", rows))):
        assert part == sorted(part, key=order.__getitem__)


def test_a_class_of_three_texts_gives_one_to_each_split(tmp_path: Path):
    splits = split(write(tmp_path / "all.jsonl", numbered(pos=3, neg=30)), test_fraction=0.01, valid_fraction=0.01)
    assert [by_class(part)["pos"] for part in splits] == [1, 1, 1]


def test_a_class_too_small_to_be_split_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(UserError, match="class 'rare' has fewer than 2 texts"):
        split(write(tmp_path / "all.jsonl", numbered(pos=10, rare=2, neg=10)))


def test_a_source_name_is_a_config_with_defaults():
    for one, other in zip(load_dataset("sample", seed=3), load_dataset(DataConfig(data="sample"), 3), strict=True):
        assert one.fingerprint() == other.fingerprint()
    assert load_dataset("sample").train.texts == load_dataset("sample", seed=0).train.texts


def test_a_source_without_training_texts_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="has no training text"):
        split(write(tmp_path / "all.jsonl", [("a", "pos", "test"), ("b", "neg", "test")]))


# Subsets


@pytest.fixture
def thousand(tmp_path: Path) -> str:
    """1,000 texts of two classes, 600 and 400; with test 0.5 and valid 0.1: train 450, valid 50, test 500."""
    return write(tmp_path / "all.jsonl", numbered(pos=600, neg=400))


def test_subsets_keep_the_class_proportions(thousand: str):
    splits = split(thousand, test_fraction=0.5, subset=(0.04, 0.02))
    assert by_class(splits.train) == {"pos": 11, "neg": 7}  # 4 % of 270 and 180
    assert by_class(splits.valid) == {"pos": 1, "neg": 1}  # 4 % of 30 and 20: 1.2 and 0.8
    assert by_class(splits.test) == {"pos": 6, "neg": 4}  # 2 % of 300 and 200


def test_a_subset_has_at_least_one_text_of_each_class(thousand: str):
    splits = split(thousand, subset=(1e-6, 1e-6))
    assert [by_class(part) for part in splits] == [{"pos": 1, "neg": 1}] * 3


FRACTIONS = [0.01, 0.04, 0.3, 0.99, 1.0]


def test_a_smaller_subset_is_part_of_a_larger_one(thousand: str):
    subsets = [texts(split(thousand, test_fraction=0.5, subset=(fraction, fraction))) for fraction in FRACTIONS]
    for smaller, larger in pairwise(subsets):
        for few, many in zip(smaller, larger, strict=True):
            assert set(few) <= set(many)


def test_a_validation_text_of_one_subset_is_a_train_text_of_none(thousand: str):
    subsets = [split(thousand, subset=(fraction, fraction)) for fraction in FRACTIONS]
    validated = {text for splits in subsets for text in splits.valid.texts}
    tested = {text for splits in subsets for text in splits.test.texts}
    trained = {text for splits in subsets for text in splits.train.texts}
    assert trained.isdisjoint(validated | tested)
    assert validated.isdisjoint(tested)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 99), st.floats(0.001, 1), st.floats(0.001, 1)
)
def test_a_smaller_fraction_of_any_labels_is_a_subset(labels: list[int], seed: int, one: float, other: float):
    few, many = (sample_by_class(np.array(labels), fraction, [seed]).tolist() for fraction in sorted((one, other)))
    assert set(few) <= set(many)
    assert many == sorted(set(many))


# Seeds


def test_the_same_seed_gives_the_same_splits(thousand: str):
    assert texts(split(thousand, seed=7, subset=(0.5, 0.5))) == texts(split(thousand, seed=7, subset=(0.5, 0.5)))


def test_another_seed_gives_other_splits(thousand: str):
    for one, other in zip(split(thousand, seed=0), split(thousand, seed=1), strict=True):
        assert set(one.texts) != set(other.texts)
        assert by_class(one) == by_class(other)


def test_another_seed_gives_other_validation_texts_if_test_is_given(tmp_path: Path):
    rows = [(text, label, "train") for text, label in numbered(pos=100, neg=100)] + [("last", "pos", "test")]
    path = write(tmp_path / "all.jsonl", rows)
    assert set(split(path, seed=0).valid.texts) != set(split(path, seed=1).valid.texts)


def test_given_splits_do_not_depend_on_the_seed(tmp_path: Path):
    rows = [("a", "pos", "train"), ("b", "neg", "train"), ("c", "pos", "dev"), ("d", "neg", "test")]
    path = write(tmp_path / "all.jsonl", rows)
    assert texts(split(path, seed=0)) == texts(split(path, seed=1))


# Labels


def names_of(*labels: str) -> tuple[str, ...]:
    return find_class_names("data.csv", {"train": [Row("", "", label) for label in labels], "valid": [], "test": []})


def test_whole_numbers_are_sorted_by_value():
    assert names_of("10", "2", "-1", "0") == ("-1", "0", "2", "10")


def test_other_labels_are_sorted_by_name():
    assert names_of("10", "2", "none") == ("10", "2", "none")


@pytest.mark.parametrize("pair", [("1", "1.0"), ("1", "true"), ("0", "false"), ("01", "1"), ("2.50", "2.5")])
def test_two_labels_of_one_number_are_an_error_that_names_both(pair: tuple[str, str]):
    with pytest.raises(UserError, match=f"labels '{min(pair)}' and '{max(pair)}' are the same number"):
        names_of("other", *pair)


@pytest.mark.parametrize("labels", [("true", "false"), ("0", "1"), ("nan", "0"), ("1", "one", "1st")])
def test_labels_of_different_values_are_classes(labels: tuple[str, ...]):
    assert set(names_of(*labels)) == set(labels)


def test_a_test_label_that_writes_a_number_of_train_differently_is_an_error(tmp_path: Path):
    path = write(tmp_path / "all.jsonl", [("a", "0", "train"), ("b", "1", "train"), ("c", "1.0", "test")])
    with pytest.raises(UserError, match=r"all\.jsonl:3: label '1\.0' is the number '1' of train; write them alike"):
        split(path)


def test_a_json_column_of_numbers_and_truth_values_is_an_error(tmp_path: Path):
    path = write(tmp_path / "all.jsonl", [("a", 1, "train"), ("b", 1.0, "train"), ("c", True, "train")])
    with pytest.raises(UserError, match="are the same number"):
        split(path)


def test_a_label_that_only_looks_like_a_number_is_a_name():
    assert names_of("--1", "2") == ("--1", "2")


def test_labels_are_numbered_by_sorted_name(tmp_path: Path):
    rows = [("a", "2", "train"), ("b", "10", "train"), ("c", "10", "dev"), ("d", "2", "test")]
    splits = split(write(tmp_path / "all.jsonl", rows))
    assert splits.train.class_names == ("2", "10")
    assert [part.labels.tolist() for part in splits] == [[0, 1], [1], [0]]


def test_five_classes_are_kept_apart(tmp_path: Path):
    splits = split(write(tmp_path / "all.jsonl", numbered(e=10, d=20, c=10, b=10, a=10)))
    assert splits.train.class_names == ("a", "b", "c", "d", "e")
    assert by_class(splits.test) == {"a": 2, "b": 2, "c": 2, "d": 4, "e": 2}
    assert all(set(part.labels.tolist()) == {0, 1, 2, 3, 4} for part in splits)


def test_a_single_class_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(UserError, match="all labels are 'pos'; a classifier needs at least two"):
        split(write(tmp_path / "all.jsonl", numbered(pos=10)))


@pytest.mark.parametrize("part", ["test", "valid"])
def test_a_label_that_is_not_in_train_is_an_error_with_its_row(tmp_path: Path, part: str):
    path = write(tmp_path / "all.jsonl", [("a", "pos", "train"), ("b", "neg", "train"), ("c", "mixed", part)])
    with pytest.raises(UserError, match=r"all\.jsonl:3: label 'mixed' does not occur in train \(neg, pos\)"):
        split(path)


# Settings


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["valid_fraction", "test_fraction"])
def test_a_fraction_outside_0_and_1_is_an_error(name: str, fraction: float):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must be strictly between 0 and 1 .got {fraction}"):
        DataConfig(**{name: fraction})


@pytest.mark.parametrize("options", [{"delimiter": ";;"}, {"delimiter": '"'}, {"delimiter": ""}, {"encoding": "utf-9"}])
def test_an_unknown_format_is_an_error_before_data_are_read(options: dict[str, str]):
    with pytest.raises(UserError, match="--delimiter must be one character|--encoding utf-9: not an encoding"):
        DataConfig(data="nowhere", **options)


def test_the_format_options_apply_to_all_files(tmp_path: Path):
    for name, rows in (("train", "pos\tsch\xf6n\nneg\tschlecht\n" * 4), ("test", "pos\tgro\xdf\n")):
        (tmp_path / f"{name}.data").write_bytes(rows.encode("latin-1"))
    options = {"no_header": True, "delimiter": "tab", "encoding": "latin-1", "text_column": "2", "label_column": "1"}
    splits = split(str(tmp_path / "train.data"), test_data=str(tmp_path / "test.data"), **options)
    assert splits.test.texts == ["gro\xdf"]
    assert set(splits.train.texts) == {"sch\xf6n", "schlecht"}


@pytest.mark.parametrize("fraction", [(0.0, 1.0), (1.0, 1.5), (float("nan"), 1.0)])
def test_a_subset_outside_0_and_1_is_an_error_with_both_values(fraction: tuple[float, float]):
    with pytest.raises(UserError, match=rf"--subset must be .* \(got {fraction[0]} {fraction[1]}\)"):
        DataConfig(subset=fraction)


# Datasets


DATASET = Dataset(["good", "bad"], np.array([1, 0]), ("neg", "pos"), ["a:1", "a:2"])


def test_a_subset_of_a_dataset_has_the_order_of_its_indices():
    part = DATASET.subset(np.array([1, 0]))
    assert (part.texts, part.labels.tolist(), part.ids) == (["bad", "good"], [0, 1], ["a:2", "a:1"])
    assert part.class_names == DATASET.class_names


def test_the_fingerprint_does_not_depend_on_the_ids():
    elsewhere = Dataset(DATASET.texts, DATASET.labels, DATASET.class_names, ["b:7", "b:8"])
    assert elsewhere.fingerprint() == DATASET.fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        Dataset(["good", "bad!"], DATASET.labels, DATASET.class_names, DATASET.ids),
        Dataset(["goodb", "ad"], DATASET.labels, DATASET.class_names, DATASET.ids),
        Dataset(["bad", "good"], DATASET.labels, DATASET.class_names, DATASET.ids),
        Dataset(DATASET.texts, np.array([0, 1]), DATASET.class_names, DATASET.ids),
        Dataset(DATASET.texts, DATASET.labels, ("bad", "good"), DATASET.ids),
    ],
    ids=["a text", "the border of texts", "the order", "labels", "names"],
)
def test_the_fingerprint_depends_on_all_of_the_data(other: Dataset):
    assert other.fingerprint() != DATASET.fingerprint()


def test_a_lone_surrogate_from_json_has_a_fingerprint(tmp_path: Path):
    path = tmp_path / "all.jsonl"
    rows = [("a", "pos", "train"), ("b", "neg", "train"), ("c", "pos", "dev"), ("\ud83d", "neg", "test")]
    splits = split(write(path, rows))
    assert splits.test.texts == ["\ufffd"]
    assert len(splits.test.fingerprint()) == 64


def test_the_splits_are_described_in_one_line():
    assert describe_splits(Splits(DATASET, DATASET, DATASET)) == "train 2, valid 2, test 2; classes neg, pos"


def test_of_many_classes_the_first_are_named_and_all_are_counted():
    many = replace(DATASET, class_names=tuple(f"c{c}" for c in range(77)))
    assert describe_splits(Splits(many, many, many)).endswith(
        "; classes c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, … (77 in all)"
    )


def test_tags_stay_with_their_texts_in_splits_and_subsets():
    splits = load_dataset(DataConfig(subset=(0.5, 0.5)), seed=0)
    tag_of = {row.text: row.tag for row in read_rows("sample")}
    for part in splits:
        assert list(part.tags) == [tag_of[text] for text in part.texts]
