"""GloVe training follows the paper's equations, and similar words get similar vectors."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from minitext.data.corpus import CorpusConfig
from minitext.data.word_vectors import WordVectors, load_word_vectors
from minitext.pretraining import glove
from minitext.pretraining.cooccurrence import Pairs
from minitext.pretraining.glove import GloveConfig, State, frequent_words, initial_state, train_vectors
from minitext.utils.errors import UserError
from minitext.utils.io import lock_output


def zoo(path: Path) -> Path:
    """Write 400 short texts: cat and dog occur in the same contexts, car and bus in others."""
    generator = np.random.default_rng(0)
    kinds = [("cat dog", "purrs eats sleeps plays"), ("car bus", "drives wheels road engine")]
    lines = []
    for number in range(400):
        subjects, neighbours = kinds[number % 2]
        lines.append(f"{generator.choice(subjects.split())} {' '.join(generator.permutation(neighbours.split()))}")
    path.write_text("\n".join(lines) + "\n")
    return path


def train(tmp_path: Path, data: Path | None = None, **changes) -> WordVectors:
    """Vectors of the zoo, or of the texts in `data`."""
    source = str(data or zoo(tmp_path / "zoo.txt"))
    return train_vectors(config(tmp_path, **changes), CorpusConfig(data=(source,)))


def config(tmp_path: Path, **changes) -> GloveConfig:
    settings = {
        "out": str(tmp_path / "vectors.txt"),
        "embedding_dim": 8,
        "epochs": 6,
        "batch_size": 16,
        "seed": 3,
        "quiet": True,
    }
    return GloveConfig(**settings | changes)


# Words


def test_the_vocabulary_is_sorted_by_frequency_then_first_appearance():
    texts = ["It's late. Late, late!", "so it goes; so it went", "one"]
    assert frequent_words(texts, min_count=2, vocab_size=10) == ["late", "so", "it"]
    assert frequent_words(texts, min_count=1, vocab_size=4) == ["late", "so", "it", "its"]


# Training


def test_one_update_equals_the_formulas_of_the_paper():
    w, b, c, d, x, lr = 0.3, 0.1, -0.2, 0.4, 20.0, 0.05
    table = torch.tensor([[0.0, 0, 1], [w, b, 1]], dtype=torch.float64)
    context = torch.tensor([[c, 1, d], [0.0, 1, 0]], dtype=torch.float64)
    state = State(table, context, torch.ones_like(table), torch.ones_like(context))
    batch = Pairs(torch.tensor([1]), torch.tensor([0]), torch.tensor([x], dtype=torch.float64))

    loss = glove.train_step(state, batch, lr, x_max=100, alpha=0.75)

    weight = (x / 100) ** 0.75
    error = w * c + b + d - math.log(x)
    step = [lr * weight * error * factor for factor in (c, 1, w)]  # for w, either bias, and the context's vector
    after = [start - size / math.sqrt(1 + size**2) for start, size in zip((w, b, c), step, strict=True)]
    context_bias = d - step[1] / math.sqrt(1 + step[1] ** 2)
    assert loss == pytest.approx(weight * error**2, rel=1e-12)
    assert state.word[1].tolist() == pytest.approx([after[0], after[1], 1], rel=1e-12)
    assert state.context[0].tolist() == pytest.approx([after[2], 1, context_bias], rel=1e-12)
    assert state.word_squares[1, :2].tolist() == pytest.approx([1 + step[0] ** 2, 1 + step[1] ** 2], rel=1e-12)
    assert state.word[0].tolist() == [0, 0, 1] and state.context[1].tolist() == [0, 1, 0]  # other rows are unchanged


def test_a_repeated_word_steps_by_the_sum_of_gradients_and_adds_all_squares():
    state = State(*(part.double() for part in initial_state(3, 2, torch.Generator().manual_seed(0))))
    rows, columns, counts = torch.tensor([0, 0, 2]), torch.tensor([2, 1, 1]), torch.tensor([4.0, 150, 2]).double()
    word, context = state.word.clone().requires_grad_(), state.context.clone().requires_grad_()
    weights = (counts / 100).clamp(max=1) ** 0.75
    losses = 0.5 * weights * ((word[rows] * context[columns]).sum(dim=1) - counts.log()) ** 2
    gradients = torch.stack([torch.autograd.grad(loss, word, retain_graph=True)[0] for loss in losses]) * 0.05
    expected_sums = 1 + gradients.square().sum(dim=0)
    expected = word.detach() - gradients.sum(dim=0) / expected_sums.sqrt()

    glove.train_step(state, Pairs(rows, columns, counts), 0.05, 100, 0.75)

    torch.testing.assert_close(state.word[:, :3], expected[:, :3], rtol=1e-12, atol=0)
    torch.testing.assert_close(state.word_squares[:, :3], expected_sums[:, :3], rtol=1e-12, atol=0)


def test_the_constant_columns_stay_one(tmp_path, monkeypatch):
    states = []
    fit = glove.fit
    monkeypatch.setattr(glove, "fit", lambda *given: states.append(fit(*given)) or states[-1])
    train(tmp_path)
    assert (states[0].word[:, -1] == 1).all() and (states[0].context[:, -2] == 1).all()


def test_the_loss_falls(tmp_path, capsys):
    train(tmp_path, quiet=False)
    losses = [float(loss) for loss in re.findall(r"^epoch \d: loss ([\d.]+)", capsys.readouterr().out, re.MULTILINE)]
    assert len(losses) == 6 and losses[-1] < 0.5 * losses[0]


def test_words_with_the_same_contexts_are_nearest(tmp_path):
    vectors = train(tmp_path, epochs=40)
    for word, similar in (("cat", "dog"), ("bus", "car")):
        similarity = dict(vectors.nearest(word, k=11))
        others = ("car", "bus") if word == "cat" else ("cat", "dog")
        assert similarity[similar] > 0.8 and similarity[similar] > max(similarity[other] for other in others) + 0.3


def test_the_written_file_has_the_returned_vectors_by_frequency(tmp_path):
    vectors = train(tmp_path, out=str(tmp_path / "vectors.txt.gz"), digits=9)
    read = load_word_vectors(tmp_path / "vectors.txt.gz")
    assert read.words == vectors.words and len(read.words) == 12
    assert set(read.words[:8]) == {"purrs", "eats", "sleeps", "plays", "drives", "wheels", "road", "engine"}
    assert torch.equal(read.table, vectors.table)


# Seed


def test_the_file_is_a_function_of_the_seed(tmp_path):
    contents = []
    for seed in (3, 3, 4):
        train(tmp_path, seed=seed, overwrite=True)
        contents.append((tmp_path / "vectors.txt").read_bytes())
    assert contents[0] == contents[1] != contents[2]


# Texts and settings


@pytest.mark.parametrize(
    "changes",
    [
        {"out": "vectors.bin"},
        {"embedding_dim": 0},
        {"epochs": 0},
        {"lr": -0.1},
        {"lr": math.nan},
        {"lr": math.inf},
        {"seed": -1},
        {"seed": 2**64},
        {"batch_size": 0},
    ],
)
def test_an_impossible_setting_is_rejected_by_name(changes):
    with pytest.raises(UserError, match=f"--{next(iter(changes)).replace('_', '-')} must"):
        GloveConfig(**changes)


def test_an_existing_file_is_replaced_with_overwrite_only(tmp_path):
    (tmp_path / "vectors.txt").write_text("precious")
    with pytest.raises(UserError, match="--out .*vectors.txt: already exists; pass another file, or --overwrite"):
        config(tmp_path)
    config(tmp_path, overwrite=True)


def test_a_file_that_appears_during_the_training_is_not_replaced(tmp_path, monkeypatch):
    def appear(*arguments: object) -> list[str]:
        (tmp_path / "vectors.txt").write_text("precious")
        return frequent_words(*arguments)

    monkeypatch.setattr(glove, "frequent_words", appear)
    with pytest.raises(UserError, match="already exists"):
        train(tmp_path)
    assert (tmp_path / "vectors.txt").read_text() == "precious"


@pytest.mark.parametrize("out", ["zoo.txt", "folder/../zoo.txt", "texts/pos/a.txt"])
def test_an_input_is_never_replaced(tmp_path, out: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "texts" / "pos").mkdir(parents=True)
    (tmp_path / "texts" / "pos" / "a.txt").write_text("precious")
    data = CorpusConfig(data=(str(zoo(tmp_path / "zoo.txt")), str(tmp_path / "texts")))
    with pytest.raises(UserError, match="is the input, or a file of it; pass another file"):
        train_vectors(config(tmp_path, out=str(tmp_path / out), overwrite=True), data)


def test_a_second_training_of_the_same_file_is_refused(tmp_path):
    with lock_output(tmp_path / "vectors.txt"), pytest.raises(UserError, match="another process is writing it"):
        train(tmp_path)


def test_texts_without_cooccurring_words_are_rejected(tmp_path):
    (tmp_path / "texts.txt").write_text("lonely\nwords\n")
    with pytest.raises(UserError, match="no two words"):
        train(tmp_path, tmp_path / "texts.txt", min_count=1)
    (tmp_path / "texts.txt").write_text("")
    with pytest.raises(UserError, match="0 texts"):
        train(tmp_path, tmp_path / "texts.txt")
    with pytest.raises(UserError, match="missing.txt: no such file"):
        train(tmp_path, tmp_path / "missing.txt")


def test_an_infinite_loss_stops_training(tmp_path):
    with pytest.raises(UserError, match="lower --lr"):
        train(tmp_path, lr=1e38)
