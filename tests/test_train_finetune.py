"""Tests of train_finetune.py on a tiny checkpoint: files, predictions, options, resuming, errors."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors

import train_finetune
from minitext.data.tokenizer import train_tokenizer
from minitext.evaluation.predictor import Predictor
from minitext.models.bert import BertClassifier, BertConfig, BertEncoder
from minitext.models.hf_checkpoint import save_model
from minitext.models.hf_names import write_config
from minitext.reporting import plots
from minitext.training.loop import TrainPlan
from minitext.utils.config import parse
from minitext.utils.errors import UserError, exit_status
from minitext.utils.metrics_log import MetricsLog

TEXTS = [("a good film, warm and funny", "pos"), ("a dull film, slow and bad", "neg"), ("good fun for all", "pos"),
         ("bad, and far too long", "neg"), ("", "neg"), ("good " * 100_000, "pos")] * 8  # fmt: skip
MODEL_FILES = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
RUN_FILES = {"settings.json", "metrics.jsonl", "scores.json", "predictions.csv", "report.md"}
FILES = (
    MODEL_FILES
    | RUN_FILES
    | {
        "curves.png",
        "confusion.png",
        "probabilities.png",
        "reliability.png",
        "mistakes.csv",
        "costs.json",
        "notes.json",
    }
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random encoder of two layers, its tokenizer with BERT's [CLS] and [SEP]."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([text[:100] for text, _ in TEXTS], 200)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    config = BertConfig(tokenizer.get_vocab_size(), 16, 2, 2, 32, 64, dropout=0.0)
    torch.manual_seed(0)
    save_model(BertClassifier(config, 2), tokenizer, folder, write_config(config))
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

    def run(*arguments: str, out: str = "run", model: str | None = None, figures: bool = False) -> tuple[int, Path]:
        folder = tmp_path / out
        with monkeypatch.context() as patch:
            if not figures:  # half of a run's time
                patch.setattr(plots, "draw", lambda folder: None)
            return call(folder, *arguments, model=model), folder

    def call(folder: Path, *arguments: str, model: str | None) -> int:
        command = ["--data", str(data), "--model", model or str(checkpoint), "--max-length", "16", "--epochs", "2",
                   "--batch-size", "8", "--lr", "1e-3", "--out", str(folder), "--quiet", *arguments]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["train_finetune.py", *command])
        return exit_status(train_finetune.main)

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def farthest(a: Path, b: Path) -> float:
    return max(float((tensor - weights(b)[name]).abs().max()) for name, tensor in weights(a).items())


def test_a_run_writes_all_files_and_can_be_loaded(train):
    status, folder = train(figures=True)
    assert status == 0 and {path.name for path in folder.iterdir()} == FILES
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} <= {"neg", "pos"}
    probabilities = Predictor.load(folder).predict_proba(["a good film", ""])
    assert probabilities.shape == (2, 2) and probabilities.sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.oracle
def test_transformers_opens_the_run_and_gives_the_same_calibrated_probabilities(train):
    transformers = pytest.importorskip("transformers")
    _, folder = train()
    texts = ["a good film, warm and funny", "bad"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    theirs = logits.double().softmax(dim=1).numpy()
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert abs(Predictor.load(folder).predict_proba(texts) - theirs).max() < 1e-6  # float32, other order of sums


THREE = ["sea", "sky", "city"]


@pytest.fixture
def topics(tmp_path) -> Path:
    """Three classes that one word each decides, at the start or at the end of a text of up to 49 words."""
    rows = [(f"{word} {'x ' * (i // 3)}{word}", word) for i in range(144) for word in [THREE[i % 3]]]
    with open(tmp_path / "topics.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return tmp_path / "topics.csv"


@pytest.fixture
def topics_checkpoint(tmp_path) -> Path:
    """Names of its classes in another order than the data's; weights large enough that the head tells texts apart."""
    folder = tmp_path / "topics"
    folder.mkdir()
    save_classifier(folder, [*THREE, "x and more"], tuple(THREE))
    return folder


