"""Proves that pairs are counted as the paper says, that one update is the paper's, that training learns which words are
alike, and that a run that died ends with the bytes of one that did not.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from minitext.data.word_vectors import load_word_vectors
from minitext.data.words import word_ids
from minitext.pretraining import glove as glove_train
from minitext.pretraining.cooccurrence import Pairs, count_pairs
from minitext.pretraining.glove import State, TrainOptions, frequent_words, initial_state, train_vectors
from minitext.utils.errors import UserError

NAMES = ["a", "b", "c", "d"]


def count(texts: list[str], window: int) -> dict[str, float]:
    """The co-occurrence matrix as {"ab": X[a, b]}."""
    pairs = count_pairs(*word_ids(texts, {name: i for i, name in enumerate(NAMES)}), len(NAMES), window)
    return {NAMES[i] + NAMES[j]: count for i, j, count in zip(*(part.tolist() for part in pairs), strict=True)}


def zoo(path: Path) -> Path:
    """400 short texts: cat and dog share all their neighbours, car and bus share others."""
    generator = np.random.default_rng(0)
    kinds = [("cat dog", "purrs eats sleeps plays"), ("car bus", "drives wheels road engine")]
    lines = []
    for number in range(400):
        subjects, neighbours = kinds[number % 2]
        lines.append(f"{generator.choice(subjects.split())} {' '.join(generator.permutation(neighbours.split()))}")
    path.write_text("\n".join(lines) + "\n")
    return path


def options(tmp_path: Path, **changes) -> TrainOptions:
    settings = {
        "data": (str(zoo(tmp_path / "zoo.txt")),),
        "out": str(tmp_path / "vectors.txt"),
        "width": 8,
        "epochs": 6,
        "batch_size": 16,
        "seed": 3,
        "quiet": True,
    }
    return TrainOptions(**settings | changes)


# Counting


def test_pairs_count_one_over_their_distance_in_both_directions_and_within_a_text():
    counts = count(["a b c a", "b d"], window=2)
    assert counts == {
        "ab": 1.5, "ba": 1.5,  # a b at 1, b . a at 2
        "ac": 1.5, "ca": 1.5,  # a . c at 2, c a at 1
        "bc": 1.0, "cb": 1.0,
        "bd": 1.0, "db": 1.0,  # the second text; nothing joins it to the first
    }  # fmt: skip


def test_a_word_beside_itself_counts_in_both_directions():
    assert count(["a a"], window=5) == {"aa": 2.0}


def test_unknown_words_are_taken_out_before_distances_are_measured():
    assert count(["a unheard b"], window=1) == count(["a b"], window=1)


def test_pairs_lie_by_row_then_column():
    pairs = count_pairs(*word_ids(["d c b a d b"], {name: i for i, name in enumerate(NAMES)}), 4, 3)
    keys = pairs.rows * 4 + pairs.columns
    assert (keys.diff() > 0).all()


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_counting_in_chunks_equals_counting_at_once(chunk):
    generator = np.random.default_rng(1)
    ids = generator.integers(-1, 30, 500).astype(np.int32)
    offsets = np.array([0, 0, 3, 4, 200, 201, 500])
    whole, parts = (count_pairs(ids, offsets, 30, 6, chunk=size) for size in (1 << 20, chunk))
    assert torch.equal(whole.rows, parts.rows) and torch.equal(whole.columns, parts.columns)
    torch.testing.assert_close(parts.counts, whole.counts, rtol=1e-6, atol=0)


def test_words_come_by_frequency_then_by_first_appearance():
    texts = ["It's late. Late, late!", "so it goes; so it went", "one"]
    assert frequent_words(texts, min_count=2, most=10) == ["late", "so", "it"]
    assert frequent_words(texts, min_count=1, most=4) == ["late", "so", "it", "its"]


# Training


def test_one_update_equals_the_papers_formula_computed_by_hand():
    w, b, c, d, x, lr = 0.3, 0.1, -0.2, 0.4, 20.0, 0.05
    table = torch.tensor([[0.0, 0, 1], [w, b, 1]], dtype=torch.float64)
    context = torch.tensor([[c, 1, d], [0.0, 1, 0]], dtype=torch.float64)
    state = State(table, context, torch.ones_like(table), torch.ones_like(context))
    batch = Pairs(torch.tensor([1]), torch.tensor([0]), torch.tensor([x], dtype=torch.float64))

    loss = glove_train.train_step(state, batch, lr, x_max=100, alpha=0.75)

    weight = (x / 100) ** 0.75
    error = w * c + b + d - math.log(x)
    step = [lr * weight * error * factor for factor in (c, 1, w)]  # for w, either bias, and the context's vector
    after = [start - size / math.sqrt(1 + size**2) for start, size in zip((w, b, c), step, strict=True)]
    context_bias = d - step[1] / math.sqrt(1 + step[1] ** 2)
    assert loss == pytest.approx(weight * error**2, rel=1e-12)
    assert state.word[1].tolist() == pytest.approx([after[0], after[1], 1], rel=1e-12)
    assert state.context[0].tolist() == pytest.approx([after[2], 1, context_bias], rel=1e-12)
    assert state.word_squares[1, :2].tolist() == pytest.approx([1 + step[0] ** 2, 1 + step[1] ** 2], rel=1e-12)
    assert state.word[0].tolist() == [0, 0, 1] and state.context[1].tolist() == [0, 1, 0]  # others stay


def test_a_word_twice_in_a_batch_steps_by_the_sum_and_adds_both_squares():
    state = State(*(part.double() for part in initial_state(3, 2, seed=0)))
    rows, columns, counts = torch.tensor([0, 0, 2]), torch.tensor([2, 1, 1]), torch.tensor([4.0, 150, 2]).double()
    word, context = state.word.clone().requires_grad_(), state.context.clone().requires_grad_()
    weights = (counts / 100).clamp(max=1) ** 0.75
    losses = 0.5 * weights * ((word[rows] * context[columns]).sum(dim=1) - counts.log()) ** 2
    gradients = torch.stack([torch.autograd.grad(loss, word, retain_graph=True)[0] for loss in losses]) * 0.05
    expected_sums = 1 + gradients.square().sum(dim=0)
    expected = word.detach() - gradients.sum(dim=0) / expected_sums.sqrt()

    glove_train.train_step(state, Pairs(rows, columns, counts), 0.05, 100, 0.75)

    torch.testing.assert_close(state.word[:, :3], expected[:, :3], rtol=1e-12, atol=0)
    torch.testing.assert_close(state.word_squares[:, :3], expected_sums[:, :3], rtol=1e-12, atol=0)


def test_the_columns_that_carry_the_biases_stay_one(tmp_path, monkeypatch):
    states = []
    fit = glove_train.fit
    monkeypatch.setattr(glove_train, "fit", lambda *given: states.append(fit(*given)) or states[-1])
    train_vectors(options(tmp_path))
    assert (states[0].word[:, -1] == 1).all() and (states[0].context[:, -2] == 1).all()


def test_the_loss_falls(tmp_path, capsys):
    train_vectors(options(tmp_path, quiet=False))
    losses = [float(loss) for loss in re.findall(r"^epoch \d: loss ([\d.]+)", capsys.readouterr().out, re.MULTILINE)]
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]


def test_words_with_the_same_neighbours_are_nearest(tmp_path):
    vectors = train_vectors(options(tmp_path, epochs=40))
    for word, twin in (("cat", "dog"), ("bus", "car")):
        similarity = dict(vectors.nearest(word, k=11))
        strangers = ("car", "bus") if word == "cat" else ("cat", "dog")
        assert similarity[twin] > 0.8 and similarity[twin] > max(similarity[stranger] for stranger in strangers) + 0.3


def test_the_written_file_holds_the_returned_vectors_by_frequency(tmp_path):
    vectors = train_vectors(options(tmp_path, out=str(tmp_path / "vectors.txt.gz"), digits=9))
    read = load_word_vectors(tmp_path / "vectors.txt.gz")
    assert read.words == vectors.words and len(read.words) == 12
    assert set(read.words[:8]) == {"purrs", "eats", "sleeps", "plays", "drives", "wheels", "road", "engine"}
    assert torch.equal(read.table, vectors.table)


# One seed, one result


def test_one_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    contents = []
    for seed in (3, 3, 4):
        train_vectors(options(tmp_path, seed=seed))
        contents.append((tmp_path / "vectors.txt").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def die_in_third_epoch(monkeypatch) -> None:
    train_step, calls = glove_train.train_step, []

    def step(*given):
        calls.append(given)
        if len(calls) == 10:  # the zoo's 56 pairs are four batches
            raise KeyboardInterrupt
        return train_step(*given)

    monkeypatch.setattr(glove_train, "train_step", step)


def test_a_run_that_died_ends_with_the_bytes_of_one_that_did_not(tmp_path, monkeypatch):
    train_vectors(options(tmp_path))
    whole = (tmp_path / "vectors.txt").read_bytes()
    (tmp_path / "vectors.txt").unlink()
    with monkeypatch.context() as patch:
        die_in_third_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            train_vectors(options(tmp_path))
    assert (tmp_path / "vectors.txt.checkpoint").exists() and not (tmp_path / "vectors.txt").exists()

    epochs = []
    train_epoch = glove_train.train_epoch
    monkeypatch.setattr(glove_train, "train_epoch", lambda *given: epochs.append(given[3]) or train_epoch(*given))
    train_vectors(options(tmp_path, resume=True))
    assert (tmp_path / "vectors.txt").read_bytes() == whole
    assert epochs == [3, 4, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors.txt", "zoo.txt"]


def test_resuming_with_other_settings_or_a_damaged_checkpoint_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        die_in_third_epoch(patch)
        with pytest.raises(KeyboardInterrupt):
            train_vectors(options(tmp_path))
    with pytest.raises(UserError, match="other texts or settings"):
        train_vectors(options(tmp_path, resume=True, lr=0.01))
    (tmp_path / "vectors.txt.checkpoint").write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged"):
        train_vectors(options(tmp_path, resume=True))


# Texts and settings


def test_only_the_train_part_of_labelled_texts_is_read(tmp_path):
    table = tmp_path / "reviews.csv"
    table.write_text("text,label,split\nfine,1,train\nheld out,1,test\nput aside,0,valid\npoor,0,train\n")
    assert glove_train.read_texts(str(table)) == ["fine", "poor"]


def test_an_unlabelled_file_has_a_text_a_line(tmp_path):
    (tmp_path / "texts.txt").write_text("one text\nanother\n", encoding="utf-8")
    assert glove_train.read_texts(str(tmp_path / "texts.txt")) == ["one text", "another"]


@pytest.mark.parametrize(
    "changes",
    [
        {"out": "vectors.bin"},
        {"width": 0},
        {"epochs": 0},
        {"lr": -0.1},
        {"lr": math.nan},
        {"batch_size": 0},
        {"seed": -1},
    ],
)
def test_an_impossible_setting_is_refused_by_name(changes):
    with pytest.raises(UserError, match=f"--{next(iter(changes))}"):
        TrainOptions(**changes)


def test_texts_too_poor_for_vectors_are_refused(tmp_path):
    (tmp_path / "texts.txt").write_text("lonely\nwords\n")
    with pytest.raises(UserError, match="no two words"):
        train_vectors(options(tmp_path, data=(str(tmp_path / "texts.txt"),), min_count=1))
    (tmp_path / "texts.txt").write_text("")
    with pytest.raises(UserError, match="0 texts"):
        train_vectors(options(tmp_path, data=(str(tmp_path / "texts.txt"),)))
    with pytest.raises(UserError, match="there is no such file"):
        train_vectors(options(tmp_path, data=(str(tmp_path / "missing.txt"),)))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(UserError, match="lower --lr"):
        train_vectors(options(tmp_path, lr=1e38))
