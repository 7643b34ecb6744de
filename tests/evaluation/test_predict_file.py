"""A file of predictions has a row for each row of the input, in order; stopped anywhere and resumed, it ends with the
same bytes; and it never holds more than a few chunks in memory.
"""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predictor import POS, assert_one_line, call, change, save_finetuned, save_run

from minitext.data.words import word_ids
from minitext.evaluation import predictor as predict
from minitext.evaluation.predict_file import Counts, PredictConfig, predict_file
from minitext.evaluation.predictor import load_predictor
from minitext.models import mean_encoder as encoder
from minitext.models.mean_encoder import MeanEncoder
from minitext.models.static import LogisticRegression, StaticClassifier
from minitext.utils.errors import UserError

ROOT = Path(__file__).parents[2]
TABLE = 'id,text\na,good\nb,bad\nc,\nd,"good, good\nbad"\ne,bad film\nf,so,so\ng,good bad\n'


@pytest.fixture
def run(tmp_path) -> Path:
    return save_run(tmp_path / "run")


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "in.csv").write_text(TABLE)
    return tmp_path / "in.csv"


@pytest.fixture
def small_chunks(monkeypatch):
    """Two texts a chunk, their words looked up in this process."""

    def in_this_process(texts, index, chunk: int) -> Iterator:
        texts = iter(texts)
        while some := list(islice(texts, chunk)):
            yield word_ids(some, index)

    monkeypatch.setattr(encoder, "CHUNK", 2)
    monkeypatch.setattr(encoder, "word_ids_in_chunks", in_this_process)


def write(run: Path, source: Path, output: Path, **options: object) -> bytes:
    predict_file(run, PredictConfig(input=str(source), output=str(output), **options))
    return output.read_bytes()


def read(output: Path) -> list[dict]:
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text().split("\n")[:-1]]
    with open(output, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if output.suffix == ".tsv" else ",", strict=True))


# What is written


def test_a_row_for_each_row_with_line_class_probabilities_and_note(run, source, tmp_path):
    counts = predict_file(run, PredictConfig(input=str(source), output=str(tmp_path / "out.csv"), keep_columns=("id",)))
    rows = read(tmp_path / "out.csv")
    assert list(rows[0]) == ["line", "id", "predicted", "p(neg)", "p(pos)", "note"]
    assert [row["line"] for row in rows] == ["2", "3", "4", "5", "7", "8", "9"]  # row d takes two lines
    assert [row["id"] for row in rows] == ["a", "b", "c", "d", "e", "", "g"]
    assert [row["predicted"] for row in rows] == ["pos", "neg", "", "pos", "neg", "", "neg"]  # an even text: the first
    assert [row["note"] for row in rows] == ["", "", "empty text", "", "", "3 fields for 2 columns", ""]
    assert float(rows[0]["p(pos)"]) == pytest.approx(POS, abs=1e-6)  # float32
    assert (rows[2]["p(neg)"], rows[5]["p(pos)"]) == ("", "")
    assert counts == Counts(rows=7, below=0, unread=2)


@pytest.mark.parametrize("kind", [".tsv", ".jsonl"])
def test_the_other_kinds_hold_the_same(run, source, tmp_path, kind: str):
    write(run, source, tmp_path / "out.csv")
    write(run, source, tmp_path / f"out{kind}")
    found = [
        {key: "" if value is None else str(value) for key, value in row.items()}
        for row in read(tmp_path / f"out{kind}")
    ]
    assert found == read(tmp_path / "out.csv")


def test_below_the_threshold_no_class_is_named_but_its_probability_is(run, source, tmp_path):
    write(run, source, tmp_path / "out.csv", threshold=0.7)
    rows = read(tmp_path / "out.csv")
    assert [row["predicted"] for row in rows] == ["pos", "neg", "", "", "neg", "", ""]  # d: one of three words is bad
    assert [rows[i]["note"] for i in (3, 6)] == ["below threshold"] * 2
    assert float(rows[6]["p(pos)"]) == 0.5


def test_a_class_exactly_at_the_threshold_is_named(run, tmp_path):
    (tmp_path / "in.txt").write_text("nothing known\n")  # zeros, so one half each
    write(run, tmp_path / "in.txt", tmp_path / "out.jsonl", threshold=0.5)
    assert read(tmp_path / "out.jsonl")[0]["predicted"] == "neg"


def test_numbers_are_those_of_the_run_to_the_last_bit_of_float32(run, source, tmp_path):
    write(run, source, tmp_path / "out.csv")
    found = torch.tensor([float(row["p(pos)"]) for row in read(tmp_path / "out.csv") if not row["note"]])
    texts = ["good", "bad", "good, good\nbad", "bad film", "good bad"]
    # the chunk holds seven texts here and five there, which may round the last bit another way
    assert (found - load_predictor(run).predict(texts)[:, 1]).abs().max() <= 1e-7


