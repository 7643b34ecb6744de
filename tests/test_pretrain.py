"""Pretraining, run whole on a small text: what it leaves, how it goes on, what it refuses."""

import json
import sys
from pathlib import Path

import pytest
import torch

from minitext import loop
from minitext.__main__ import main
from minitext.pretrained import load_classifier, load_hub_tokenizer

FILES = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "settings.json",
         "journal.jsonl", "curves.png"}  # fmt: skip
SENTENCES = ["the film was good and the cast was good", "the film was bad and the cast was bad"] * 60


@pytest.fixture
def pretrain(tmp_path, monkeypatch):
    """Run `minitext pretrain` in this process; returns its exit status and the folder."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES))

    def run(*arguments: str, out: str = "bert", data: Path = texts) -> tuple[int, Path]:
        small = ["--width", "16", "--layers", "1", "--heads", "2", "--vocabulary", "100", "--positions", "32"]
        monkeypatch.setattr(sys, "argv", ["minitext", "pretrain", "--data", str(data), "--out", str(tmp_path / out),
                                          "--max-length", "16", "--epochs", "2", "--batch", "8", "--lr", "0.01",
                                          "--held-out", "0.1", "--quiet", *small, *arguments])  # fmt: skip
        return main(), tmp_path / out

    return run


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    """The sentences have few letters and words: as many pieces as they allow are enough here."""
    monkeypatch.setattr("minitext.pretrain.train_tokenizer", lambda texts, size: train(texts, size))


def train(texts, size):
    from minitext.tokens import train_tokenizer

    tokenizer = train_tokenizer(texts, size)
    tokenizer.add_tokens([f"unused{number}" for number in range(size - tokenizer.get_vocab_size())])
    return tokenizer


def checks(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [row["valid"] for row in rows if "valid" in row]


def test_the_held_out_loss_falls_and_the_folder_can_be_fine_tuned(pretrain):
    status, folder = pretrain("--epochs", "6")
    assert status == 0 and {path.name for path in folder.iterdir()} == FILES
    first, last = checks(folder)[0], checks(folder)[-1]
    assert last["loss"] < first["loss"] and last["perplexity"] == pytest.approx(torch.tensor(last["loss"]).exp().item())
    _, lines = load_classifier(folder, ["neg", "pos"])
    assert "newly drawn: dense.weight, dense.bias, output.weight, output.bias" in lines


@pytest.mark.oracle
def test_transformers_opens_the_folder_and_gives_the_same_logits(pretrain):
    transformers = pytest.importorskip("transformers")
    from minitext.pretrain import going_on

    _, folder = pretrain()
    ours, _, _ = going_on(str(folder))
    ids = torch.tensor([load_hub_tokenizer(folder).encode("the film was good").ids])
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        # float32, other order of sums
        assert torch.allclose(ours.eval()(ids, mask, mask), theirs(ids).logits[0], atol=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_bytes(pretrain, monkeypatch):
    _, whole = pretrain("--check-every", "3")
    real, steps = loop.train_step, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)
    assert pretrain("--check-every", "3", out="stopped")[0] == 130
    monkeypatch.setattr(loop, "train_step", real)
    status, resumed = pretrain("--check-every", "3", "--resume", out="stopped")
    assert status == 0
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (resumed / "journal.jsonl").read_bytes() == (whole / "journal.jsonl").read_bytes()


def test_going_on_from_a_checkpoint_starts_where_that_one_ended(pretrain):
    _, first = pretrain("--epochs", "6")
    _, second = pretrain("--model", str(first), out="further")
    assert checks(second)[0]["loss"] < checks(first)[0]["loss"]


def test_bad_input_is_one_line_with_status_2(pretrain, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    tiny = tmp_path / "tiny.txt"
    tiny.write_text("one line")
    cases = [
        (("--max-length", "33"), {}, "32 positions"),
        (("--held-out", "1"), {}, "--held-out"),
        (("--width", "17"), {}, "attention heads"),
        (("--model", str(tmp_path / "nowhere" / "at" / "all")), {}, "neither a folder nor a Hub id"),
        (("--overwrite",), {"out": "other"}, "exists"),
        ((), {"data": empty}, ""),
        ((), {"data": tiny}, "too few"),
    ]
    for arguments, places, remedy in cases:
        assert pretrain(*arguments, **places)[0] == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and remedy in lines[0], (arguments, lines)
    assert (other / "letter.txt").read_text() == "mine"


def test_a_vocabulary_that_the_texts_do_not_allow_is_refused(pretrain, monkeypatch, capsys):
    from minitext.tokens import train_tokenizer

    monkeypatch.setattr("minitext.pretrain.train_tokenizer", train_tokenizer)
    assert pretrain("--vocabulary", "5000")[0] == 2
    assert "ask for fewer" in capsys.readouterr().err