def save_classifier(folder: Path, texts: list[str], names: tuple[str, ...]) -> None:
    tokenizer = train_tokenizer(texts, 200)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    settings = {"dropout": 0.0, "head_dropout": 0.0, "initializer_range": 0.3}
    config = BertConfig(tokenizer.get_vocab_size(), 16, 2, 2, 32, 64, **settings)
    torch.manual_seed(1)  # not the script's own
    save_model(BertClassifier(config, len(names)), tokenizer, folder, write_config(config), names)


def read_predictions(folder: Path, data: Path) -> tuple[list[str], torch.Tensor]:
    """The texts of `predictions.csv`, and their probabilities (N, C)."""
    with open(data, encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name.startswith("p(")]
    lines = [int(row["id"].rpartition(":")[2]) - 2 for row in rows]  # line 1 is the header
    return [texts[line] for line in lines], torch.tensor([[float(row[name]) for name in columns] for row in rows])


CUTS = [("--truncate", "head"), ("--truncate", "tail"), ("--truncate", "head+tail"), ("--windows",)]


@pytest.mark.parametrize("cut", CUTS, ids=" ".join)
def test_written_predictions_are_those_of_the_predictor(train, topics, topics_checkpoint, cut: tuple[str, ...]):
    status, folder = train("--data", str(topics), "--lr", "1e-2", *cut, model=str(topics_checkpoint))
    texts, written = read_predictions(folder, topics)
    assert (status, written.shape) == (0, (len(texts), 3))
    assert any(len(text.split()) > 14 for text in texts)  # the case tells: some are cut
    found = Predictor.load(folder).predict_proba(texts)
    assert abs(found - written.numpy()).max() < 1e-5  # float32, folded temperature


@pytest.mark.oracle
def test_transformers_gives_the_written_probabilities_of_truncated_texts(train, topics, topics_checkpoint):
    transformers = pytest.importorskip("transformers")
    _, folder = train("--data", str(topics), "--lr", "1e-2", "--truncate", "head+tail", model=str(topics_checkpoint))
    texts, written = read_predictions(folder, topics)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "city", 1: "sea", 2: "sky"}
    for text, probabilities in zip(texts, written, strict=True):
        ids = tokenizer(text).input_ids
        if len(ids) > 16:  # 14 of the text's own: a quarter from its start, the rest from its end
            ids = [*ids[:4], *ids[-12:]]
        with torch.no_grad():
            theirs = model(torch.tensor([ids])).logits[0].softmax(dim=0)
        assert (theirs - probabilities).abs().max() < 1e-5  # float32, folded temperature


@pytest.mark.oracle
def test_transformers_gives_the_written_probabilities_of_windows(train, topics, topics_checkpoint):
    transformers = pytest.importorskip("transformers")
    _, folder = train("--data", str(topics), "--lr", "1e-2", "--windows", model=str(topics_checkpoint))
    texts, written = read_predictions(folder, topics)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    how = {"max_length": 16, "truncation": True, "stride": 3, "return_overflowing_tokens": True}  # 14 // 4 tokens
    most = 0
    for text, probabilities in zip(texts, written, strict=True):
        windows = tokenizer(text, **how).input_ids
        with torch.no_grad():
            logits = torch.stack([model(torch.tensor([ids])).logits[0] for ids in windows])
        assert (logits.mean(dim=0).softmax(dim=0) - probabilities).abs().max() < 1e-5  # float32, folded temperature
        most = max(most, len(windows))
    assert most > 2  # the case tells


def test_windows_are_described_in_the_report_and_saved(train, topics, topics_checkpoint):
    _, folder = train("--data", str(topics), "--windows", model=str(topics_checkpoint))
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "training texts are longer than 16 tokens; the longest is 5 windows" in report
    assert json.loads((folder / "config.json").read_text())["minitext"]["windows"] is True
    _, folder = train("--data", str(topics), out="plain", model=str(topics_checkpoint))
    assert "training texts are longer than" not in (folder / "report.md").read_text(encoding="utf-8")
    assert json.loads((folder / "config.json").read_text())["minitext"]["windows"] is False


