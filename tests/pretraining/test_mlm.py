"""Pretraining, run whole on small texts: what it leaves, how it goes on after an interruption and from a checkpoint,
and what it refuses.
"""

import dataclasses
import json
import math
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from minitext.cli import main
from minitext.data.tokenizer import TokenizedTexts, special_ids
from minitext.data.word_vectors import WordVectors
from minitext.models.bert import BertConfig, BertMaskedLM
from minitext.models.hf_checkpoint import load_classifier, load_hub_tokenizer
from minitext.pretraining.mlm import (
    EVAL_EPOCH,
    PretrainConfig,
    TrainConfig,
    build_new,
    encode_untruncated,
    evaluate_mlm,
    load_existing,
    make_collator,
)
from minitext.pretraining.starts import init_output_bias, init_positions, start_from
from minitext.training import loop
from minitext.utils.errors import UserError

FILES = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "settings.json",
         "journal.jsonl", "curves.png"}  # fmt: skip
SMALL = ("--width", "16", "--layers", "1", "--heads", "2", "--vocab-size", "300", "--positions", "32",
         "--max-length", "16", "--epochs", "2", "--batch-size", "4", "--lr", "0.003", "--valid-fraction", "0.2",
         "--device", "cpu", "--quiet")  # fmt: skip


def made_up_words(count: int) -> list[str]:
    generator = np.random.default_rng(0)
    syllables = ["".join(pair) for pair in zip("bdfgklmnprst" * 5, "aeiou" * 12, strict=True)]
    return sorted({"".join(generator.choice(syllables, size)) for size in generator.integers(2, 4, 2 * count)})[:count]


WORDS = made_up_words(150)


def write_lines(path: Path, count: int = 120, seed: int = 0) -> Path:
    """Texts of eight words. Most are one of three pairs of words said over and over, so that what is hidden can be told
    from what is left; every fourth walks through WORDS, so that all of them occur.
    """
    walks = [[place * 2 + step if place % 4 == 0 else place % 4 * 8 + step % 2 for step in range(8)]
             for place in range(count)]  # fmt: skip
    lines = [" ".join(WORDS[number % len(WORDS)] for number in walk) for walk in walks]
    path.write_text("\n".join(np.random.default_rng(seed).permutation(lines)) + "\n")
    return path