@pytest.mark.parametrize("content", ["text\n", "", "\n\n"])
def test_an_input_without_rows_gives_an_output_without_rows(run, tmp_path, content: str):
    name = "in.csv" if content == "text\n" else "in.jsonl"
    (tmp_path / name).write_text(content)
    assert write(run, tmp_path / name, tmp_path / "out.csv") == b"line,predicted,p(neg),p(pos),note\r\n"
    assert write(run, tmp_path / name, tmp_path / "out.jsonl") == b""


def test_nothing_is_left_beside_the_output(run, source, tmp_path):
    write(run, source, tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv", "out.csv"}


# Laws

TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from('",\n\r\t good bad')), max_size=12)


@settings(deadline=None, max_examples=40)  # files, and a shared machine
@given(st.lists(st.tuples(TEXT, TEXT), max_size=9), st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_rows_in_are_rows_out(cells: list[tuple[str, str]], kind: str):
    with tempfile.TemporaryDirectory() as name:
        run, source, output = save_run(Path(name, "run")), Path(name, "in.csv"), Path(name, "out" + kind)
        with open(source, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("key", "text"), *cells])
        counts = predict_file(run, PredictConfig(input=str(source), output=str(output), keep_columns=("key",)))
        rows = read(output)
    assert [row["key"] for row in rows] == [key for key, _ in cells]
    assert [row["note"] for row in rows] == ["" if text.strip() else "empty text" for _, text in cells]
    assert counts.rows == len(cells)


def test_streamed_is_all_at_once_whatever_the_chunk(run, source, tmp_path, monkeypatch):
    whole = write(run, source, tmp_path / "whole.csv")
    for size in (1, 2, 3):  # here in other processes
        monkeypatch.setattr(encoder, "CHUNK", size)
        assert write(run, source, tmp_path / f"out{size}.csv") == whole  # vectors of width 1: nothing to round apart


def test_a_token_model_s_rows_are_sorted_in_a_chunk_and_come_back_in_order(tmp_path, monkeypatch):
    save_finetuned(tmp_path / "run")
    generator = random.Random(0)
    texts = [" ".join(generator.choices(["good", "bad", "so"], k=generator.randint(1, 9))) for _ in range(50)]
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    monkeypatch.setattr(predict, "TOKEN_CHUNK", 20)
    write(tmp_path / "run", tmp_path / "in.txt", tmp_path / "out.jsonl")
    found = torch.tensor([list(row.values())[2:5] for row in read(tmp_path / "out.jsonl")])
    expected = torch.cat([load_predictor(tmp_path / "run").predict([text]) for text in texts])
    assert (found - expected).abs().max() < 1e-6  # float32, padded here and not there
    assert (expected - expected[0]).abs().max() > 1e-2  # the case tells


# Memory


@pytest.mark.parametrize("track", ["static", "finetune"])
def test_only_a_few_chunks_are_read_ahead(tmp_path, monkeypatch, track: str):
    monkeypatch.setattr(encoder, "CHUNK", 4)
    monkeypatch.setattr(predict, "TOKEN_CHUNK", 4)
    save_run(tmp_path / "run") if track == "static" else save_finetuned(tmp_path / "run")
    taken = given_back = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for _ in range(400):
            taken += 1
            yield "good"

    for probabilities in load_predictor(tmp_path / "run").predict_in_chunks(texts()):
        assert taken - given_back <= 4
        given_back += len(probabilities)
    assert given_back == 400


# Stopped and resumed


@pytest.fixture
def stopped(run, source, tmp_path, small_chunks) -> tuple[bytes, bytes, bytes]:
    """What an uninterrupted prediction writes; the partial output and journal of one that stopped in its last chunk."""
    whole = write(run, source, tmp_path / "whole.csv", keep_columns=("id",))
    source.write_text(TABLE + '"never closed\n')
    with pytest.raises(UserError):
        write(run, source, tmp_path / "out.csv", keep_columns=("id",))
    source.write_text(TABLE)
    return whole, *((tmp_path / name).read_bytes() for name in ("out.csv.partial", "out.csv.partial.jsonl"))


def test_cut_at_any_byte_and_resumed_ends_with_the_same_bytes(run, source, tmp_path, stopped):
    whole, partial, journal = stopped
    assert whole.startswith(partial) and partial.count(b"\r\n") == 7  # a header and three chunks of two
    cuts = [(partial[:end], journal) for end in range(len(partial) + 1)]
    cuts += [(partial, journal[:end]) for end in range(0, len(journal) + 1, 11)]
    cuts += [(partial + b"6,half a row" * 50, journal), (partial, journal + b"\0" * 20)]  # what a power cut can leave
    for partial_left, journal_left in cuts:
        (tmp_path / "out.csv.partial").write_bytes(partial_left)
        (tmp_path / "out.csv.partial.jsonl").write_bytes(journal_left)
        assert write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True) == whole
        (tmp_path / "out.csv").unlink()


