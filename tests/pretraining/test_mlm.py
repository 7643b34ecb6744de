"""Pretraining: whole runs on small texts, resuming, checkpoints, evaluation, and settings that are refused."""

import json
import math
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from minitext.data.duplicates import words_digest
from minitext.data.word_vectors import WordVectors
from minitext.models.bert import BertConfig
from minitext.models.hf_checkpoint import load_classifier
from minitext.models.hf_names import FAMILIES, hub_names
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.pretraining import mlm
from minitext.pretraining.init import build_new, load_existing
from minitext.pretraining.masking import MLMCollator, make_collator
from minitext.pretraining.mlm import EVAL_EPOCH, evaluate_mlm, split_texts
from minitext.training import loop
from minitext.training.distributed import SINGLE, Distributed
from minitext.utils.config import parse
from minitext.utils.errors import UserError, exit_status

FILES = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "settings.json",
         "metrics.jsonl"}  # fmt: skip
SMALL = ("--hidden-size", "16", "--num-layers", "1", "--num-heads", "2", "--vocab-size", "300", "--max-positions", "32",
         "--max-length", "16", "--epochs", "2", "--batch-size", "4", "--lr", "0.003", "--held-out", "0.2",
         "--device", "cpu", "--quiet")  # fmt: skip


def pretrain(data: Path | str, out: Path | str, *arguments: str) -> int:
    """`minitext pretrain`, without figures; returns the exit status."""
    given = ["--data", str(data), "--out", str(out), *SMALL, *arguments]
    return exit_status(lambda: mlm.pretrain(parse(mlm.Config, None, arguments=given)))


@pytest.fixture
def data(texts, tmp_path) -> Path:
    return write_lines(tmp_path / "texts.txt", texts)