def test_windows_do_not_change_a_run_of_short_texts(train, topics, topics_checkpoint):
    arguments = ("--data", str(topics), "--max-length", "64")
    _, plain = train(*arguments, model=str(topics_checkpoint))
    _, windows = train(*arguments, "--windows", out="windows", model=str(topics_checkpoint))
    for name in ("model.safetensors", "metrics.jsonl", "predictions.csv"):
        assert (plain / name).read_bytes() == (windows / name).read_bytes(), name


def test_words_at_the_end_of_a_text_are_learned_from_windows_only(train, tmp_path, topics_checkpoint):
    rows = [(f"{'x ' * (14 + i // 3)}{word}", word) for i in range(144) for word in [THREE[i % 3]]]
    with open(tmp_path / "ends.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    arguments = ("--data", str(tmp_path / "ends.csv"), "--lr", "1e-2", "--epochs", "6")
    accuracies = []
    for cut in ((), ("--windows",)):
        _, folder = train(*arguments, *cut, out=f"run{len(cut)}", model=str(topics_checkpoint))
        accuracies.append(json.loads((folder / "scores.json").read_text())["test"]["accuracy"]["value"])
    assert accuracies[0] < 0.6 and accuracies[1] > 0.8, accuracies  # chance is 0.33, of 30 texts


@pytest.mark.parametrize("truncate", ["tail", "head+tail"])
def test_windows_with_truncation_are_refused(train, capsys, truncate: str):
    status, folder = train("--windows", "--truncate", truncate)
    assert (status, folder.exists()) == (2, False)
    line = f"error: --windows keeps all tokens, but --truncate {truncate} drops some; choose one\n"
    assert capsys.readouterr().err == line


def test_three_classes_are_learned(train, topics, topics_checkpoint):
    _, folder = train("--data", str(topics), "--lr", "1e-2", "--epochs", "4", model=str(topics_checkpoint))
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["test"]["accuracy"]["value"] > 0.8  # one word decides; chance is 0.33, of 30 texts


STILL = ("--lr", "1e-30")  # moves a zero to 1e-29, other weights not at all


def test_the_head_of_a_checkpoint_is_kept_in_the_order_of_the_classes(train, topics, topics_checkpoint):
    _, folder = train("--data", str(topics), *STILL, model=str(topics_checkpoint))
    before, after = weights(topics_checkpoint), weights(folder)
    order = [THREE.index(name) for name in sorted(THREE)]
    assert order != [0, 1, 2]  # the case tells
    for name in before:
        if name.startswith("classifier."):  # the temperature is folded into it: rows are proportional
            expected = before[name][order] * (after[name].norm() / before[name].norm().clamp_min(1e-30))
        else:
            expected = before[name]
        assert (after[name] - expected).abs().max() < 1e-6, name  # float32; rows differ by about 0.3


def test_a_head_for_other_classes_is_newly_initialized(train, checkpoint, tmp_path):
    (tmp_path / "other").mkdir()
    save_classifier(tmp_path / "other", [text[:100] for text, _ in TEXTS], ("happy", "sad"))
    _, folder = train(*STILL, model=str(tmp_path / "other"))
    before, after = weights(tmp_path / "other"), weights(folder)
    moved = {name for name in before if (before[name] - after[name]).abs().max() > 1e-25}
    assert moved == {"classifier.weight"}  # new, and its bias is zero in both


def test_bfloat16_keeps_float32_weights_and_gives_similar_predictions(train, topics, topics_checkpoint):
    arguments = ("--data", str(topics), "--lr", "1e-3")
    _, whole = train(*arguments, model=str(topics_checkpoint))
    _, half = train(*arguments, "--precision", "bf16", out="half", model=str(topics_checkpoint))
    assert {tensor.dtype for tensor in weights(half).values()} == {torch.float32}
    difference = (read_predictions(whole, topics)[1] - read_predictions(half, topics)[1]).abs().max()
    assert 0 < difference < 0.1  # bfloat16 has 8 bits; wrong predictions would differ by up to 1


def test_layer_lr_decay_scales_the_first_update_of_each_layer(train, topics, topics_checkpoint):
    arguments = ("--data", str(topics), "--epochs", "1", "--batch-size", "200", "--warmup", "0", "--weight-decay", "0")
    _, folder = train(*arguments, "--layer-lr-decay", "0.5", model=str(topics_checkpoint))
    moved = {name: tensor - weights(topics_checkpoint)[name] for name, tensor in weights(folder).items()}
    names = ["bert.pooler.dense", "bert.encoder.layer.1.output.dense", "bert.encoder.layer.0.output.dense",
             "bert.embeddings.word_embeddings"]  # fmt: skip
    found = [moved[f"{name}.weight"].abs().max().item() for name in names]
    # Adam's first step is the rate, 1e-3, in the gradient's direction; weights near 0.3 in float32
    assert found == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4], rel=1e-3)


