"""The fine-tune script, run whole on a tiny checkpoint: what it leaves, how it goes on, what it refuses."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors

import train_finetune
from minitext.bert import BertConfig, Classifier
from minitext.errors import exit_status
from minitext.families import write_config
from minitext.predict import load_run
from minitext.pretrained import save_model
from minitext.tokens import train_tokenizer

TEXTS = [("a good film, warm and funny", "pos"), ("a dull film, slow and bad", "neg"), ("good fun for all", "pos"),
         ("bad, and far too long", "neg"), ("", "neg"), ("good " * 100_000, "pos")] * 8  # fmt: skip
MODEL_FILES = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
RUN_FILES = {"settings.json", "journal.jsonl", "scores.json", "predictions.csv", "report.md"}
FILES = MODEL_FILES | RUN_FILES | {"curves.png", "confusion.png", "probabilities.png"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random encoder of two layers, its tokenizer with BERT's [CLS] and [SEP]."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([text[:100] for text, _ in TEXTS], 200)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    config = BertConfig(tokenizer.get_vocab_size(), width=16, layers=2, heads=2, inner=32, positions=64, dropout=0.0)
    torch.manual_seed(0)
    save_model(Classifier(config, 2), tokenizer, folder, write_config(config))
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "reviews.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((f"{text} {number}" if text else "", label) for number, (text, label) in enumerate(TEXTS))
    return path


@pytest.fixture
def train(tmp_path, data, checkpoint, monkeypatch):
    """Run the script in this process; returns its exit status and the run's folder."""

    def run(*arguments: str, out: str = "run", model: str | None = None) -> tuple[int, Path]:
        folder = tmp_path / out
        command = ["--data", str(data), "--model", model or str(checkpoint), "--max-length", "16", "--epochs", "2",
                   "--batch", "8", "--lr", "1e-3", "--out", str(folder), "--quiet", *arguments]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["train_finetune.py", *command])
        return exit_status(train_finetune.main), folder

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def farthest(a: Path, b: Path) -> float:
    return max(float((tensor - weights(b)[name]).abs().max()) for name, tensor in weights(a).items())


def test_a_run_leaves_a_whole_folder_that_predicts_what_it_says(train):
    status, folder = train()
    assert status == 0 and {path.name for path in folder.iterdir()} == FILES
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} <= {"neg", "pos"}
    probabilities = load_run(folder).predict(["a good film", ""])
    assert probabilities.shape == (2, 2) and torch.allclose(probabilities.sum(dim=1), torch.ones(2))


@pytest.mark.oracle
def test_transformers_opens_the_run_and_gives_the_same_probabilities(train):
    transformers = pytest.importorskip("transformers")
    _, folder = train()
    texts = ["a good film, warm and funny", "bad"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(dim=1)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    # float32, other order of sums
    assert torch.allclose(load_run(folder).predict(texts), theirs, atol=1e-6)


def test_micro_batches_and_gradient_checkpointing_change_nothing_but_rounding(train):
    _, whole = train("--micro-batch", "8")
    _, pieces = train("--micro-batch", "3", "--gradient-checkpointing", out="pieces")
    assert farthest(whole, pieces) < 1e-4  # Adam divides by small moments, which magnifies the rounding of sums


def test_frozen_layers_stay_as_they_were(train, checkpoint):
    _, folder = train("--freeze", "1")
    before, after = weights(checkpoint), weights(folder)
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert {name for name in after if "embeddings" in name or "layer.0." in name} == same


def test_a_layer_that_is_drawn_anew_does_not_start_from_the_checkpoint(train, checkpoint):
    _, folder = train("--reinit", "1", "--freeze", "2")  # drawn anew, and then frozen: what it was drawn as
    before, after = weights(checkpoint), weights(folder)
    name = "bert.encoder.layer.{}.intermediate.dense.weight"
    assert torch.equal(before[name.format(0)], after[name.format(0)])
    assert not torch.equal(before[name.format(1)], after[name.format(1)])


@pytest.mark.parametrize("option", [("--layer-decay", "0.5"), ("--truncate", "head+tail"), ("--precision", "bf16")])
def test_an_option_has_an_effect(train, option):
    _, plain = train()
    status, folder = train(*option, out="other")
    assert status == 0 and farthest(plain, folder) > 0


def test_the_same_seed_gives_the_same_weights(train):
    _, one = train()
    _, other = train(out="other")
    assert farthest(one, other) == 0


def test_an_interrupted_run_goes_on_to_the_same_weights(train, monkeypatch):
    _, whole = train("--check-every", "2")
    real, steps = train_finetune.loop.train_step, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(train_finetune.loop, "train_step", interrupted)
    assert train("--check-every", "2", out="stopped")[0] == 130
    monkeypatch.setattr(train_finetune.loop, "train_step", real)
    status, resumed = train("--check-every", "2", "--resume", out="stopped")
    assert status == 0 and (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def damage(checkpoint: Path, folder: Path, **changes: object) -> str:
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_bad_input_is_one_line_with_status_2(train, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cut = damage(checkpoint, tmp_path / "cut")
    (Path(cut) / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    cases = [
        (("--model", cut), "damaged"),
        (("--model", damage(checkpoint, tmp_path / "gpt2", model_type="gpt2")), "served are bert, roberta"),
        (("--model", damage(checkpoint, tmp_path / "small", vocab_size=10)), "expected"),
        (("--model", str(tmp_path / "reviews.csv")), "a file; give the folder"),
        (("--max-length", "65"), "64 tokens"),
        (("--freeze", "99"), "2 layers"),
        (("--layer-decay", "0"), "--layer-decay"),
        (("--dropout", "1"), "--dropout"),
    ]
    for arguments, remedy in cases:
        assert train(*arguments)[0] == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and remedy in lines[0], (arguments, lines)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_replaced_unasked(train, capsys):
    train()
    assert train()[0] == 2 and "--overwrite" in capsys.readouterr().err
    assert train("--overwrite")[0] == 0


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(train, data, checkpoint, tmp_path):
    _, alone = train()
    settings = json.loads((alone / "settings.json").read_text())["command"].split()[1:]
    command = [argument.replace(str(alone), str(tmp_path / "team")) for argument in settings]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train_finetune.py",
         *command], cwd=Path(train_finetune.__file__).parent, check=True, timeout=240, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "team").iterdir()} == FILES
    assert farthest(alone, tmp_path / "team") < 1e-6  # the order of sums
    updates = [json.loads(line).get("update") for line in open(tmp_path / "team" / "journal.jsonl")]  # noqa: SIM115
    assert sorted(set(updates)) == list(range(1, max(updates) + 1))