@pytest.mark.parametrize("lost", [1, 5])  # its line end alone, or half a line
def test_a_half_written_journal_is_whole_again_after_the_next_stop(run, source, tmp_path, stopped, lost: int):
    _, partial, journal = stopped
    (tmp_path / "out.csv.partial.jsonl").write_bytes(journal[:-lost])
    source.write_text(TABLE + '"never closed\n')
    with pytest.raises(UserError):
        write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True)
    assert (tmp_path / "out.csv.partial").read_bytes() == partial
    assert (tmp_path / "out.csv.partial.jsonl").read_bytes() == journal


def test_a_resumed_prediction_counts_all_rows(run, source, tmp_path, stopped):
    options = PredictConfig(input=str(source), output=str(tmp_path / "out.csv"), keep_columns=("id",), resume=True)
    assert predict_file(run, options) == Counts(rows=7, below=0, unread=2)


def test_a_resumed_prediction_does_not_predict_again_what_is_done(run, source, tmp_path, stopped, monkeypatch):
    predicted = []
    encode = MeanEncoder.encode_in_chunks

    def watched(self: MeanEncoder, texts) -> Iterator:
        return encode(self, (predicted.append(text) or text for text in texts))

    monkeypatch.setattr(MeanEncoder, "encode_in_chunks", watched)
    write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True)
    assert predicted == ["good bad"]


def test_a_row_that_stopped_it_can_be_mended_and_the_rest_goes_on(run, source, tmp_path, stopped):
    source.write_text(TABLE + "h,mended good\n")
    whole = write(run, source, tmp_path / "other.csv", keep_columns=("id",))
    assert write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True) == whole
    assert read(tmp_path / "out.csv")[-1]["predicted"] == "pos"


def test_resume_with_nothing_to_resume_begins(run, source, tmp_path):
    assert write(run, source, tmp_path / "out.csv", resume=True) == write(run, source, tmp_path / "whole.csv")


def test_without_resume_an_old_partial_is_replaced(run, source, tmp_path, stopped):
    (tmp_path / "out.csv.partial").write_bytes(b"anything")
    assert write(run, source, tmp_path / "out.csv", keep_columns=("id",)) == stopped[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_columns": ("id",), "threshold": 0.7}, "threshold was 0.0, is 0.7"),
        ({}, "columns was"),
        ({"keep_columns": ("id",), "text_column": "id"}, "are not those that were predicted"),
    ],
)
def test_other_settings_are_not_resumed(run, source, tmp_path, stopped, options: dict, said: str):
    with pytest.raises(UserError, match=said):
        write(run, source, tmp_path / "out.csv", resume=True, **options)
    assert (tmp_path / "out.csv.partial").read_bytes() == stopped[1]  # and nothing is lost


def test_another_run_is_not_resumed(run, source, tmp_path, stopped):
    classifier = LogisticRegression(1, 2)
    classifier.load_state_dict({"linear.weight": torch.tensor([[3.0]]), "linear.bias": torch.zeros(1)})
    StaticClassifier(MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]])), classifier, ("neg", "pos")).save(run)
    with pytest.raises(UserError, match=r"run was \w{16}, is \w{16}"):
        write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True)


def test_a_run_with_another_temperature_is_not_resumed(run, source, tmp_path, stopped):
    change(run / "config.json", temperature=2.0)
    with pytest.raises(UserError, match="run was"):
        write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True)


@pytest.mark.parametrize("content", [TABLE.replace("bad film", "bad movie"), "id,text\na,good\n"])
def test_an_input_whose_done_rows_have_changed_is_not_resumed(run, source, tmp_path, stopped, content: str):
    source.write_text(content)
    with pytest.raises(UserError, match="its first 6 rows are not those that were predicted"):
        write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True)


