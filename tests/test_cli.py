"""The `minitext` command: what its sub-commands print, their exit status, and errors of one line."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from saved_models import POSITIVE, cut_file, save_finetuned, save_static, static_predictor

from minitext import cli
from minitext.evaluation.attribution import explain
from minitext.utils.errors import UserError

ROOT = Path(__file__).parents[1]
TABLE = 'id,text\na,good\nb,bad\nc,\nd,"good, good\nbad"\ne,bad film\nf,so,so\ng,good bad\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_static(tmp_path / "run")


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "in.csv").write_text(TABLE)
    return tmp_path / "in.csv"


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Run `minitext …` in this process; return its exit status, stdout and stderr."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["minitext", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = cli.main()
        return status, *capsys.readouterr()

    return run


def assert_one_line(error: str) -> None:
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert error.endswith("\n")


def classes(out: str) -> list[str]:
    return [json.loads(line)["class"] for line in out.splitlines()]


# The command


def test_every_sub_command_has_help(capsys, monkeypatch):
    for command in (["predict"], ["explain"], ["evaluate"], ["compare"], ["plot"], ["report"], ["pretrain"],
                    ["vectors", "train"], ["vectors", "nearest"]):  # fmt: skip
        monkeypatch.setattr("sys.argv", ["minitext", *command, "--help"])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert exit.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: minitext {' '.join(command)} ")


def test_unknown_option_is_refused(run_cli, folder, capsys):
    with pytest.raises(SystemExit) as exit:
        run_cli("predict", folder, "good", "--treshold", "0.5")
    assert exit.value.code == 2
    assert "unrecognized arguments: --treshold" in capsys.readouterr().err


@pytest.mark.slow
def test_python_m_minitext_reads_stdin_and_input(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("bad\n")
    program = [sys.executable, "-m", "minitext", "predict", str(folder), "--json"]
    options = {"capture_output": True, "text": True, "cwd": ROOT}
    piped = subprocess.run(program, input="good\n", check=True, **options)
    read = subprocess.run([*program, "--input", str(tmp_path / "texts.txt")], check=True, **options)
    assert [json.loads(run.stdout)["class"] for run in (piped, read)] == ["pos", "neg"]
    assert (piped.stderr, read.stderr) == ("", "")


def test_debug_keeps_the_traceback(run_cli, tmp_path):
    with pytest.raises(UserError):
        run_cli("--debug", "predict", tmp_path, "good")


# predict


def test_texts_are_predicted_in_order(run_cli, folder):
    status, out, _ = run_cli("predict", folder, "good film", "bad film")
    assert status == 0
    assert [line for line in out.splitlines() if not line.startswith("  ")] == ["good film", "bad film"]
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  >")] == ["pos", "neg"]


def test_json_has_one_line_per_text(run_cli, folder):
    _, out, _ = run_cli("predict", folder, "good", "bad", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["text"], record["class"]) for record in records] == [("good", "pos"), ("bad", "neg")]
    assert records[0]["probabilities"]["pos"] == pytest.approx(POSITIVE, abs=1e-6)  # float32 logits


def test_options_may_come_before_the_texts(run_cli, folder):
    _, out, _ = run_cli("predict", folder, "--json", "--device", "cpu", "good")
    assert classes(out) == ["pos"]


def test_each_line_of_a_text_file_is_a_text(run_cli, folder, tmp_path):
    (tmp_path / "texts.txt").write_bytes("good café\n\nbad \xa0".encode() + b"\xff")  # one byte is not UTF-8
    _, out, _ = run_cli("predict", folder, "--json", "--input", tmp_path / "texts.txt")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["good café", "", "bad \xa0\ufffd"]


def test_text_column_of_a_table_is_predicted(run_cli, folder, tmp_path):
    (tmp_path / "a.csv").write_text('id,body\n1,"good\nfilm"\n2,\n3,bad\n')
    arguments = ("predict", folder, "--input", tmp_path / "a.csv", "--text-column", "body")
    _, out, _ = run_cli(*arguments, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["text"], record["class"], record["note"]) for record in records] == [
        ("good\nfilm", "pos", ""),
        ("", None, "line 4: empty text"),
        ("bad", "neg", ""),
    ]
    _, out, _ = run_cli(*arguments)
    assert out.splitlines()[4] == "line 4: empty text"  # after a text of two lines and two bars


def test_threshold_applies_to_printed_predictions(run_cli, folder):
    _, out, _ = run_cli("predict", folder, "good", "good bad", "--threshold", "0.8")
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("  >", "  abstains"))] == [
        [">", "pos"],
        ["abstains:", "below"],
    ]


@pytest.fixture
def five_classes(tmp_path) -> Path:
    folder = tmp_path / "five"
    folder.mkdir()
    static_predictor(5).model.save(folder)
    (folder / "scores.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("is_terminal", "options", "shown"),
    [(True, (), 4), (False, (), 5), (True, ("--top", "5"), 5), (True, ("--top", "1"), 2), (False, ("--top", "2"), 3)],
)
def test_a_terminal_shows_the_three_most_probable_classes_and_a_pipe_all(
    run_cli, monkeypatch, five_classes, is_terminal: bool, options: tuple[str, ...], shown: int
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    _, out, _ = run_cli("predict", five_classes, "good film", *options)
    lines = out.splitlines()[1:]
    assert len(lines) == shown
    assert ("other class" in lines[-1]) == (shown not in (5,))
    assert sum(line.startswith("  >") for line in lines) == 1


def test_json_has_all_classes_on_a_terminal(run_cli, monkeypatch, five_classes):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    _, out, _ = run_cli("predict", five_classes, "good film", "--json")
    assert len(json.loads(out)["probabilities"]) == 5


def test_each_line_of_stdin_is_a_text(run_cli, folder):
    _, out, _ = run_cli("predict", folder, "--json", stdin=b"good\nbad\n")
    assert classes(out) == ["pos", "neg"]


def test_stdin_may_hold_bytes_that_are_not_utf8(run_cli, folder):
    status, out, _ = run_cli("predict", folder, "--json", stdin=b"good caf\xe9\n")
    assert (status, json.loads(out)["text"]) == (0, "good caf\ufffd")


def test_chunks_do_not_change_the_predictions(run_cli, monkeypatch, folder):
    monkeypatch.setattr(cli, "CHUNK", 2)
    _, out, _ = run_cli("predict", folder, "good", "bad", "good", "bad", "good", "--json")
    assert classes(out) == ["pos", "neg", "pos", "neg", "pos"]


def test_no_texts_give_no_output(run_cli, folder):
    assert run_cli("predict", folder) == (0, "", "")


def test_finetuned_run_is_predicted(run_cli, tmp_path):
    save_finetuned(tmp_path / "bert")
    status, out, _ = run_cli("predict", tmp_path / "bert", "good", "", "bad", "--json")
    assert status == 0
    assert classes(out)[1] is None and {*classes(out)} <= {None, "neg", "pos", "so-so"}


def test_output_file_is_summarized(run_cli, folder, source, tmp_path):
    output = tmp_path / "out.csv"
    status, out, error = run_cli("predict", folder, "--input", source, "--output", output, "--threshold", "0.7")
    assert (status, error) == (0, "")  # no progress bar: stderr is not a terminal
    assert out == f"{output}: 7 rows: 3 predicted, 2 below the threshold, 2 without text\n"


def test_resumed_rows_are_in_the_summary(run_cli, monkeypatch, folder, source, tmp_path):
    monkeypatch.setattr("minitext.evaluation.predict_file.CHUNK", 2)
    output = tmp_path / "out.jsonl"
    row = dict.fromkeys(("line", "predicted", "p(neg)", "p(pos)", "note"), 1)
    output.with_name("out.jsonl.partial").write_text((json.dumps(row) + "\n") * 4)
    _, out, _ = run_cli("predict", folder, "--input", source, "--output", output, "--resume")
    assert out == f"{output}: 7 rows: 2 predicted, 0 below the threshold, 1 without text, 4 resumed\n"


REFUSED = {
    "missing input": (["--input", "{}/nowhere.csv", "--output", "{}/out.csv"], "nowhere.csv: no such file"),
    "missing input to print": (["--input", "{}/nowhere.txt"], "nowhere.txt: no such file"),
    "output of an unknown type": (["--input", "{}/in.csv", "--output", "{}/out.xlsx"], "unsupported file type '.xlsx'"),
    "output in a missing folder": (["--input", "{}/in.csv", "--output", "{}/no/out.csv"], "does not exist; create it"),
    "output is the input": (["--input", "{}/in.csv", "--output", "{}/in.csv", "--overwrite"], "is the input"),
    "output is a folder": (["--input", "{}/in.csv", "--output", "{}/folder.csv"], "is a folder"),
    "output exists": (["--input", "{}/in.csv", "--output", "{}/old.csv"], "or --overwrite to replace it"),
    "kept column of an output name": (
        ["--input", "{}/two.csv", "--output", "{}/out.csv", "--keep-columns", "note"],
        "--keep-columns note",
    ),
    "column kept twice": (
        ["--input", "{}/in.csv", "--output", "{}/out.csv", "--keep-columns", "id", "id"],
        "--keep-columns id",
    ),
    "threshold above 1": (["good", "--threshold", "1.5"], "--threshold must be in [0, 1] (got 1.5)"),
    "threshold below 0": (["good", "--threshold", "-0.1"], "(got -0.1)"),
    "threshold not a number": (["good", "--threshold", "nan"], "(got nan)"),
    "output of texts": (["good", "--output", "{}/out.csv"], "needs --input"),
    "texts and an input": (["good", "--input", "{}/in.csv"], "not both"),
    "resume without an output": (["good", "--resume"], "need --output"),
    "JSON into a file": (["--input", "{}/in.csv", "--output", "{}/out.csv", "--json"], "pass an --output that ends in"),
    "top of a file": (["--input", "{}/in.csv", "--output", "{}/out.csv", "--top", "3"], "--top is for printed"),
    "top of JSON": (["good", "--json", "--top", "3"], "--top is for predictions that are not --json"),
    "no top class": (["good", "--top", "0"], "--top must be at least 1 (got 0)"),
    "text column without a file": (["good", "--text-column", "text"], "--text-column needs --input"),
    "unknown device": (["good", "--device", "abacus"], "--device abacus"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictory_or_wrong_options_are_refused_in_one_line(run_cli, folder, source, tmp_path, case: str):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "two.csv").write_text("text,note\ngood,x\n")
    words, message = REFUSED[case]
    before = sorted(tmp_path.iterdir())
    status, out, error = run_cli("predict", folder, *(word.format(tmp_path) for word in words))
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert message in error
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.csv").read_text() == "old" and source.read_text() == TABLE


def test_corrupt_run_is_refused_in_one_line_and_leaves_no_output(run_cli, folder, source, tmp_path):
    cut_file(folder / "model.safetensors")
    status, out, error = run_cli("predict", folder, "--input", source, "--output", tmp_path / "out.csv")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert f"{folder}: corrupt (" in error and "re-train the model" in error
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv"}


# explain


@pytest.fixture
def three_classes(tmp_path) -> Path:
    folder = tmp_path / "logistic"
    folder.mkdir()
    static_predictor(3).model.save(folder)
    (folder / "scores.json").write_text("{}")
    return folder


def test_explain_json_has_one_line_per_text_with_every_word(run_cli, three_classes):
    status, out, _ = run_cli("explain", three_classes, "good film", "caf\u00e9", "--json")
    one, other = (json.loads(line) for line in out.splitlines())
    expected = explain(static_predictor(3), "good film")
    assert (status, one["text"], one["class"]) == (0, "good film", expected.class_names[expected.target])
    assert one["words"][1]["word"] == "film"
    assert one["words"][1]["contribution"] == pytest.approx(expected.words[1].contribution, abs=1e-6)
    assert other["words"] == [{"word": "caf\u00e9", "start": 0, "end": 4, "contribution": 0.0, "seen": False}]
    assert set(one["probabilities"]) == {"c0", "c1", "c2"}


@pytest.mark.parametrize("name", ["c0", "c2"])
def test_explain_takes_a_class(run_cli, three_classes, name: str):
    _, out, _ = run_cli("explain", three_classes, "good", "--class", name, "--device", "cpu")
    assert f"contributions to the logit of {name}" in out


def test_explained_texts_are_separated_by_an_empty_line(run_cli, three_classes):
    _, out, _ = run_cli("explain", three_classes, "good", "bad")
    assert len(out.split("\n\n")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("good", "--class", "best"), r"--class best: not a class of .*logistic; pass one of c0, c1, c2"),
        (("",), r"text 1: empty text; pass at least one word"),
        (("good", " \n"), r"text 2: empty text; pass at least one word"),
    ],
)
def test_explain_refuses_in_one_line(run_cli, three_classes, arguments, message: str):
    status, _, error = run_cli("explain", three_classes, *arguments)
    assert status == 2
    assert re.fullmatch(f"error: {message}\n", error)


# What reaches a terminal


@pytest.mark.parametrize("text", ["good \x1b[31mred", "good \x9b1m", "good \u202egnp"])
def test_control_characters_of_texts_are_escaped_for_a_terminal_but_not_in_json(run_cli, folder, text: str):
    for command in ("predict", "explain"):
        _, out, _ = run_cli(command, folder, text)
        assert not set(out) & set("\x1b\x9b\u202e")
        _, out, _ = run_cli(command, folder, text, "--json")
        assert json.loads(out)["text"] == text


def test_control_characters_of_a_file_name_are_escaped_in_errors(run_cli, folder):
    _, _, error = run_cli("predict", folder, "--input", "\x1b[31mno\nwhere.txt")
    assert error == "error: \\x1b[31mno\\nwhere.txt: no such file\n"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
def test_json_is_utf_8_on_every_console(folder, encoding: str):
    command = [sys.executable, "-m", "minitext", "predict", folder, "good 良い é \U0001f408", "--json"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "good 良い é \U0001f408"
    done = subprocess.run(command[:-1], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert (done.stderr, b"pos" in done.stdout) == (b"", True)


# compare, plot, report, vectors


def test_compare_does_not_replace_a_file(run_cli, folder, tmp_path):
    (tmp_path / "page.html").write_text("precious")
    status, _, error = run_cli("compare", folder, "--out", tmp_path / "page.html")
    assert status == 2
    assert_one_line(error)
    assert "page.html: already exists; pass another file, or --overwrite" in error
    assert (tmp_path / "page.html").read_text() == "precious"


@pytest.mark.parametrize("name", ["scores.json", "predictions.csv", "model.safetensors"])
def test_compare_does_not_replace_a_file_of_a_run(run_cli, folder, name: str):
    (folder / name).touch()
    before = (folder / name).read_bytes()
    status, _, error = run_cli("compare", folder, "--out", folder / name, "--overwrite")
    assert status == 2
    assert "is the input, or a file of it" in error
    assert (folder / name).read_bytes() == before


def test_plot_refuses_a_folder_without_a_run(run_cli, tmp_path):
    status, _, error = run_cli("plot", tmp_path)
    assert status == 2
    assert_one_line(error)
    assert "not a finished run" in error


def test_nearest_prints_similarity_and_word(run_cli, tmp_path):
    (tmp_path / "v.txt").write_text("north 0 1\neast 1 0\nnortheast 1 1\n")
    status, out, _ = run_cli("vectors", "nearest", tmp_path / "v.txt", "north", "-k", "1")
    assert (status, out) == (0, "0.707  northeast\n")


def test_nearest_refuses_less_than_one_word(run_cli):
    status, _, error = run_cli("vectors", "nearest", "sample", "good", "-k", "0")
    assert (status, error) == (2, "error: -k must be >= 1 (got 0)\n")
