"""The benchmark of the defaults: its baselines, its table, and the scripts on a small file."""

import numpy as np
import pytest
from defaults import (
    Result,
    format_table,
    parse_arguments,
    run_baseline,
    run_models,
    run_script,
    tune_fasttext,
    tune_tfidf,
)

from minitext.data.dataset import DataConfig, Splits, load_dataset
from minitext.evaluation.intervals import proportion

TOPICS = ("the sea is wide", "the sky is clear", "the city is loud")


@pytest.fixture
def topics(tmp_path) -> str:
    """A file of three classes, each with words of its own; no two texts are the same."""
    rows = [f"{TOPICS[i % 3]}{' x' * (i // 3)},{i % 3}" for i in range(90)]
    path = tmp_path / "topics.csv"
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(path)


@pytest.fixture
def splits(topics) -> Splits:
    return load_dataset(DataConfig(data=topics), seed=0)


@pytest.mark.parametrize("tune", [tune_tfidf, pytest.param(tune_fasttext, marks=pytest.mark.slow)])
def test_a_baseline_gives_probabilities_in_the_order_of_the_classes(splits, tune):
    if tune is tune_fasttext:
        pytest.importorskip("fasttext")
    predict, _ = tune(splits.train, splits.valid)
    probabilities = predict([*TOPICS, ""])
    assert probabilities.shape == (4, 3)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)  # fastText prints few digits
    assert probabilities[:3].argmax(axis=1).tolist() == [0, 1, 2]


def test_validation_scores_need_no_test_texts(splits):
    result = run_baseline(tune_tfidf, splits._replace(test=None), "valid")
    assert (result.accuracy["value"], result.count) == (1, len(splits.valid))


def result_of(right: int) -> Result:
    score = proportion(right, 100)
    return Result(score, score, 100, 2.0)


def test_one_seed_has_an_interval_and_several_a_deviation():
    one, two = {"scratch": result_of(80)}, {"scratch": result_of(90)}
    header, _, row = format_table([one], "valid").split("\n")
    assert header == "| model | accuracy on valid (100 texts) | F1 (macro) | seconds |"
    assert row == "| scratch | 80.0 % [71.1, 86.7] | 80.0 % [71.1, 86.7] | 2 |"
    assert format_table([one, two], "test").endswith("| scratch | 85.0 % (7.1) | 85.0 % (7.1) | 2 |")


@pytest.mark.slow
def test_tracks_and_baselines_are_scored_on_the_same_part(topics, splits):
    arguments = parse_arguments([topics, "--only", "static", "tfidf", "--part", "valid"])
    results = run_models(arguments, topics, seed=0)
    assert list(results) == ["static, logistic", "static, mlp", "tf-idf bigrams + logistic regression, tuned"]
    assert {result.count for result in results.values()} == {len(splits.valid)}


@pytest.mark.slow
def test_a_script_with_other_splits_is_an_error(topics, splits):
    with pytest.raises(AssertionError, match="static has other splits"):
        run_script("static", ["--data", topics, "--seed", "1"], splits, "test")