def test_an_input_that_cannot_be_begun_leaves_nothing(run, tmp_path):
    (tmp_path / "in.csv").write_text("id,words\n1,good\n")
    with pytest.raises(UserError, match=r"--text-column$"):
        write(run, tmp_path / "in.csv", tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv"}


# On the command line


def test_the_command_says_what_became_of_the_rows(monkeypatch, capsys, run, source, tmp_path):
    arguments = ("predict", run, "--input", source, "--output", tmp_path / "out.csv", "--threshold", "0.7")
    status, out, error = call(monkeypatch, capsys, *arguments)
    assert (status, error) == (0, "")  # no bar: this is no terminal
    assert out == f"{tmp_path / 'out.csv'}: 7 rows, 3 predicted, 2 below the threshold, 2 without a text\n"


def test_a_bar_is_drawn_on_a_terminal(monkeypatch, run, source, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    write(run, source, tmp_path / "out.csv")
    assert "0%" in sys.stderr.getvalue()


REFUSED = {
    "an input that is not there": (["--input", "{}/nowhere.csv", "--output", "{}/out.csv"], "there is no such file"),
    "an output of unknown kind": (["--input", "{}/in.csv", "--output", "{}/out.xlsx"], "unknown kind '.xlsx'"),
    "an output in no folder": (["--input", "{}/in.csv", "--output", "{}/no/out.csv"], "there is no folder"),
    "an output that is the input": (["--input", "{}/in.csv", "--output", "{}/in.csv", "--overwrite"], "is the input"),
    "an output that is a folder": (["--input", "{}/in.csv", "--output", "{}/folder.csv"], "is a folder"),
    "an output that exists": (["--input", "{}/in.csv", "--output", "{}/old.csv"], "replace it with --overwrite"),
    "a kept column that clashes": (
        ["--input", "{}/two.csv", "--output", "{}/out.csv", "--keep-columns", "note"],
        "--keep-columns note",
    ),
    "a column kept twice": (
        ["--input", "{}/in.csv", "--output", "{}/out.csv", "--keep-columns", "id", "id"],
        "--keep-columns id",
    ),
    "a threshold above 1": (["good", "--threshold", "1.5"], "--threshold 1.5: a probability lies from 0 to 1"),
    "a threshold below 0": (["good", "--threshold", "-0.1"], "--threshold -0.1"),
    "a threshold that is no number": (["good", "--threshold", "nan"], "--threshold nan"),
    "an output of texts": (["good", "--output", "{}/out.csv"], "goes with --input"),
    "texts and an input": (["good", "--input", "{}/in.csv"], "not both"),
    "resuming what is printed": (["good", "--resume"], "go with --output"),
    "printing into a file": (["--input", "{}/in.csv", "--output", "{}/out.csv", "--json"], "--json: prints"),
    "a text column of no file": (["good", "--text-column", "text"], "--text-column: goes with --input"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(monkeypatch, capsys, run, source, tmp_path, case: str):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "two.csv").write_text("text,note\ngood,x\n")
    words, said = REFUSED[case]
    before = sorted(tmp_path.iterdir())
    status, out, error = call(monkeypatch, capsys, "predict", run, *(word.format(tmp_path) for word in words))
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert said in error
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.csv").read_text() == "old" and source.read_text() == TABLE


def test_a_damaged_run_is_refused_in_one_line_and_leaves_nothing(monkeypatch, capsys, run, source, tmp_path):
    (run / "model.safetensors").write_bytes(b"")
    status, out, error = call(monkeypatch, capsys, "predict", run, "--input", source, "--output", tmp_path / "out.csv")
    assert (status, out) == (2, "")
    assert_one_line(error)
    assert f"{run}: damaged" in error
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv"}


def test_overwrite_replaces_the_output(run, source, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    assert write(run, source, tmp_path / "out.csv", overwrite=True).startswith(b"line,")


# Killed processes


@pytest.fixture
def many(tmp_path) -> Path:
    """400,000 short texts: 98 chunks, some seconds of work."""
    generator = random.Random(0)
    lines = (" ".join(generator.choices(["good", "bad", "film"], k=5)) for _ in range(400_000))
    (tmp_path / "many.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "many.txt"


def start(run: Path, source: Path, output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "minitext", "predict", run, "--input", source, "--output", output, *more]
    # a session of its own: a signal to its group reaches its workers, as Ctrl-C in a terminal does
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def chunks_done(output: Path) -> int:
    journal = output.with_name(output.name + ".partial.jsonl")
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


def wait_for_chunks(process: subprocess.Popen, output: Path, count: int) -> None:
    while chunks_done(output) < count:
        assert process.poll() is None
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(run, many, tmp_path):
    whole = write(run, many, tmp_path / "whole.csv")
    output = tmp_path / "out.csv"
    done = 0
    for kill in range(5):
        process = start(run, many, output, "--resume")
        wait_for_chunks(process, output, done + 2 + kill)
        process.kill()
        process.wait()
        done = chunks_done(output)
    assert start(run, many, output, "--resume").wait() == 0
    assert output.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals a group of processes")
def test_ctrl_c_says_in_one_line_how_to_go_on(run, many, tmp_path):
    output = tmp_path / "out.csv"
    process = start(run, many, output)
    wait_for_chunks(process, output, 3)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.count("\n") == 1, error
    assert error.startswith("interrupted: the first ") and "--resume" in error
    assert start(run, many, output, "--resume").wait() == 0
    assert output.read_bytes() == write(run, many, tmp_path / "whole.csv")