@pytest.mark.parametrize("cut", [(), ("--windows",)], ids=["truncated", "windows"])
def test_micro_batches_and_gradient_checkpointing_give_the_same_weights(train, topics, cut: tuple[str, ...]):
    data = ("--data", str(topics), *cut)
    _, whole = train(*data, "--micro-batch-size", "8")
    _, pieces = train(*data, "--micro-batch-size", "3", "--gradient-checkpointing", out="pieces")
    assert farthest(whole, pieces) < 1e-4  # Adam divides by small moments, which magnifies the rounding of sums


def test_frozen_layers_do_not_change(train, checkpoint):
    _, folder = train("--freeze-layers", "1")
    before, after = weights(checkpoint), weights(folder)
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert {name for name in after if "embeddings" in name or "layer.0." in name} == same


def test_a_reinitialized_layer_does_not_have_the_weights_of_the_checkpoint(train, checkpoint):
    _, folder = train("--reinit-layers", "1", "--freeze-layers", "2")  # re-initialized, then frozen
    before, after = weights(checkpoint), weights(folder)
    name = "bert.encoder.layer.{}.intermediate.dense.weight"
    assert torch.equal(before[name.format(0)], after[name.format(0)])
    assert not torch.equal(before[name.format(1)], after[name.format(1)])


@pytest.mark.parametrize("option", [("--layer-lr-decay", "0.5"), ("--truncate", "head+tail"), ("--precision", "bf16")])
@pytest.mark.slow
def test_an_option_has_an_effect(train, option):
    _, plain = train()
    status, folder = train(*option, out="other")
    assert status == 0 and farthest(plain, folder) > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(train):
    _, one = train()
    _, other = train(out="other")
    assert farthest(one, other) == 0


