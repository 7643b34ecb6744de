"""Proves that a finished run answers for new texts, to a person and to a program, and that whatever is not a whole
finished run is refused in one line.
"""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import BertProcessing

from minitext import cli as command_line
from minitext.data.tokenizer import train_tokenizer
from minitext.evaluation.predictor import format_prediction, json_prediction, load_predictor
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.hf_checkpoint import save_model
from minitext.models.hf_names import write_config
from minitext.models.mean_encoder import MeanEncoder
from minitext.models.static import LogisticRegression, StaticClassifier, build_mlp
from minitext.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def save_run(folder: Path, mlp: bool = False) -> Path:
    """As much of a finished run as predicting needs: `good` speaks for pos, `bad` for neg, each with odds of e**2."""
    folder.mkdir(parents=True)
    classifier = build_mlp(1, 4, 2, 0.0) if mlp else LogisticRegression(1, 2)
    if not mlp:
        classifier.load_state_dict({"linear.weight": torch.tensor([[2.0]]), "linear.bias": torch.zeros(1)})
    encoder = MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]]))
    StaticClassifier(encoder, classifier, ("neg", "pos")).save(folder)
    (folder / "scores.json").write_text("{}")
    return folder


POS = torch.tensor(2.0).sigmoid().item()  # 0.8808: the probability that `good` gets


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_run(tmp_path / "runs" / "logistic")


def call(monkeypatch, capsys, *arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
    """`minitext …` in this process: exit status, stdout, stderr."""
    monkeypatch.setattr("sys.argv", ["minitext", *map(str, arguments)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
    status = command_line.main()
    return status, *capsys.readouterr()


def assert_one_line(error: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert error.endswith("\n")


# In Python


@pytest.mark.parametrize("mlp", [False, True])
def test_a_run_predicts_what_its_classifier_predicts(tmp_path, mlp: bool):
    folder = save_run(tmp_path / "run", mlp)
    texts = ["good", "bad bad good", "", "unknown"]
    predictor = load_predictor(folder)
    assert predictor.class_names == ("neg", "pos")
    assert torch.equal(predictor.predict(texts), StaticClassifier.load(folder).logits(texts).softmax(dim=1))


def test_probabilities_by_hand(folder):
    found = load_predictor(folder).predict(["good", "bad", "good bad"])[:, 1].tolist()
    assert found == pytest.approx([POS, 1 - POS, 0.5], abs=1e-6)  # float32


def test_a_stream_of_texts_leaves_torch_its_threads(folder):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stream = load_predictor(folder).predict_in_chunks(iter(["good"] * 9000))
        next(stream)
        stream.close()  # in the middle, as an error does
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# Fine-tuned runs


def save_finetuned(folder: Path, truncate: str = "head") -> tuple[BertClassifier, dict[str, int]]:
    """As much of a fine-tuned run as predicting needs: its model, and the ids of its words."""
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(["good bad so"] * 9, 100)
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    torch.manual_seed(0)
    config = BertConfig(len(ids), 8, 2, 2, 16, 8, init_std=0.5)
    model = BertClassifier(config, 3).eval()
    save_model(model, tokenizer, folder, write_config(config), ("neg", "pos", "so-so"),
               track="finetune", max_length=6, truncate=truncate)  # fmt: skip
    (folder / "scores.json").write_text("{}")
    return model, ids


@pytest.mark.parametrize(("truncate", "kept"), [("head", "GGGB"), ("tail", "BSBS"), ("head+tail", "GSBS")])
def test_a_fine_tuned_run_predicts_its_model_s_softmax_of_the_text_it_may_see(tmp_path, truncate: str, kept: str):
    model, ids = save_finetuned(tmp_path / "run", truncate)
    predictor = load_predictor(tmp_path / "run")
    assert predictor.class_names == ("neg", "pos", "so-so")
    words = {"G": ids["good"], "B": ids["bad"], "S": ids["so"]}
    rows = [[ids["[CLS]"], *(words[word] for word in text), ids["[SEP]"]] for text in ("G", kept, "")]
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool)) for row in rows])
    found = predictor.predict(["GOOD", "good good good bad so bad so", ""])
    assert (found - expected.softmax(dim=1)).abs().max() < 1e-6  # float32; here the three are padded
    assert (found[0] - found[1]).abs().max() > 1e-3  # the case tells


