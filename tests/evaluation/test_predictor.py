"""A finished run predicts what its model computes, on the chosen device; anything else is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_models import CLASSES, POSITIVE, change_json, cut_file, save_finetuned, save_scratch, save_static
from torch import nn

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts, encode
from minitext.evaluation import predictor as predictor_module
from minitext.evaluation.predictor import Predictor, format_prediction, json_prediction
from minitext.models.static import StaticClassifier
from minitext.utils.errors import UserError
from minitext.utils.terminal import text_width


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_static(tmp_path / "runs" / "logistic")


def softmax(logits: torch.Tensor) -> np.ndarray:
    return logits.double().softmax(dim=1).numpy()


@pytest.mark.parametrize("mlp", [False, True])
def test_static_run_predicts_the_softmax_of_its_classifier(tmp_path, mlp: bool):
    folder = save_static(tmp_path / "run", mlp)
    texts = ["good", "bad bad good", "", "unknown"]
    predictor = Predictor.load(folder)
    assert predictor.class_names == ("neg", "pos")
    assert predictor.device == torch.device("cpu")
    assert np.array_equal(predictor.predict_proba(texts), softmax(StaticClassifier.load(folder).logits(texts)))


def test_probabilities_by_hand(folder):
    found = Predictor.load(folder).predict_proba(["good", "bad", "good bad"])
    assert found.dtype == np.float64
    assert found[:, 1] == pytest.approx([POSITIVE, 1 - POSITIVE, 0.5], abs=1e-6)  # float32 logits


def test_predict_returns_class_names(folder):
    assert Predictor.load(folder).predict(["good", "bad"]) == ["pos", "neg"]


def test_number_of_threads_is_restored(folder):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Predictor.load(folder).predict(["good"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("save", [save_static, save_scratch, save_finetuned])
def test_no_texts_give_no_rows(tmp_path, save):
    save(tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run")
    assert predictor.predict_proba([]).shape == (0, len(predictor.class_names))
    assert predictor.predict([]) == []


def test_scratch_run_predicts_its_model_on_tokens_and_bigrams(tmp_path):
    model = save_scratch(tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run")
    texts = ["good film", "", "the film so so bad good good good"]
    tokens = encode(predictor.tokens.tokenizer, texts, 6, "head")
    with torch.no_grad():
        expected = model(PackCollator(model.features(tokens), torch.zeros(3))([0, 1, 2]))
    assert predictor.class_names == CLASSES
    assert np.abs(predictor.predict_proba(texts) - softmax(expected)).max() < 1e-6  # float32


@pytest.mark.parametrize(("truncate", "kept"), [("head", "GGGB"), ("tail", "BSBS"), ("head+tail", "GSBS")])
def test_finetuned_run_predicts_its_model_on_the_truncated_text(tmp_path, truncate: str, kept: str):
    model, ids = save_finetuned(tmp_path / "run", truncate)
    predictor = Predictor.load(tmp_path / "run")
    words = {"G": ids["good"], "B": ids["bad"], "S": ids["so"]}
    rows = [[ids["[CLS]"], *(words[word] for word in text), ids["[SEP]"]] for text in ("G", kept, "")]
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    tokens = TokenizedTexts(torch.tensor([i for row in rows for i in row], dtype=torch.int32), offsets)
    with torch.no_grad():
        expected = torch.cat([model(PackCollator(tokens, torch.zeros(3))([i])) for i in range(3)])
    found = predictor.predict_proba(["GOOD", "good good good bad so bad so", ""])
    assert predictor.class_names == CLASSES
    assert np.abs(found - softmax(expected)).max() < 1e-6  # float32
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the texts differ


def test_finetuned_run_with_windows_predicts_the_mean_of_their_logits(tmp_path):
    save_finetuned(tmp_path / "run", windows=True)
    save_finetuned(tmp_path / "plain")
    predictor, plain = Predictor.load(tmp_path / "run"), Predictor.load(tmp_path / "plain")
    # four tokens and [CLS] and [SEP]; a window begins with the last token of the one before it
    windows = ["good good good bad", "bad so bad so", "so good"]
    found = predictor.predict_logits(["good good good bad so bad so good", "good bad"])
    expected = torch.stack([plain.predict_logits(windows).mean(dim=0), plain.predict_logits(["good bad"])[0]])
    assert (found - expected).abs().max() < 1e-6  # float32
    assert (found[0] - plain.predict_logits(windows[:1])[0]).abs().max() > 1e-3  # the case tells


def test_finetuned_run_of_a_version_without_windows_is_loaded(tmp_path):
    save_finetuned(tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["minitext"]
    expected = Predictor.load(tmp_path / "run").predict_logits(["good " * 9])
    del settings["windows"]
    change_json(tmp_path / "run" / "config.json", minitext=settings)
    assert torch.equal(Predictor.load(tmp_path / "run").predict_logits(["good " * 9]), expected)


@pytest.mark.parametrize("windows", ["yes", 1, None, []])
def test_windows_must_be_true_or_false(tmp_path, windows: object):
    save_finetuned(tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["minitext"]
    change_json(tmp_path / "run" / "config.json", minitext=settings | {"windows": windows})
    with pytest.raises(UserError, match=r"corrupt \(config.json, windows: expected true or false, found"):
        Predictor.load(tmp_path / "run")


# Loading


@pytest.mark.parametrize(
    ("device", "error", "remedy"),
    [
        ("cuda", torch.OutOfMemoryError("CUDA out of memory"), "cuda; pass --device cpu"),
        ("mps", RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "mps; pass --device cpu"),
        ("cpu", RuntimeError("DefaultCPUAllocator: can't allocate memory"), "cpu; close other programs"),
    ],
)
def test_model_that_does_not_fit_on_the_device_is_not_reported_as_corrupt(
    monkeypatch, tmp_path, device: str, error: RuntimeError, remedy: str
):
    def to(*_arguments):
        raise error

    save_finetuned(tmp_path / "run")
    monkeypatch.setattr(predictor_module, "pick_device", torch.device)
    monkeypatch.setattr(nn.Module, "to", to)
    with pytest.raises(UserError, match=f"too large for the memory of {remedy}$"):
        Predictor.load(tmp_path / "run", device)


@pytest.mark.parametrize(
    ("save", "named", "expected"),
    [
        (save_static, "auto", "cpu"),
        (save_static, "mps", "cpu"),
        (save_scratch, "auto", "cpu"),
        (save_scratch, "mps", "mps"),
        (save_finetuned, "auto", "mps"),
    ],
)
def test_on_a_mac_auto_is_its_gpu_for_encoders_only(monkeypatch, tmp_path, save, named: str, expected: str):
    save(tmp_path / "run")
    monkeypatch.setattr(predictor_module, "pick_device", lambda name: torch.device("mps"))
    monkeypatch.setattr(nn.Module, "to", lambda model, device: model)  # this machine has no such device
    monkeypatch.setattr(Predictor, "check", lambda predictor: None)
    assert Predictor.load(tmp_path / "run", named).device == torch.device(expected)


def test_unknown_device_is_refused(folder):
    with pytest.raises(UserError, match="--device abacus"):
        Predictor.load(folder, "abacus")


def test_parent_of_a_run_suggests_the_run(folder):
    with pytest.raises(UserError, match=r"runs: not a finished run; did you mean .*runs/logistic\?"):
        Predictor.load(folder.parent)


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_folder_without_a_run_is_refused(tmp_path, name: str):
    with pytest.raises(UserError, match=r"not a finished run; pass the --out of a training script"):
        Predictor.load(tmp_path / name)


def test_unfinished_run_is_refused(folder):
    (folder / "scores.json").unlink()
    with pytest.raises(UserError, match=r"logistic: not a finished run"):
        Predictor.load(folder)


def test_unfinished_run_is_not_suggested(tmp_path, folder):
    # killed while its figures were drawn: there are scores, but the folder is not renamed
    shutil.move(folder, folder.with_name("alone.partial"))
    save_static(tmp_path / "runs" / "mlp")
    with pytest.raises(UserError, match=r"did you mean .*runs/mlp\?"):
        Predictor.load(tmp_path / "runs")


def add_class(path: Path) -> None:
    change_json(path, class_names=["neg", "so-so", "pos"])


DAMAGES = {
    "model truncated": ("model.safetensors", cut_file),
    "model of garbage": ("model.safetensors", lambda path: path.write_bytes(b"garbage" * 100)),
    "model empty": ("model.safetensors", lambda path: path.write_bytes(b"")),
    "model missing": ("model.safetensors", Path.unlink),
    "config truncated": ("config.json", cut_file),
    "config not an object": ("config.json", lambda path: path.write_text("[]")),
    "config without a key": ("config.json", lambda path: path.write_text('{"classifier": "mlp"}')),
    "config of other classes": ("config.json", add_class),
    "config missing": ("config.json", Path.unlink),
    "words truncated": ("words.txt", lambda path: path.write_text("good\n")),
    "words not text": ("words.txt", lambda path: path.write_bytes(b"\xff\xfe\n\xff\n")),
    "words missing": ("words.txt", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_corrupt_static_run_is_refused_with_its_folder(folder, damage: str):
    name, harm = DAMAGES[damage]
    harm(folder / name)
    with pytest.raises(UserError) as caught:
        Predictor.load(folder)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


def test_missing_setting_is_named(folder):
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"logistic: corrupt \('track' is missing\); re-train the model"):
        Predictor.load(folder)


FINETUNED_DAMAGES = {
    "model truncated": ("model.safetensors", cut_file),
    "model missing": ("model.safetensors", Path.unlink),
    "config truncated": ("config.json", cut_file),
    "config without our settings": ("config.json", lambda path: change_json(path, minitext={"track": "finetune"})),
    "config of an unknown track": ("config.json", lambda path: change_json(path, minitext={"track": "guess"})),
    "config of other classes": ("config.json", lambda path: change_json(path, id2label={"0": "a", "2": "b"})),
    "config of another width": ("config.json", lambda path: change_json(path, hidden_size=16)),
    "config of another model": ("config.json", lambda path: change_json(path, model_type="gpt2")),
    "tokenizer missing": ("tokenizer.json", Path.unlink),
    "tokenizer truncated": ("tokenizer.json", cut_file),
}


@pytest.mark.parametrize("damage", FINETUNED_DAMAGES)
def test_corrupt_finetuned_run_is_refused_with_its_folder(tmp_path, damage: str):
    folder = tmp_path / "run"
    save_finetuned(folder)
    name, harm = FINETUNED_DAMAGES[damage]
    harm(folder / name)
    with pytest.raises(UserError) as caught:
        Predictor.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("neg", "pos"), ("neg", "pos", "so-so", "none")])
def test_head_for_another_number_of_classes_is_refused(tmp_path, names: tuple[str, ...]):
    """A new head would be initialized, and its random predictions would pass for those of the run."""
    folder = tmp_path / "run"
    save_finetuned(folder)
    change_json(folder / "config.json", id2label={str(c): name for c, name in enumerate(names)})
    with pytest.raises(UserError, match=r"corrupt \(its weights lack output.weight"):
        Predictor.load(folder)


def test_weights_without_a_part_of_the_head_are_refused(tmp_path):
    folder = tmp_path / "run"
    save_finetuned(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.pooler.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"corrupt \(its weights lack dense.weight"):
        Predictor.load(folder)


# Formats


def test_terminal_format_has_one_bar_per_class_and_marks_the_predicted_one():
    assert format_prediction("Good!", ("neg", "pos"), (0.1, 0.9)).splitlines() == [
        "Good!",
        "    neg  10.00% ███",
        "  > pos  90.00% " + "█" * 27,
    ]


def test_bars_are_aligned():
    lines = format_prediction("x", ("a", "longer"), (0.5, 0.5)).splitlines()[1:]
    assert len({line.index("█") for line in lines}) == 1


def test_the_most_probable_of_many_classes_are_shown_with_the_sum_of_the_others():
    assert format_prediction("x", tuple("abcde"), (0.1, 0.5, 0.05, 0.3, 0.05), top=3).splitlines()[1:] == [
        "  > b                50.00% " + "█" * 15,
        "    d                30.00% " + "█" * 9,
        "    a                10.00% ███",
        "    2 other classes  10.00% ███",
    ]
    assert "    1 other class   0.00% " in format_prediction("x", tuple("abcd"), (0.5, 0.3, 0.2, 0), top=3).splitlines()


@pytest.mark.parametrize("top", [3, 9, None])
def test_all_of_few_classes_are_shown_in_their_order(top: int | None):
    lines = format_prediction("x", tuple("abc"), (0.1, 0.2, 0.7), top=top).splitlines()
    assert [line.split("%")[0].split()[-2] for line in lines[1:]] == ["a", "b", "c"]
    assert len(lines) == 4


def test_bars_of_wide_and_of_long_names_are_aligned():
    lines = format_prediction("x", ("退款没有", "x" * 60, "short"), (0.3, 0.3, 0.4), top=3).splitlines()[1:]
    assert len({text_width(line[: line.index("█")]) for line in lines}) == 1
    assert max(map(text_width, lines)) < 80
    assert "x" * 60 in format_prediction("x", ("a", "x" * 60), (0.3, 0.7))  # a pipe gets whole names


def test_long_text_is_shortened():
    assert format_prediction("x" * 101, ("a", "b"), (0, 1)).splitlines()[0] == "x" * 99 + "…"
    assert format_prediction("x" * 100, ("a", "b"), (0, 1)).splitlines()[0] == "x" * 100


def test_json_format_is_one_object_on_one_line():
    line = json_prediction("two\nlines, é", ("neg", "pos"), (0.25, 0.75))
    assert "\n" not in line
    probabilities = {"neg": 0.25, "pos": 0.75}
    assert json.loads(line) == {"text": "two\nlines, é", "class": "pos", "probabilities": probabilities, "note": ""}


def test_below_the_threshold_no_class_is_marked():
    lines = format_prediction("Good!", ("neg", "pos"), (0.1, 0.9), threshold=0.95).splitlines()
    assert lines == ["Good!", "    neg  10.00% ███", "    pos  90.00% " + "█" * 27, "  abstains: below threshold"]
    assert format_prediction("Good!", ("neg", "pos"), (0.1, 0.9), threshold=0.9).splitlines()[2].startswith("  > pos")


def test_below_the_threshold_the_json_class_is_null():
    record = json.loads(json_prediction("x", ("neg", "pos"), (0.25, 0.75), threshold=0.8))
    assert (record["class"], record["note"], record["probabilities"]["pos"]) == (None, "below threshold", 0.75)