@pytest.mark.parametrize("cut", [(), ("--windows", "--max-tokens-per-batch", "200")], ids=["truncated", "windows"])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(train, topics, monkeypatch, cut: tuple[str, ...]):
    arguments = ("--data", str(topics), "--dropout", "0.2", "--eval-every", "2", "--save-every", "0", *cut)
    _, whole = train(*arguments)
    real, steps = train_finetune.loop.train_step, []

    def interrupted(*arguments, **settings):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(train_finetune.loop, "train_step", interrupted)
    assert train(*arguments, out="stopped")[0] == 130
    monkeypatch.setattr(train_finetune.loop, "train_step", real)
    status, resumed = train(*arguments, "--resume", out="stopped")
    assert status == 0 and (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def damage(checkpoint: Path, folder: Path, **changes: object) -> str:
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_bad_input_gives_one_line_and_status_2(train, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cut = damage(checkpoint, tmp_path / "cut")
    (Path(cut) / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    cases = [
        (("--model", cut), "corrupt"),
        (("--model", damage(checkpoint, tmp_path / "gpt2", model_type="gpt2")), "supported: bert, roberta"),
        (("--model", damage(checkpoint, tmp_path / "small", vocab_size=10)), "expected"),
        (("--model", str(tmp_path / "reviews.csv")), "has no config.json"),
        (("--max-length", "65"), "64 positions"),
        (("--freeze-layers", "99"), "2 layers"),
        (("--layer-lr-decay", "0"), "--layer-lr-decay"),
        (("--dropout", "1"), "--dropout"),
    ]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when it was imported
    large = damage(checkpoint, tmp_path / "large")
    train_tokenizer(["of many other words than those of the reviews, each letter: bcdfghjklmnpqrstuvwxyz"], 500).save(
        str(tmp_path / "large" / "tokenizer.json")
    )
    bare = damage(checkpoint, tmp_path / "bare")
    train_tokenizer([text[:100] for text, _ in TEXTS], 200).save(str(tmp_path / "bare" / "tokenizer.json"))
    cases += [
        (("--model", large), "has a tokenizer of"),
        (("--model", bare), "no token before and after a text"),
        (("--model", "nobody/no-such-model"), "in the Hub's cache"),
        (("--model", str(tmp_path / "nowhere")), "neither a file, a folder nor a Hub id"),
        (("--model", str(tmp_path)), "has no config.json"),
        (("--reinit-layers", "3"), "2 layers"),
        (("--warmup", "1000"), "--warmup 1000"),
    ]
    for arguments, remedy in cases:
        assert train(*arguments)[0] == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and remedy in lines[0], (arguments, lines)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.partial").exists()


def test_without_a_maximum_length_it_is_the_models(data, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "draw", lambda folder: None)
    arguments = ["--data", str(data), "--model", str(checkpoint), "--epochs", "1", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["train_finetune.py", *arguments, "--device", "cpu"])
    assert exit_status(train_finetune.main) == 0
    line = "maximum length: 64 tokens per text: the model has no more positions"
    assert line in capsys.readouterr().out.splitlines()
    assert "64 tokens per text" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["minitext"]["max_length"] == 64


@pytest.mark.parametrize(("given", "positions", "expected"), [(None, 512, 256), (None, 256, 256), (None, 64, 64),
                                                              (512, 512, 512), (16, 64, 16), (None, 4, 4)])  # fmt: skip
def test_the_maximum_length_is_256_or_what_the_model_has(given: int | None, positions: int, expected: int):
    notes = train_finetune.Notes(quiet=True)
    config = train_finetune.fill_max_length(train_finetune.ModelConfig(max_length=given), positions, notes)
    assert config.max_length == expected
    assert bool(notes) == (given is None and positions < 256)


@pytest.mark.parametrize(("given", "positions"), [(65, 64), (256, 255), (None, 3), (None, 1)])
def test_more_tokens_than_positions_are_refused(given: int | None, positions: int):
    with pytest.raises(UserError, match=rf"sample has {positions} positions; lower --max-length"):
        notes = train_finetune.Notes(quiet=True)
        train_finetune.fill_max_length(train_finetune.ModelConfig(max_length=given), positions, notes)


def test_many_unknown_tokens_are_a_warning_in_output_and_report(train, tmp_path, capsys):
    chinese = tmp_path / "chinese.csv"
    rows = [f"\u8fd9\u90e8\u7535\u5f71 good {number},{'pos' if number % 2 else 'neg'}" for number in range(40)]
    chinese.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    status, folder = train("--data", str(chinese))
    assert status == 0
    assert "of the training tokens are [UNK]" in (folder / "report.md").read_text(encoding="utf-8")
    status, folder = train(out="english")
    assert status == 0
    assert "[UNK]" not in (folder / "report.md").read_text(encoding="utf-8")


def test_a_finished_run_is_replaced_only_with_overwrite(train, capsys):
    train()
    assert train()[0] == 2 and "--overwrite" in capsys.readouterr().err
    assert train("--overwrite")[0] == 0


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(train, data, checkpoint, tmp_path):
    _, alone = train()
    settings = json.loads((alone / "settings.json").read_text())["command"].split()[1:]
    command = [argument.replace(str(alone), str(tmp_path / "two")) for argument in settings]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train_finetune.py",
         *command], cwd=Path(train_finetune.__file__).parent, timeout=240, check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "two").iterdir()} == FILES
    one, two = weights(alone), weights(tmp_path / "two")
    for (
        name
    ) in one:  # the order of sums; the temperature, here below 1, is divided out of the last layer and magnifies it
        tolerance = 1e-5 if name.startswith("classifier.") else 1e-6
        assert (one[name] - two[name]).abs().max() < tolerance, name
    updates = [row["update"] for row in MetricsLog(tmp_path / "two" / "metrics.jsonl").rows()]
    assert sorted(set(updates)) == list(range(1, max(updates) + 1))