FINETUNED_DAMAGES = {
    "model cut short": ("model.safetensors", lambda path: cut(path)),
    "model missing": ("model.safetensors", Path.unlink),
    "config cut short": ("config.json", lambda path: cut(path)),
    "config without our settings": ("config.json", lambda path: change(path, minitext={"track": "finetune"})),
    "config of an unknown track": ("config.json", lambda path: change(path, minitext={"track": "guess"})),
    "config of other classes": ("config.json", lambda path: change(path, id2label={"0": "a", "2": "b"})),
    "config of another width": ("config.json", lambda path: change(path, hidden_size=16)),
    "config of another model": ("config.json", lambda path: change(path, model_type="gpt2")),
    "tokenizer missing": ("tokenizer.json", Path.unlink),
    "tokenizer cut short": ("tokenizer.json", lambda path: cut(path)),
}


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("damage", FINETUNED_DAMAGES)
def test_a_damaged_fine_tuned_run_is_refused_in_one_line(monkeypatch, capsys, tmp_path, damage: str):
    folder = tmp_path / "run"
    save_finetuned(folder)
    name, harm = FINETUNED_DAMAGES[damage]
    harm(folder / name)
    status, out, error = call(monkeypatch, capsys, "predict", folder, "good")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert str(folder) in error


@pytest.mark.parametrize("names", [("neg", "pos"), ("neg", "pos", "so-so", "none")])
def test_a_head_for_another_number_of_classes_is_refused(monkeypatch, capsys, tmp_path, names: tuple[str, ...]):
    """A new head would be drawn, and its guesses would pass for the run's."""
    folder = tmp_path / "run"
    save_finetuned(folder)
    change(folder / "config.json", id2label={str(row): name for row, name in enumerate(names)})
    status, out, error = call(monkeypatch, capsys, "predict", folder, "good")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert "output.weight" in error