def pretrain(data: Path | str, out: Path | str, *arguments: str) -> int:
    """Run `minitext pretrain` in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["minitext", "pretrain", "--data", str(data), "--out", str(out), *SMALL, *arguments])
        return main()


@pytest.fixture
def lines(tmp_path) -> Path:
    return write_lines(tmp_path / "lines.txt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A checkpoint of sixteen epochs, which tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    assert pretrain(write_lines(folder / "lines.txt"), folder / "bert", "--epochs", "16") == 0
    return folder / "bert"


def checks(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [row["valid"] for row in rows if "valid" in row]


def stop_at(monkeypatch: pytest.MonkeyPatch, update: int, how: str) -> None:
    """Ctrl-C while that update is computed, or the end of the process before it."""
    real, calls = loop.train_step, []

    def step(*arguments):
        calls.append(0)
        if len(calls) == update and how == "killed":
            raise KeyboardInterrupt
        if len(calls) == update:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "train_step", step)


# What it leaves


def test_a_finished_pretraining_leaves_one_whole_folder(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert not finished.with_name("bert.partial").exists()
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_config_tells_what_the_checkpoint_is(finished):
    config = json.loads((finished / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForMaskedLM"])
    shape = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 32}  # fmt: skip
    assert shape.items() <= config.items()
    updates = [row for row in (finished / "journal.jsonl").read_text().splitlines() if '"rate"' in row]
    assert config["minitext"] == {"track": "pretrain", "updates": len(updates)}


def test_the_tokenizer_stands_a_text_between_its_two_special_tokens(finished):
    tokenizer = load_hub_tokenizer(finished)
    assert tokenizer.encode(WORDS[0].upper()).tokens[:: len(tokenizer.encode(WORDS[0])) - 1] == ["[CLS]", "[SEP]"]


def test_the_held_out_loss_falls_well_below_that_of_a_guess(finished):
    losses = [row["loss"] for row in checks(finished)]
    assert losses[-1] < losses[0] - 0.1 and losses[-1] < math.log(300) - 2
    assert len(losses) == 16


def test_perplexity_is_the_exponential_of_the_loss(finished):
    for row in checks(finished):
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-12)  # float64
        assert 0 <= row["accuracy"] <= 1


def test_the_weights_are_those_of_the_best_check(lines, tmp_path):
    assert pretrain(lines, tmp_path / "bert", "--epochs", "3", "--lr", "0.2", "--eval-every", "2") == 0
    losses = [row["loss"] for row in checks(tmp_path / "bert")]
    model, tokenizer, _ = load_existing(str(tmp_path / "bert"), 0.0)
    assert min(losses) < losses[-1]  # the case tells: the last check is not the best
    order = np.random.default_rng(0).permutation(120)
    valid_fraction = [lines.read_text().splitlines()[row] for row in order[:24]]
    scores = evaluate_mlm(model, padder(valid_fraction, tokenizer), TrainConfig(), torch.device("cpu"), torch.float32)
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-5)  # float32; batches of 64 instead of 8


def padder(texts: list[str], tokenizer: Tokenizer, length: int = 16):
    from minitext.pretraining.masking import pack_blocks

    blocks = pack_blocks(encode_untruncated(tokenizer, texts, True), length, *special_ids(tokenizer))
    return make_collator(blocks, tokenizer, 0).at_epoch(EVAL_EPOCH)


@pytest.mark.oracle
def test_transformers_opens_the_folder_and_gives_the_same_logits(finished):
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(finished, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished)
    assert (tokenizer.mask_token, tokenizer.pad_token, tokenizer.model_max_length) == ("[MASK]", "[PAD]", 32)
    texts = [" ".join(WORDS[:5]), f"{WORDS[9]} [MASK] {WORDS[11]}, unheard-of!"]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    own = load_hub_tokenizer(finished)
    assert [ids[: sum(mask)] for ids, mask in zip(given.input_ids.tolist(), given.attention_mask.tolist(), strict=True)
            ] == [own.encode(text).ids for text in texts]  # fmt: skip
    mask = given.attention_mask.bool()
    ours, _, _ = load_existing(str(finished), 0.0)
    with torch.no_grad():
        logits = ours.eval()(given.input_ids, mask, mask)
        expected = theirs.eval()(given.input_ids, attention_mask=given.attention_mask).logits[mask]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # float32, other order of sums


def test_a_classifier_takes_the_whole_encoder_and_only_its_head_is_new(finished):
    model, notes = load_classifier(finished, ["neg", "pos"])
    assert notes[0] == "newly drawn: dense.weight, dense.bias, output.weight, output.bias"
    assert notes[1].startswith("in the checkpoint, not used: cls.predictions.")
    masked, _, _ = load_existing(str(finished), 0.0)
    for name, tensor in masked.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor), name


# Interrupted


@pytest.mark.parametrize("how", ["asked", "killed"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(lines, tmp_path, monkeypatch, capsys, how):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert pretrain(lines, whole, "--eval-every", "3") == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 5, how)  # in mid-epoch; what was killed goes on from the check behind update 3
        assert pretrain(lines, stopped, "--eval-every", "3") == 130
    assert not stopped.exists() and (tmp_path / "stopped.partial" / "checkpoint.pt").exists()
    assert ("--resume" in capsys.readouterr().err) == (how == "asked")
    assert pretrain(lines, stopped, "--eval-every", "3", "--resume") == 0
    for name in ("model.safetensors", "journal.jsonl", "tokenizer.json", "config.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in stopped.iterdir()} == FILES


def test_resuming_with_other_settings_or_texts_is_refused_and_names_them(lines, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 5, "asked")
        pretrain(lines, tmp_path / "bert")
    capsys.readouterr()
    before = (tmp_path / "bert.partial" / "checkpoint.pt").read_bytes()
    for arguments, named in [
        (("--lr", "0.02"), "loop.lr was 0.003, is 0.02"),
        (("--max-length", "20"), "pretrain.max_length was 16, is 20"),
        (("--seed", "1"), "seed was 0, is 1"),
    ]:
        assert pretrain(lines, tmp_path / "bert", "--resume", *arguments) == 2
        assert named in capsys.readouterr().err
    write_lines(lines, seed=1)
    assert pretrain(lines, tmp_path / "bert", "--resume") == 2
    assert "tokens was" in capsys.readouterr().err
    assert (tmp_path / "bert.partial" / "checkpoint.pt").read_bytes() == before


def test_other_texts_are_noticed_also_where_the_tokenizer_is_a_checkpoint_s(
    lines, finished, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at(patch, 5, "asked")
        pretrain(lines, tmp_path / "bert", "--model", str(finished))
    write_lines(lines, seed=1)
    assert pretrain(lines, tmp_path / "bert", "--model", str(finished), "--resume") == 2
    assert "tokens was" in capsys.readouterr().err


def test_without_resume_an_unfinished_run_is_begun_anew(lines, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 5, "asked")
        pretrain(lines, tmp_path / "bert", "--lr", "0.02")
    assert pretrain(lines, tmp_path / "bert") == 0
    assert pretrain(lines, tmp_path / "other", "--resume") == 0  # with nothing to go on from
    for name in ("model.safetensors", "journal.jsonl"):
        assert (tmp_path / "bert" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


# Going on from a checkpoint


def test_going_on_starts_at_a_lower_loss_than_from_nothing(lines, finished, tmp_path):
    for name, arguments in (("further", ("--model", str(finished))), ("new", ())):
        assert pretrain(lines, tmp_path / name, "--epochs", "1", *arguments) == 0
    assert checks(tmp_path / "further")[0]["loss"] < checks(tmp_path / "new")[0]["loss"] - 0.1


def test_going_on_keeps_the_tokenizer_and_the_shape(lines, finished, tmp_path):
    assert pretrain(lines, tmp_path / "further", "--model", str(finished), "--epochs", "1", "--width", "32") == 0
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (finished, tmp_path / "further"))
    assert before.pop("minitext") != after.pop("minitext") and before == after
    assert load_hub_tokenizer(finished).to_str() == load_hub_tokenizer(tmp_path / "further").to_str()


def test_going_on_begins_with_the_checkpoint_s_weights(finished):
    model, _, _ = load_existing(str(finished), 0.0)
    saved = load_file(finished / "model.safetensors")
    assert torch.equal(model.encoder.tokens.weight, saved["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(model.bias, saved["cls.predictions.bias"])


def test_an_electra_is_refused_with_the_list_of_what_serves(lines, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "electra")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))
    assert pretrain(lines, tmp_path / "further", "--model", str(folder)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a electra is no masked language model" in line
    assert line.endswith("these are: bert, roberta, camembert, xlm-roberta, distilbert")


def test_a_tokenizer_without_a_mask_token_is_refused(lines, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "maskless")
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("[MASK]", "[HIDE]"))
    assert pretrain(lines, tmp_path / "further", "--model", str(folder)) == 2
    assert "no [MASK]" in capsys.readouterr().err


def test_a_tokenizer_of_another_checkpoint_is_refused(lines, finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "mixed")
    tokenizer = load_hub_tokenizer(folder)
    tokenizer.add_tokens(["another"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert pretrain(lines, tmp_path / "further", "--model", str(folder)) == 2
    assert "not from one checkpoint" in capsys.readouterr().err


# Starting from word vectors


def vectors_of(words: list[str], width: int = 16) -> WordVectors:
    return WordVectors(words, 3 * torch.randn(len(words), width, generator=torch.Generator().manual_seed(1)))


def test_rows_of_known_words_are_the_scaled_vectors_and_the_others_are_as_drawn(lines, tmp_path):
    texts = lines.read_text().splitlines()
    options = PretrainConfig(vocab_size=300, width=16, layers=1, heads=2, positions=32)
    torch.manual_seed(0)
    plain, tokenizer, _ = build_new(options, texts)
    known = [word for word in WORDS if tokenizer.token_to_id(word) is not None]
    assert len(known) > 20  # the case tells
    vectors = vectors_of([*known[::2], "elsewhere"])
    vectors.write(tmp_path / "vectors.txt", digits=9)
    torch.manual_seed(0)
    started, _, _ = build_new(dataclasses.replace(options, vectors=str(tmp_path / "vectors.txt")), texts)
    rows = [tokenizer.token_to_id(word) for word in known[::2]]
    scaled = vectors.table[:-1] * (0.02 / vectors.table[:-1].std())  # of a file only the known words are read
    torch.testing.assert_close(started.encoder.tokens.weight[rows].detach(), scaled, rtol=1e-6, atol=0)  # float32
    others = [row for row in range(300) if row not in rows]
    assert torch.equal(started.encoder.tokens.weight[others], plain.encoder.tokens.weight[others])
    assert started.encoder.tokens.weight[rows].std().item() == pytest.approx(0.02, rel=1e-5)
    for name, tensor in plain.state_dict().items():
        assert name == "encoder.tokens.weight" or torch.equal(started.state_dict()[name], tensor), name


def test_vectors_that_know_no_token_are_refused(lines):
    model, tokenizer, _ = build_new(PretrainConfig(vocab_size=300, width=16, heads=2), lines.read_text().split())
    before = model.encoder.tokens.weight.clone()
    with pytest.raises(UserError, match="know none"):
        start_from(model, tokenizer, WordVectors([], torch.empty(0, 16)))
    assert torch.equal(model.encoder.tokens.weight, before)


def test_a_run_from_vectors_finishes(lines, tmp_path):
    vectors_of(WORDS).write(tmp_path / "vectors.txt")
    assert pretrain(lines, tmp_path / "bert", "--vectors", str(tmp_path / "vectors.txt")) == 0


# The parts


def test_texts_are_encoded_whole_and_bare(finished):
    tokenizer = load_hub_tokenizer(finished)
    long = " ".join(WORDS * 5)
    encoded = encode_untruncated(tokenizer, [long, "", WORDS[0]], True)
    expected = tokenizer.encode(long, add_special_tokens=False).ids
    assert encoded.ids[: encoded.offsets[1]].tolist() == expected and len(expected) > 512
    assert encoded.lengths()[1] == 0
    assert special_ids(tokenizer) == ([2], [3])  # the tokenizer itself is as it was


def test_the_held_out_scores_are_means_over_the_hidden_tokens_by_hand(finished):
    model, tokenizer, _ = load_existing(str(finished), 0.0)
    data = padder([" ".join(WORDS[first : first + 6]) for first in range(0, 90, 6)], tokenizer)
    batch = data(range(len(data.data.offsets) - 1))
    with torch.no_grad():
        log_p = model.eval()(*batch.inputs).log_softmax(dim=1)
    cpu = torch.device("cpu")
    for size in (1, 4, 64):
        scores = evaluate_mlm(model.train(), data, TrainConfig(batch_size=size), cpu, torch.float32)
        expected = -log_p[range(len(batch.labels)), batch.labels].double().mean().item()
        assert scores["loss"] == pytest.approx(expected, abs=1e-5)  # float32
        assert scores["accuracy"] == (log_p.argmax(dim=1) == batch.labels).double().mean().item()


def test_a_perplexity_beyond_all_floats_is_a_number(finished):
    model, tokenizer, _ = load_existing(str(finished), 0.0)
    with torch.no_grad():
        model.bias[0] = 1e4  # sure of a token that is never hidden
    scores = evaluate_mlm(model, padder(WORDS[:30], tokenizer), TrainConfig(), torch.device("cpu"), torch.float32)
    assert scores["loss"] > 1000 and math.isfinite(scores["perplexity"])


def test_special_tokens_are_known_from_the_tokenizer(finished):
    tokenizer = load_hub_tokenizer(finished)
    data = make_collator(TokenizedTexts(torch.tensor([2, 9, 3], dtype=torch.int32), torch.tensor([0, 3])), tokenizer, 0)
    assert (data.special, data.mask_id, data.vocabulary) == ((0, 1, 2, 3, 4), 4, 300)


def test_the_masked_lm_of_an_untrained_encoder_guesses(lines):
    torch.manual_seed(0)
    options = PretrainConfig(vocab_size=300, width=16, layers=1, heads=2)
    texts = lines.read_text().splitlines()
    model, tokenizer, _ = build_new(options, texts)
    assert isinstance(model, BertMaskedLM)
    scores = evaluate_mlm(model, padder(texts, tokenizer), TrainConfig(), torch.device("cpu"), torch.float32)
    assert scores["loss"] == pytest.approx(math.log(300), abs=0.1)  # new weights are small: logits of about 0.02 * 4


# What it refuses


def error_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("content, count", [("", 0), ("one short line", 1), ("\n" * 50 + "word\n \t\n" * 19, 19)])
def test_a_file_of_too_few_texts_is_refused_with_their_number(tmp_path, capsys, content, count):
    (tmp_path / "few.txt").write_text(content)
    assert pretrain(tmp_path / "few.txt", tmp_path / "bert") == 2
    line = error_line(capsys)
    assert str(tmp_path / "few.txt") in line and f"{count} texts are too few" in line and "20 or more" in line


@pytest.mark.parametrize(
    "arguments, remedy",
    [
        (("--vocab-size", "5000"), "ask for fewer"),
        (("--max-length", "33"), "the encoder has 32 positions"),
        (("--valid-fraction", "0"), "--valid-fraction 0.0: a share between 0 and 1"),
        (("--valid-fraction", "1"), "--valid-fraction 1.0: a share between 0 and 1"),
        (("--valid-fraction", "nan"), "--valid-fraction nan: a share between 0 and 1"),
        (("--width", "17"), "a width of 17 cannot be shared by 2 attention heads"),
        (("--vocab-size", "99"), "--vocab-size 99: at least 100"),
        (("--max-length", "7"), "--max-length 7: at least 8"),
        (("--layers", "0"), "--layers 0: at least 1"),
        (("--heads", "0"), "--heads 0: at least 1"),
        (("--vectors", "sample"), "--vectors are 100 wide, the encoder is 16; give --width"),
        (("--vectors", "sample", "--model", "x"), "--vectors start a new encoder"),
        (("--warmup", "5000"), "warmup"),
        (("--model", "no/such/model"), "neither a folder nor a Hub id"),
        (("--data", "nowhere.txt"), "nowhere.txt: there is no such file"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_with_status_2(lines, tmp_path, capsys, arguments, remedy):
    assert pretrain(lines, tmp_path / "bert", *arguments) == 2
    assert remedy in error_line(capsys)
    assert not (tmp_path / "bert").exists() and not (tmp_path / "bert.partial").exists()


def test_a_length_beyond_a_checkpoint_s_positions_is_refused(lines, finished, tmp_path, capsys):
    arguments = (
        "--model",
        str(finished),
        "--max-length",
        "33",
        "--positions",
        "64",
    )  # of a new encoder: no matter here
    assert pretrain(lines, tmp_path / "bert", *arguments) == 2
    assert "--max-length 33: the encoder has 32 positions" in error_line(capsys)


def test_a_folder_without_a_checkpoint_is_refused_by_name(lines, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert pretrain(lines, tmp_path / "bert", "--model", str(tmp_path / "empty")) == 2
    assert f"{tmp_path / 'empty'}: has no config.json" in error_line(capsys)


def test_almost_all_texts_held_out_leaves_one_to_learn_from(lines, finished, tmp_path):
    assert pretrain(lines, tmp_path / "bert", "--valid-fraction", "0.999", "--model", str(finished)) == 0


def test_texts_of_unknown_characters_alone_do_not_stop_a_run(finished, tmp_path):
    (tmp_path / "unknown.txt").write_text("語 語 語\n" * 30)  # each an [UNK], which is special
    assert pretrain(tmp_path / "unknown.txt", tmp_path / "bert", "--model", str(finished), "--epochs", "1") == 0


# --out


def test_an_existing_out_is_kept_without_overwrite_and_replaced_with_it(lines, tmp_path, capsys):
    out = tmp_path / "bert"
    assert pretrain(lines, out) == 0
    before = (out / "model.safetensors").read_bytes()
    assert pretrain(lines, out, "--seed", "1") == 2
    assert "--overwrite" in error_line(capsys)
    assert (out / "model.safetensors").read_bytes() == before
    (out / "note.txt").write_text("old")
    assert pretrain(lines, out, "--seed", "1", "--overwrite") == 0
    assert (out / "model.safetensors").read_bytes() != before
    assert {path.name for path in out.iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"bert", "lines.txt"}


@pytest.mark.parametrize("names", [("letter.txt",), ("config.json", "model.safetensors"),
                                   ("journal.jsonl", "scores.json"), ()])  # fmt: skip
def test_a_folder_of_something_else_is_never_replaced(lines, tmp_path, capsys, names):
    out = tmp_path / "mine"
    out.mkdir()
    for name in names:
        (out / name).write_text("mine")
    assert pretrain(lines, out, "--overwrite") == 2
    assert "exists; choose another --out" in error_line(capsys)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "mine")


def test_a_file_is_never_replaced(lines, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert pretrain(lines, tmp_path / "mine", "--overwrite") == 2
    assert "exists; choose another --out" in error_line(capsys)
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_interrupted_replacement_leaves_the_old_checkpoint(lines, tmp_path, monkeypatch):
    assert pretrain(lines, tmp_path / "bert") == 0
    before = (tmp_path / "bert" / "model.safetensors").read_bytes()
    stop_at(monkeypatch, 5, "asked")
    assert pretrain(lines, tmp_path / "bert", "--overwrite") == 130
    assert (tmp_path / "bert" / "model.safetensors").read_bytes() == before


def test_a_replacement_that_fails_at_the_very_end_loses_neither_checkpoint(lines, tmp_path, monkeypatch):
    assert pretrain(lines, tmp_path / "bert") == 0
    before, rename = (tmp_path / "bert" / "model.safetensors").read_bytes(), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "bert.partial":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert pretrain(lines, tmp_path / "bert", "--overwrite", "--seed", "1") == 2
    assert (tmp_path / "bert.old" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "bert.partial" / "model.safetensors").exists()


def test_a_slash_behind_out_does_not_matter(lines, tmp_path):
    assert pretrain(lines, f"{tmp_path}/deep/bert/") == 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bert"]
    assert {path.name for path in (tmp_path / "deep" / "bert").iterdir()} == FILES


# Labelled texts


@pytest.mark.slow
def test_the_sample_is_enough_to_learn_from(tmp_path):
    assert pretrain("sample", tmp_path / "bert", "--max-length", "32", "--epochs", "1", "--vocab-size", "500") == 0
    assert checks(tmp_path / "bert")[-1]["loss"] < math.log(500)


# How a new encoder starts


def test_positions_start_as_sinusoids_with_the_spread_of_new_weights():
    model = BertMaskedLM(BertConfig(10, width=4, layers=1, heads=1, inner=8, positions=50))
    init_positions(model)
    table = model.encoder.positions.weight.detach()
    by_hand = math.sqrt(2) * 0.02 * torch.tensor([math.sin(7), math.cos(7), math.sin(7 / 100), math.cos(7 / 100)])
    torch.testing.assert_close(table[7], by_hand, rtol=1e-5, atol=1e-7)  # float32
    assert table.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-5)


def test_the_first_answers_are_how_often_tokens_occur():
    model = BertMaskedLM(BertConfig(4, width=4, layers=1, heads=1, inner=8, positions=8))
    init_output_bias(model, torch.tensor([0, 0, 0, 2]))
    expected = torch.tensor([4 / 8, 1 / 8, 2 / 8, 1 / 8])
    torch.testing.assert_close(model.bias.softmax(dim=0).detach(), expected)


def test_dropout_of_pretraining_is_not_what_fine_tuning_is_told(lines):
    model, _, config = build_new(PretrainConfig(vocab_size=300, width=16, heads=2), lines.read_text().split())
    assert (model.config.dropout, model.config.attention_dropout) == (0.0, 0.0)
    assert config["hidden_dropout_prob"] == 0.1


def test_a_summary_is_learned_from_and_not_checked_on(lines, tmp_path):
    assert pretrain(lines, tmp_path / "bert", "--cls-objective", "--epochs", "1") == 0
    assert pretrain(lines, tmp_path / "plain", "--epochs", "1") == 0
    with_it, without = (json.loads((tmp_path / name / "settings.json").read_text()) for name in ("bert", "plain"))
    assert with_it["tokens"] == without["tokens"]
    assert abs(checks(tmp_path / "bert")[0]["loss"] - checks(tmp_path / "plain")[0]["loss"]) < 0.2


def test_half_precision_takes_half_the_space_and_is_read_like_any_other(lines, tmp_path):
    sizes = []
    for name, arguments in (("whole", ()), ("half", ("--save-fp16",))):
        assert pretrain(lines, tmp_path / name, "--epochs", "1", *arguments) == 0
        sizes.append(sum(tensor.nbytes for tensor in load_file(tmp_path / name / "model.safetensors").values()))
    assert sizes[0] == 2 * sizes[1]
    whole, half = (load_existing(str(tmp_path / name), 0.0)[0].state_dict() for name in ("whole", "half"))
    assert all(torch.equal(whole[name].half().float(), half[name]) for name in whole)