def script(folder: Path, data: Path, checkpoint: Path, *more: str) -> list[str]:
    """The command of a run in a process of its own, with dropout and many evaluations."""
    settings = "--max-length 16 --batch-size 4 --lr 1e-3 --dropout 0.2 --eval-every 3 --epochs 20 --device cpu --quiet"
    places = ["--data", str(data), "--model", str(checkpoint), "--out", str(folder)]
    return [sys.executable, "train_finetune.py", *places, *settings.split(), "--save-every", "0.01", *more]


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_same_bytes(data, checkpoint, tmp_path):
    place = {"cwd": Path(train_finetune.__file__).parent, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    subprocess.run(script(tmp_path / "whole", data, checkpoint), check=True, timeout=120, **place)
    process = subprocess.Popen(script(tmp_path / "killed", data, checkpoint), **place)
    metrics = tmp_path / "killed.partial" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 40:
        time.sleep(0.002)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    subprocess.run(script(tmp_path / "killed", data, checkpoint, "--resume"), check=True, timeout=120, **place)
    for name in ("model.safetensors", "metrics.jsonl", "predictions.csv", "scores.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses_and_few_graphs(train, topics, topics_checkpoint):
    """Texts of many lengths: compiling for each length would take minutes."""
    if not shutil.which("g++"):
        pytest.skip("torch.compile on the CPU needs g++")
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    arguments = ("--data", str(topics), "--max-length", "40")
    _, plain = train(*arguments, model=str(topics_checkpoint))
    status, compiled = train(*arguments, "--compile", out="compiled", model=str(topics_checkpoint))
    assert status == 0
    # fused kernels sum in another order; Adam magnifies that, predictions hardly
    assert (read_predictions(plain, topics)[1] - read_predictions(compiled, topics)[1]).abs().max() < 1e-3
    rows = [MetricsLog(run / "metrics.jsonl").rows() for run in (plain, compiled)]
    losses = [[row["loss"] for row in part if "lr" in row] for part in rows]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    # on a CPU, attention divides each graph in two; see tests/models/test_compiled_layers.py
    assert counters["stats"]["unique_graphs"] <= 40, counters["stats"]


@pytest.mark.parametrize(
    ("options", "device", "updates", "compiled"),
    [
        ([], "cuda", train_finetune.MIN_COMPILED_UPDATES, True),
        ([], "cuda", train_finetune.MIN_COMPILED_UPDATES - 1, False),
        ([], "cpu", 10**9, False),
        (["--compile"], "cpu", 1, True),
        (["--no-compile"], "cuda", 10**9, False),
    ],
)
def test_long_runs_on_cuda_are_compiled_unless_told_otherwise(
    monkeypatch, options: list[str], device: str, updates: int, compiled: bool
):
    calls = []
    monkeypatch.setattr(BertEncoder, "compile_layers", lambda encoder: calls.append(encoder))
    choice = parse(train_finetune.Config, None, arguments=options).model.compile
    model = BertClassifier(BertConfig(9, hidden_size=4, num_layers=1, num_heads=1, intermediate_size=4), 2)
    plan = TrainPlan(range(updates), range(updates), 0)
    train_finetune.compile_if_long(model, choice, torch.device(device), plan)
    assert calls == [model.encoder] * compiled


@pytest.mark.parametrize(("hidden_size", "lr"), [(768, 3e-5), (192, 2.4e-4), (3072, 3.75e-6)])
def test_narrower_encoders_have_a_higher_default_learning_rate(hidden_size: int, lr: float):
    config = train_finetune.fill_defaults(train_finetune.TrainConfig(), hidden_size, 100.0, torch.device("cpu"))
    assert config.lr == pytest.approx(lr)


@pytest.mark.parametrize(("mean_length", "texts"), [(4000.0, 1), (256.0, 8), (200.0, 10), (20.0, 16)])
def test_on_a_cpu_a_forward_pass_has_about_two_thousand_tokens(mean_length: float, texts: int):
    settings = train_finetune.TrainConfig(batch_size=16)
    assert train_finetune.fill_defaults(settings, 192, mean_length, torch.device("cpu")).micro_batch_size == texts
    assert train_finetune.fill_defaults(settings, 192, mean_length, torch.device("cuda")).micro_batch_size is None


@pytest.mark.slow
def test_the_defaults_are_the_bundled_sample_and_the_bundled_bert(tmp_path, monkeypatch, capsys):
    arguments = ["--epochs", "1", "--max-length", "16", "--out", str(tmp_path / "run"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train_finetune.py", *arguments])
    assert exit_status(train_finetune.main) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "using the bundled sample; for real data: --data imdb --model google-bert/bert-base-uncased"
    assert any(line.startswith("data: sample; train 1,000, valid 100, test 500") for line in lines)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["loop"]["lr"] is None  # by the encoder's width


@pytest.mark.slow
def test_each_seed_has_a_run_and_their_mean_is_written(train):
    status, folder = train("--num-seeds", "2", "--quiet")
    assert status == 0
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", "seed0", "seed1", "seeds.json"]
    values = json.loads((folder / "seeds.json").read_text())["test"]["accuracy"]["values"]
    assert values == [
        json.loads((folder / f"seed{seed}" / "scores.json").read_text())["test"]["accuracy"]["value"] for seed in (0, 1)
    ]


def test_a_run_is_uploaded_after_the_other_processes_have_left(train, monkeypatch):
    """They would wait for a slow upload, and end in an error after a time."""
    calls = []
    for name in ("open_repository", "destroy", "push"):
        monkeypatch.setattr(train_finetune, name, lambda *arguments, name=name: calls.append((name, arguments)))
    status, folder = train("--push-to-hub", "user/name")
    assert status == 0
    assert [name for name, _ in calls] == ["open_repository", "destroy", "push"]
    assert calls[-1][1] == (folder, "user/name")


def test_several_seeds_cannot_be_uploaded(train, capsys):
    status, folder = train("--num-seeds", "2", "--push-to-hub", "user/name")
    assert (status, folder.exists()) == (2, False)
    assert "--push-to-hub uploads one run, but --num-seeds makes several" in capsys.readouterr().err


def test_an_upload_that_fails_costs_no_run(train, monkeypatch, capsys):
    def fail(*_):
        raise UserError("user/name: request to the Hub failed (503)")

    monkeypatch.setattr(train_finetune, "open_repository", lambda repository: None)
    monkeypatch.setattr(train_finetune, "push", fail)
    status, folder = train("--push-to-hub", "user/name")
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 1
    assert line.startswith("error: the upload failed (user/name: request to the Hub failed (503)); ")
    assert line.endswith(f"repeat it with: hf upload user/name {folder}")
    assert Predictor.load(folder).class_names == ("neg", "pos")


def test_a_finished_run_is_not_trained_again_with_resume(train, capsys):
    _, folder = train()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train("--resume") == (0, folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    status, _ = train("--resume", "--lr", "0.5")
    assert status == 2
    assert "other settings (loop.lr: 0.001 → 0.5)" in capsys.readouterr().err