def test_a_run_whose_weights_lack_a_part_of_the_head_is_refused(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "run"
    save_finetuned(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.pooler.dense.weight"]
    save_file(tensors, folder / "model.safetensors")
    status, out, error = call(monkeypatch, capsys, "predict", folder, "good")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert "dense.weight" in error


# What is shown


def test_a_person_sees_a_bar_a_class_and_the_likeliest_marked():
    assert format_prediction("Good!", ("neg", "pos"), (0.1, 0.9)).splitlines() == [
        "Good!",
        "    neg  10.00% ███",
        "  > pos  90.00% " + "█" * 27,
    ]


def test_bars_start_in_one_column():
    lines = format_prediction("x", ("a", "longer"), (0.5, 0.5)).splitlines()[1:]
    assert len({line.index("█") for line in lines}) == 1


def test_a_long_text_is_cut():
    assert format_prediction("x" * 101, ("a", "b"), (0, 1)).splitlines()[0] == "x" * 99 + "…"
    assert format_prediction("x" * 100, ("a", "b"), (0, 1)).splitlines()[0] == "x" * 100


def test_a_program_gets_one_json_object_on_one_line():
    line = json_prediction("two\nlines, é", ("neg", "pos"), (0.25, 0.75))
    assert "\n" not in line
    probabilities = {"neg": 0.25, "pos": 0.75}
    assert json.loads(line) == {"text": "two\nlines, é", "class": "pos", "probabilities": probabilities, "note": ""}


def test_a_person_sees_that_a_run_abstains_and_no_class_is_marked():
    lines = format_prediction("Good!", ("neg", "pos"), (0.1, 0.9), threshold=0.95).splitlines()
    assert lines == ["Good!", "    neg  10.00% ███", "    pos  90.00% " + "█" * 27, "  abstains: below threshold"]
    assert format_prediction("Good!", ("neg", "pos"), (0.1, 0.9), threshold=0.9).splitlines()[2].startswith("  > pos")


def test_a_program_sees_that_a_run_abstains():
    record = json.loads(json_prediction("x", ("neg", "pos"), (0.25, 0.75), threshold=0.8))
    assert (record["class"], record["note"], record["probabilities"]["pos"]) == (None, "below threshold", 0.75)


# On the command line


def test_texts_on_the_command_line_are_predicted_in_order(monkeypatch, capsys, folder):
    status, out, _ = call(monkeypatch, capsys, "predict", folder, "good film", "bad film")
    assert status == 0
    assert [line for line in out.splitlines() if not line.startswith("  ")] == ["good film", "bad film"]
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  >")] == ["pos", "neg"]


def test_json_has_a_line_a_text(monkeypatch, capsys, folder):
    _, out, _ = call(monkeypatch, capsys, "predict", folder, "good", "bad", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["text"], record["class"]) for record in records] == [("good", "pos"), ("bad", "neg")]
    assert records[0]["probabilities"]["pos"] == pytest.approx(POS, abs=1e-6)  # float32


def test_options_may_stand_before_the_texts(monkeypatch, capsys, folder):
    _, out, _ = call(monkeypatch, capsys, "predict", folder, "--json", "good")
    assert json.loads(out)["class"] == "pos"


def test_each_line_of_a_file_is_a_text(monkeypatch, capsys, folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes("good café\n\nbad \xa0".encode() + b"\xff")  # one byte is not UTF-8
    _, out, _ = call(monkeypatch, capsys, "predict", folder, "--json", "--input", tmp_path / "texts.txt")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["good café", "", "bad \xa0\ufffd"]


def test_a_table_s_text_column_is_printed(monkeypatch, capsys, folder, tmp_path):
    (tmp_path / "a.csv").write_text('id,body\n1,"good\nfilm"\n2,\n3,bad\n')
    arguments = ("predict", folder, "--input", tmp_path / "a.csv", "--text-column", "body")
    _, out, _ = call(monkeypatch, capsys, *arguments, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["text"], record["class"], record["note"]) for record in records] == [
        ("good\nfilm", "pos", ""),
        ("", None, "line 4: empty text"),
        ("bad", "neg", ""),
    ]
    _, out, _ = call(monkeypatch, capsys, *arguments)
    assert out.splitlines()[4] == "line 4: empty text"  # behind a text of two lines and two bars


def test_the_threshold_holds_for_what_is_printed(monkeypatch, capsys, folder):
    _, out, _ = call(monkeypatch, capsys, "predict", folder, "good", "good bad", "--threshold", "0.8")
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("  >", "  abstains"))] == [
        [">", "pos"],
        ["abstains:", "below"],
    ]


def test_each_line_of_stdin_is_a_text(monkeypatch, capsys, folder):
    _, out, _ = call(monkeypatch, capsys, "predict", folder, "--json", stdin=b"good\nbad\n")
    assert [json.loads(line)["class"] for line in out.splitlines()] == ["pos", "neg"]


def test_stdin_may_hold_bytes_that_are_not_utf8(monkeypatch, capsys, folder):
    status, out, _ = call(monkeypatch, capsys, "predict", folder, "--json", stdin=b"good caf\xe9\n")
    assert (status, json.loads(out)["text"]) == (0, "good caf\ufffd")


def test_chunks_do_not_change_the_answers(monkeypatch, capsys, folder):
    monkeypatch.setattr(command_line, "CHUNK", 2)
    _, out, _ = call(monkeypatch, capsys, "predict", folder, "good", "bad", "good", "bad", "good", "--json")
    assert [json.loads(line)["class"] for line in out.splitlines()] == ["pos", "neg", "pos", "neg", "pos"]