def write_lines(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory) -> Path:
    """A checkpoint of sixteen epochs, which tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    assert pretrain(write_lines(folder / "texts.txt", texts), folder / "bert", "--epochs", "16") == 0
    return folder / "bert"


def evaluations(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["valid"] for row in rows if "valid" in row]


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int, how: str) -> None:
    """Ctrl-C during that update, or the end of the process before it."""
    real, calls = loop.train_step, []

    def step(*arguments, **settings):
        calls.append(0)
        if len(calls) == update and how == "killed":
            raise KeyboardInterrupt
        if len(calls) == update:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **settings)

    monkeypatch.setattr(loop, "train_step", step)


# A finished run


def test_a_finished_run_is_one_complete_folder(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert not finished.with_name("bert.partial").exists()


def test_figures_are_drawn_before_the_folder_is_complete(data, tmp_path):
    def draw(folder: Path) -> None:
        assert evaluations(folder) and not (tmp_path / "bert").exists()
        (folder / "curves.png").write_bytes(b"drawn")

    config = parse(mlm.Config, None, arguments=["--data", str(data), "--out", str(tmp_path / "bert"), *SMALL])
    assert mlm.pretrain(config, draw) == tmp_path / "bert"
    assert (tmp_path / "bert" / "curves.png").read_bytes() == b"drawn"


def test_the_config_describes_the_checkpoint(finished):
    config = json.loads((finished / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForMaskedLM"])
    shape = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 32, "hidden_dropout_prob": 0.1}  # fmt: skip
    assert shape.items() <= config.items()
    updates = [row for row in (finished / "metrics.jsonl").read_text().splitlines() if '"lr"' in row]
    assert config["minitext"] == {"track": "pretrain", "updates": len(updates)}


def test_the_held_out_loss_falls_well_below_chance(finished):
    losses = [row["loss"] for row in evaluations(finished)]
    assert losses[-1] < losses[0] - 0.1 and losses[-1] < math.log(300) - 2
    assert len(losses) == 16


def test_perplexity_is_the_exponential_of_the_loss(finished):
    for row in evaluations(finished):
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-12)  # float64
        assert 0 <= row["accuracy"] <= 1


def test_the_saved_weights_are_those_of_the_best_evaluation(data, texts, tmp_path):
    assert pretrain(data, tmp_path / "bert", "--epochs", "3", "--lr", "0.2", "--eval-every", "2") == 0
    losses = [row["loss"] for row in evaluations(tmp_path / "bert")]
    assert min(losses) < losses[-1]
    model, tokenizer, _ = load_existing(str(tmp_path / "bert"), 0.0)
    _, held_out = split_texts(texts, 0.2, seed=0)
    scores = evaluate_mlm(model, make_collator(tokenizer, held_out, 16, seed=0), 64, torch.float32)
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-5)  # float32; batches of 64 instead of 4


def test_float16_weights_take_half_the_space_and_load_as_usual(data, tmp_path):
    sizes = []
    for name, arguments in (("whole", ()), ("half", ("--save-fp16",))):
        assert pretrain(data, tmp_path / name, "--epochs", "1", *arguments) == 0
        sizes.append(sum(tensor.nbytes for tensor in load_file(tmp_path / name / "model.safetensors").values()))
    assert sizes[0] == 2 * sizes[1]
    whole, half = (load_existing(str(tmp_path / name), 0.0)[0].state_dict() for name in ("whole", "half"))
    assert all(torch.equal(whole[name].half().float(), half[name]) for name in whole)


def test_the_cls_objective_changes_training_but_not_evaluation(data, tmp_path):
    for name, arguments in (("cls", ("--cls-objective",)), ("plain", ())):
        assert pretrain(data, tmp_path / name, "--epochs", "1", *arguments) == 0
    found = [json.loads((tmp_path / name / "settings.json").read_text())["data_found"] for name in ("cls", "plain")]
    assert found[0] == found[1]
    losses = [evaluations(tmp_path / name)[0]["loss"] for name in ("cls", "plain")]
    assert 0 < abs(losses[0] - losses[1]) < 0.2


# The checkpoint in other programs


@pytest.mark.oracle
def test_transformers_opens_the_folder_and_gives_the_same_logits(finished, words):
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(finished, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished)
    assert (tokenizer.mask_token, tokenizer.pad_token, tokenizer.model_max_length) == ("[MASK]", "[PAD]", 32)
    texts = [" ".join(words[:5]), f"{words[9]} [MASK] {words[11]}, unheard-of!"]
    own, expected_ids = load_hub_tokenizer(finished), [tokenizer(text).input_ids for text in texts]
    assert [own.encode(text).ids for text in texts] == expected_ids
    ours, _, _ = load_existing(str(finished), 0.0)
    collator = MLMCollator(make_collator(own, texts, 32, 0).data, 0, 4, (0, 1, 2, 3, 4), 300)
    batch = collator(np.arange(len(collator.data.offsets) - 1))
    with torch.no_grad():
        expected = theirs.eval()(**padded(batch)).logits[rows_of(batch), batch.positions]
        logits = ours.eval()(batch._replace(masked=torch.arange(len(batch.ids))))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # float32, other order of sums


@pytest.mark.oracle
def test_loss_and_gradients_equal_those_of_transformers(finished, texts):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(finished).eval()
    ours, tokenizer, _ = load_existing(str(finished), 0.0)
    collator = make_collator(tokenizer, texts[:10], 16, seed=0, cls_objective=True)
    batch = collator(np.arange(len(collator.data.offsets) - 1))
    labels = torch.full((len(batch.lengths), 16), -100)
    labels[rows_of(batch)[batch.masked], batch.positions[batch.masked]] = batch.labels
    expected = theirs(**padded(batch), labels=labels).loss
    loss = F.cross_entropy(ours.train()(batch), batch.labels)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)  # float32
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        names = hub_names(name, FAMILIES["bert"], masked_lm=True)
        for their_name, part in zip(names, parameter.grad.chunk(len(names)), strict=True):
            torch.testing.assert_close(part, their_gradients[their_name], rtol=1e-4, atol=1e-6, msg=their_name)


def rows_of(batch) -> Tensor:
    """(N,) the text of each token."""
    return torch.arange(len(batch.lengths)).repeat_interleave(torch.tensor(batch.lengths))


def padded(batch) -> dict[str, Tensor]:
    """The same batch as padded ids (B, T) with a mask."""
    ids = torch.zeros(len(batch.lengths), max(batch.lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    ids[rows_of(batch), batch.positions] = batch.ids.long()
    mask[rows_of(batch), batch.positions] = 1
    return {"input_ids": ids, "attention_mask": mask}


def test_a_classifier_loads_the_whole_encoder(finished):
    model, _ = load_classifier(finished, ["neg", "pos"])
    masked, _, _ = load_existing(str(finished), 0.0)
    for name, tensor in masked.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name


# Resuming


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path, monkeypatch, capsys, how):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = ("--eval-every", "3", "--save-every", "0", "--dropout", "0.1")
    assert pretrain(data, whole, *arguments) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 5, how)  # within an epoch
        assert pretrain(data, stopped, *arguments) == 130
    assert not stopped.exists() and (tmp_path / "stopped.partial" / "checkpoint.pt").exists()
    assert ("--resume" in capsys.readouterr().err) == (how == "interrupted")
    assert pretrain(data, stopped, *arguments, "--resume") == 0
    for name in ("model.safetensors", "metrics.jsonl", "tokenizer.json", "config.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in stopped.iterdir()} == FILES


def test_resuming_with_other_settings_or_texts_is_refused(data, texts, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 5, "interrupted")
        pretrain(data, tmp_path / "bert")
    capsys.readouterr()
    before = (tmp_path / "bert.partial" / "checkpoint.pt").read_bytes()
    for arguments, changed in [
        (("--lr", "0.02"), "loop.lr: 0.003 → 0.02"),
        (("--max-length", "20"), "pretrain.max_length: 16 → 20"),
        (("--seed", "1"), "run.seed: 0 → 1"),
    ]:
        assert pretrain(data, tmp_path / "bert", "--resume", *arguments) == 2
        assert changed in capsys.readouterr().err
    write_lines(data, texts[::-1])
    assert pretrain(data, tmp_path / "bert", "--resume") == 2
    assert "data_found.train.fingerprint:" in capsys.readouterr().err
    assert (tmp_path / "bert.partial" / "checkpoint.pt").read_bytes() == before


def test_without_resume_an_unfinished_run_starts_again(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 5, "interrupted")
        pretrain(data, tmp_path / "bert", "--lr", "0.02")
    assert pretrain(data, tmp_path / "bert") == 0
    assert pretrain(data, tmp_path / "other", "--resume") == 0  # there is nothing to resume
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "bert" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


# Continuing from a checkpoint


def test_continuing_starts_at_a_lower_loss_than_a_new_model(data, finished, tmp_path):
    for name, arguments in (("further", ("--model", str(finished))), ("new", ())):
        assert pretrain(data, tmp_path / name, "--epochs", "1", *arguments) == 0
    assert evaluations(tmp_path / "further")[0]["loss"] < evaluations(tmp_path / "new")[0]["loss"] - 0.1


def test_continuing_keeps_tokenizer_and_shape(data, finished, tmp_path):
    arguments = ("--model", str(finished), "--epochs", "1", "--hidden-size", "32")
    assert pretrain(data, tmp_path / "further", *arguments) == 0
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (finished, tmp_path / "further"))
    assert before.pop("minitext") != after.pop("minitext") and before == after
    assert load_hub_tokenizer(finished).to_str() == load_hub_tokenizer(tmp_path / "further").to_str()


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_are_means_over_the_masked_tokens(finished, texts, batch_size):
    model, tokenizer, _ = load_existing(str(finished), 0.5)
    collator = make_collator(tokenizer, texts[:20], 16, seed=0)
    batch = collator(np.arange(len(collator.data.offsets) - 1), EVAL_EPOCH)
    with torch.no_grad():
        log_p = model.eval()(batch).log_softmax(dim=1)
    scores = evaluate_mlm(model.train(), collator, batch_size, torch.float32)
    expected = -log_p[range(len(batch.labels)), batch.labels].double().mean().item()
    assert scores["loss"] == pytest.approx(expected, abs=1e-5)  # float32
    assert scores["accuracy"] == (log_p.argmax(dim=1) == batch.labels).double().mean().item()


@dataclass(frozen=True)
class ThreadRank(Distributed):
    """A process of a distributed run, played by a thread."""

    barrier_of_all: Barrier | None = None
    values: list | None = None

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        self.values.append(value)
        self.barrier_of_all.wait()
        return torch.stack(self.values).sum(dim=0)


@pytest.mark.parametrize("num_texts", [20, 1])  # of 1 text, one process has no batch
def test_all_processes_get_the_scores_of_a_single_one(finished, texts, num_texts):
    model, tokenizer, _ = load_existing(str(finished), 0.0)
    collator = make_collator(tokenizer, texts[:num_texts], 32, seed=0)
    barrier_of_all, values = Barrier(2, timeout=20), []

    def evaluate(rank: int) -> dict[str, float]:
        return evaluate_mlm(model, collator, 2, torch.float32, ThreadRank(rank, 2, barrier_of_all, values))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(evaluate, range(2))
    assert first == second
    assert first == pytest.approx(evaluate_mlm(model, collator, 2, torch.float32, SINGLE), rel=1e-5)  # float32
    assert {int(value[2]) > 0 for value in values} == ({True} if num_texts == 20 else {True, False})


def test_a_huge_loss_has_a_finite_perplexity(finished, texts):
    model, tokenizer, _ = load_existing(str(finished), 0.0)
    with torch.no_grad():
        model.bias[0] = 1e4  # predicts a token that is never masked
    scores = evaluate_mlm(model, make_collator(tokenizer, texts[:20], 16, seed=0), 64, torch.float32)
    assert scores["loss"] > 1000 and math.isfinite(scores["perplexity"])


def test_an_untrained_model_predicts_at_chance(texts):
    torch.manual_seed(0)
    model, tokenizer, _ = build_new(BertConfig(300, 16, 1, 2, 64), texts, 0.0)
    scores = evaluate_mlm(model, make_collator(tokenizer, texts, 16, seed=0), 64, torch.float32)
    assert scores["loss"] == pytest.approx(math.log(300), abs=0.1)  # new weights give logits of about 0.02 * 4


# Texts


def test_each_text_is_either_trained_on_or_held_out(texts):
    train, valid = split_texts(texts, 0.2, seed=0)
    assert len(valid) == 24 and sorted(train + valid) == sorted(texts)
    assert split_texts(texts, 0.2, seed=0) == (train, valid) != split_texts(texts, 0.2, seed=1)
    train, valid = split_texts(texts, 0.999, seed=0)
    assert len(train) == 1


def test_no_words_are_both_trained_on_and_held_out(texts):
    repeated = [*texts, *(text.upper() + "!" for text in texts[:60])]
    train, valid = split_texts(repeated, 0.2, seed=0)
    assert len(valid) == 36 and not {words_digest(text) for text in train} & {words_digest(text) for text in valid}
    with pytest.raises(UserError, match="every text has the same words as one that is held out"):
        split_texts(["the same"] * 40, 0.2, seed=0)


@pytest.mark.parametrize("few", [[], ["one short line"], [" ", "\t", *["word"] * 19]])
def test_too_few_texts_are_refused(few):
    with pytest.raises(
        UserError, match=f"--data has {len(few) and len(few) - few.count(' ') - few.count(chr(9))} texts"
    ):
        split_texts(few, 0.2, seed=0)


def test_the_masking_rate_of_training_does_not_change_the_evaluation(data, tmp_path):
    found = {}
    for rate in ("0.15", "0.5"):
        assert pretrain(data, tmp_path / rate, "--epochs", "1", "--mask-prob", rate) == 0
        updates = [json.loads(line) for line in (tmp_path / rate / "metrics.jsonl").read_text().splitlines()]
        found[rate] = updates[0]["loss"], evaluations(tmp_path / rate)[0]["loss"]
    assert found["0.15"][0] != found["0.5"][0] and abs(found["0.15"][1] - found["0.5"][1]) < 0.5


def test_texts_without_a_known_character_can_be_pretrained_on(finished, tmp_path):
    data = write_lines(
        tmp_path / "unknown.txt", [" ".join(["語"] * count) for count in range(1, 31)]
    )  # [UNK], which is special
    assert pretrain(data, tmp_path / "bert", "--model", str(finished), "--epochs", "1") == 0


@pytest.mark.slow
def test_pretraining_on_the_bundled_sample(tmp_path):
    assert pretrain("sample", tmp_path / "bert", "--max-length", "32", "--epochs", "1", "--vocab-size", "500") == 0
    assert evaluations(tmp_path / "bert")[-1]["loss"] < math.log(500)


# Settings that are refused


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--vocab-size", "5000"), "word pieces; lower it"),
        (("--max-length", "33"), "--max-length 33: the encoder has 32 positions; lower it"),
        (("--held-out", "0"), "--held-out must be strictly between 0 and 1 (got 0.0)"),
        (("--held-out", "1"), "--held-out must be strictly between 0 and 1 (got 1.0)"),
        (("--held-out", "nan"), "--held-out must be strictly between 0 and 1 (got nan)"),
        (("--dropout", "1"), "--dropout must be in [0, 1) (got 1.0)"),
        (("--hidden-size", "17"), "hidden_size 17 is not divisible by 2 heads"),
        (("--vocab-size", "99"), "--vocab-size must be at least 100 (got 99)"),
        (("--max-length", "7"), "--max-length must be at least 8 (got 7)"),
        (("--num-layers", "0"), "--num-layers must be at least 1 (got 0)"),
        (("--num-heads", "0"), "--num-heads must be at least 1 (got 0)"),
        (("--vectors", "sample"), "--vectors has dimension 100 but the encoder expects 16"),
        (("--vectors", "sample", "--model", "x"), "--vectors sample initializes a new encoder"),
        (("--warmup", "5000"), "--warmup 5000"),
        (("--model", "no/such/model"), "no/such/model"),
        (("--data", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(data, tmp_path, capsys, arguments, message):
    assert pretrain(data, tmp_path / "bert", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "bert").exists() and not (tmp_path / "bert.partial").exists()


def test_a_length_beyond_the_positions_of_a_checkpoint_is_refused(data, finished, tmp_path, capsys):
    arguments = (
        "--model",
        str(finished),
        "--max-length",
        "33",
        "--max-positions",
        "64",
    )  # the latter: of a new encoder
    assert pretrain(data, tmp_path / "bert", *arguments) == 2
    assert "--max-length 33: the encoder has 32 positions" in capsys.readouterr().err


def test_pretraining_from_word_vectors(data, words, tmp_path):
    WordVectors(words, torch.randn(len(words), 16)).write(tmp_path / "vectors.txt")
    assert pretrain(data, tmp_path / "bert", "--vectors", str(tmp_path / "vectors.txt")) == 0


# --out


def test_a_finished_run_is_kept_without_overwrite_and_replaced_with_it(data, tmp_path, capsys):
    out = tmp_path / "bert"
    assert pretrain(data, out) == 0
    before = (out / "model.safetensors").read_bytes()
    assert pretrain(data, out, "--seed", "1") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before
    (out / "note.txt").write_text("old")
    assert pretrain(data, out, "--seed", "1", "--overwrite") == 0
    assert (out / "model.safetensors").read_bytes() != before
    assert {path.name for path in out.iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"bert", "texts.txt"}


@pytest.mark.parametrize("names", [("letter.txt",), ("config.json", "model.safetensors"),
                                   ("metrics.jsonl", "scores.json"), ()])  # fmt: skip
def test_a_folder_that_is_not_a_pretrained_checkpoint_is_never_replaced(data, tmp_path, capsys, names):
    out = tmp_path / "other"
    out.mkdir()
    for name in names:
        (out / name).write_text("other")
    assert pretrain(data, out, "--overwrite") == 2
    assert "pass another --out" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "other")


def test_an_interrupted_replacement_keeps_the_old_checkpoint(data, tmp_path, monkeypatch):
    assert pretrain(data, tmp_path / "bert") == 0
    before = (tmp_path / "bert" / "model.safetensors").read_bytes()
    stop_at(monkeypatch, 5, "interrupted")
    assert pretrain(data, tmp_path / "bert", "--overwrite") == 130
    assert (tmp_path / "bert" / "model.safetensors").read_bytes() == before