def test_no_texts_give_no_output(monkeypatch, capsys, folder):
    assert call(monkeypatch, capsys, "predict", folder) == (0, "", "")


def test_a_missing_input_file_is_named(monkeypatch, capsys, folder):
    status, out, error = call(monkeypatch, capsys, "predict", folder, "--input", "nowhere.txt")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert "nowhere.txt: there is no such file" in error


def test_nearest_prints_similarity_and_word(monkeypatch, capsys, tmp_path):
    (tmp_path / "v.txt").write_text("north 0 1\neast 1 0\nnortheast 1 1\n")
    status, out, _ = call(monkeypatch, capsys, "vectors", "nearest", tmp_path / "v.txt", "north", "-k", "1")
    assert (status, out) == (0, "0.707  northeast\n")


def test_python_m_minitext_reads_stdin_and_input(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("bad\n")
    program = [sys.executable, "-m", "minitext", "predict", str(folder), "--json"]
    options = {"capture_output": True, "text": True, "cwd": ROOT}
    piped = subprocess.run(program, input="good\n", check=True, **options)
    read = subprocess.run([*program, "--input", str(tmp_path / "texts.txt")], check=True, **options)
    assert [json.loads(run.stdout)["class"] for run in (piped, read)] == ["pos", "neg"]
    assert (piped.stderr, read.stderr) == ("", "")


# What is refused


def test_the_folder_above_a_run_hints_at_the_run(folder):
    with pytest.raises(UserError, match=r"runs: not a finished run; did you mean .*runs/logistic\?"):
        load_predictor(folder.parent)


def test_a_folder_without_runs_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match=r"not a finished run; give the folder that a script wrote"):
        load_predictor(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: not a finished run"):
        load_predictor(tmp_path / "nowhere")


def test_an_unfinished_run_is_refused(folder):
    (folder / "scores.json").unlink()
    with pytest.raises(UserError, match=r"logistic: not a finished run"):
        load_predictor(folder)


def test_the_hint_does_not_point_at_an_unfinished_run(tmp_path, folder):
    # killed while its figures were drawn: scores are there, the name is not
    shutil.move(folder, folder.with_name("alone.partial"))
    save_run(tmp_path / "runs" / "mlp")
    with pytest.raises(UserError, match=r"did you mean .*runs/mlp\?"):
        load_predictor(tmp_path / "runs")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_class(path: Path) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"names": ["neg", "so-so", "pos"]}))


DAMAGES = {
    "model cut short": ("model.safetensors", cut),
    "model of garbage": ("model.safetensors", lambda path: path.write_bytes(b"garbage" * 100)),
    "model empty": ("model.safetensors", lambda path: path.write_bytes(b"")),
    "model missing": ("model.safetensors", Path.unlink),
    "config cut short": ("config.json", cut),
    "config not an object": ("config.json", lambda path: path.write_text("[]")),
    "config without a key": ("config.json", lambda path: path.write_text('{"classifier": "mlp"}')),
    "config of other classes": ("config.json", lose_a_class),
    "config missing": ("config.json", Path.unlink),
    "words cut short": ("words.txt", lambda path: path.write_text("good\n")),
    "words not text": ("words.txt", lambda path: path.write_bytes(b"\xff\xfe\n\xff\n")),
    "words missing": ("words.txt", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_in_one_line(monkeypatch, capsys, folder, damage: str):
    name, harm = DAMAGES[damage]
    harm(folder / name)
    status, out, error = call(monkeypatch, capsys, "predict", folder, "good")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert f"{folder}: damaged" in error


def test_a_wrong_folder_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    status, out, error = call(monkeypatch, capsys, "predict", tmp_path, "good")
    assert (status, out) == (2, "")
    assert_one_line(error)


def test_debug_keeps_the_traceback(monkeypatch, capsys, tmp_path):
    with pytest.raises(UserError):
        call(monkeypatch, capsys, "--debug", "predict", tmp_path, "good")
