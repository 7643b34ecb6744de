"""A file of predictions has one row per row of the input, in order; an interrupted one is resumed to the same bytes;
and only one chunk is in memory.
"""

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from saved_models import POSITIVE, save_finetuned, save_static

from minitext.data.readers import read_rows, stream_texts
from minitext.evaluation import predict_file as module
from minitext.evaluation.predict_file import PredictConfig, format_rows, predict_file, start_partial
from minitext.evaluation.predictor import Predictor
from minitext.utils.errors import UserError
from minitext.utils.io import lock_output

ROOT = Path(__file__).parents[2]
TABLE = 'id,text\na,good\nb,bad\nc,\nd,"good, good\nbad"\ne,bad film\nf,so,so\ng,good bad\n'
UNCLOSED = '"never closed\n'  # the reader cannot find the end of this row


@pytest.fixture
def run(tmp_path) -> Path:
    return save_static(tmp_path / "run")


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "in.csv").write_text(TABLE)
    return tmp_path / "in.csv"


def write(run: Path, source: Path, output: Path, **options: object) -> bytes:
    predict_file(run, PredictConfig(input=str(source), output=str(output), **options))
    return output.read_bytes()


def read(output: Path) -> list[dict]:
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    with open(output, encoding="utf-8", newline="") as file:
        if output.suffix == ".tsv":  # every line is a row, every tab separates two fields
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n"))
        return list(csv.DictReader(file, strict=True))


# Output


def test_each_row_has_its_line_class_probabilities_and_note(run, source, tmp_path):
    counts = predict_file(run, PredictConfig(input=str(source), output=str(tmp_path / "out.csv"), keep_columns=("id",)))
    rows = read(tmp_path / "out.csv")
    assert list(rows[0]) == ["line", "id", "predicted", "p(neg)", "p(pos)", "note"]
    assert [row["line"] for row in rows] == ["2", "3", "4", "5", "7", "8", "9"]  # row d takes two lines
    assert [row["id"] for row in rows] == ["a", "b", "c", "d", "e", "", "g"]
    assert [row["predicted"] for row in rows] == ["pos", "neg", "", "pos", "neg", "", "neg"]  # a tie: the first class
    assert [row["note"] for row in rows] == ["", "", "empty text", "", "", "3 fields for 2 columns", ""]
    assert float(rows[0]["p(pos)"]) == pytest.approx(POSITIVE, abs=1e-6)  # float32
    assert (rows[2]["p(neg)"], rows[5]["p(pos)"]) == ("", "")
    assert counts == {"predicted": 5, "below the threshold": 0, "without text": 2, "resumed": 0}


@pytest.mark.parametrize("kind", [".tsv", ".jsonl"])
def test_other_file_types_hold_the_same(run, source, tmp_path, kind: str):
    write(run, source, tmp_path / "out.csv")
    write(run, source, tmp_path / f"out{kind}")
    found = [
        {key: "" if value is None else str(value) for key, value in row.items()}
        for row in read(tmp_path / f"out{kind}")
    ]
    assert found == read(tmp_path / "out.csv")


def test_below_the_threshold_no_class_is_predicted_but_its_probability_is_written(run, source, tmp_path):
    write(run, source, tmp_path / "out.csv", threshold=0.7)
    rows = read(tmp_path / "out.csv")
    assert [row["predicted"] for row in rows] == ["pos", "neg", "", "", "neg", "", ""]  # d: one of three words is bad
    assert [rows[i]["note"] for i in (3, 6)] == ["below threshold"] * 2
    assert float(rows[6]["p(pos)"]) == 0.5


def test_class_exactly_at_the_threshold_is_predicted(run, tmp_path):
    (tmp_path / "in.txt").write_text("nothing known\n")  # zeros, so one half each
    write(run, tmp_path / "in.txt", tmp_path / "out.jsonl", threshold=0.5)
    assert read(tmp_path / "out.jsonl")[0]["predicted"] == "neg"


@pytest.mark.parametrize("content", ["text\n", "", "\n\n"])
def test_input_without_rows_gives_output_without_rows(run, tmp_path, content: str):
    name = "in.csv" if content == "text\n" else "in.jsonl"
    (tmp_path / name).write_text(content)
    assert write(run, tmp_path / name, tmp_path / "out.csv") == b"line,predicted,p(neg),p(pos),note\r\n"
    assert write(run, tmp_path / name, tmp_path / "out.jsonl") == b""


def test_only_the_output_is_left(run, source, tmp_path):
    write(run, source, tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv", "out.csv"}


def test_overwrite_replaces_the_output(run, source, tmp_path):
    (tmp_path / "out.csv").write_text("old")
    assert write(run, source, tmp_path / "out.csv", overwrite=True).startswith(b"line,")


def test_progress_bar_is_drawn_on_a_terminal(monkeypatch, run, source, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    write(run, source, tmp_path / "out.csv")
    assert "0%" in sys.stderr.getvalue()


def test_input_that_cannot_be_read_leaves_nothing(run, tmp_path):
    (tmp_path / "in.csv").write_text("id,words\n1,good\n")
    with pytest.raises(UserError, match="--text-column"):
        write(run, tmp_path / "in.csv", tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv"}


# Laws

TEXT = st.text(  # a file with NUL is binary
    st.one_of(st.characters(codec="utf-8", exclude_characters="\0"), st.sampled_from('",\n\r\t good bad')), max_size=12
)
CELLS = st.lists(st.tuples(TEXT, TEXT), max_size=9)
KIND = st.sampled_from([".csv", ".tsv", ".jsonl"])


def one_line(text: str) -> str:
    """A text as a field of TSV."""
    return re.sub(r"[\t\r\n]", " ", text)


def write_table(path: Path, cells: list[tuple[str, str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("key", "text"), *cells])
    return path


@settings(deadline=None, max_examples=40)  # files, and a shared machine
@given(CELLS, KIND)
def test_every_input_row_is_an_output_row(cells: list[tuple[str, str]], kind: str):
    with tempfile.TemporaryDirectory() as name:
        run, output = save_static(Path(name, "run")), Path(name, "out" + kind)
        source = write_table(Path(name, "in.csv"), cells)
        counts = predict_file(run, PredictConfig(input=str(source), output=str(output), keep_columns=("key",)))
        rows = read(output)
    assert [row["key"] for row in rows] == [one_line(key) if kind == ".tsv" else key for key, _ in cells]
    assert [row["note"] for row in rows] == ["" if text.strip() else "empty text" for _, text in cells]
    assert counts.total() == len(cells)


@settings(deadline=None, max_examples=40)
@given(CELLS, KIND)
def test_our_reader_finds_the_texts_and_classes_that_were_written(cells: list[tuple[str, str]], kind: str):
    with tempfile.TemporaryDirectory() as name:
        run, output = save_static(Path(name, "run")), Path(name, "out" + kind)
        write(run, write_table(Path(name, "in.csv"), cells), output, keep_columns=("text",))
        predicted = [row["predicted"] for row in read(output)]
        with open(output, "rb") as file:
            rows = list(stream_texts(output, file, "text", ("predicted",)))
    texts = [one_line(text) if kind == ".tsv" else text for _, text in cells]
    texts = [text if text.strip() else "" for text in texts]  # a row without text has none
    assert [row.text for row in rows] == texts
    assert [row.kept[0] or "" for row in rows] == [label or "" for label in predicted]


@pytest.mark.parametrize("field", ["a\tb", "a\nb", "a\rb", "a\0b"])
def test_a_field_of_tsv_is_never_two(field: str):
    assert format_rows(".tsv", ["x", "y"], [(field, None), (1.5, '"a')]) == 'a b\t\n1.5\t"a\n'


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
def test_labeled_texts_of_a_prediction_can_be_trained_on(run, tmp_path, kind: str):
    """Quotes at the beginning, inside, unbalanced; the predicted class as the label."""
    texts = ['"good', 'good "film"', "bad", '"', "a bad\tday", '"bad"']
    write_table(tmp_path / "in.csv", [(str(i), text) for i, text in enumerate(texts)])
    write(run, tmp_path / "in.csv", tmp_path / f"out{kind}", keep_columns=("text",))
    rows = read_rows(str(tmp_path / f"out{kind}"), "text", "predicted")
    assert [row.text for row in rows] == [one_line(text) if kind == ".tsv" else text for text in texts]
    assert [row.label for row in rows] == ["pos", "pos", "neg", "neg", "neg", "neg"]  # a tie: the first class


@settings(deadline=None, max_examples=40)
@given(CELLS, KIND, st.data())
def test_output_cut_at_any_byte_is_resumed_to_the_same_bytes(cells: list[tuple[str, str]], kind: str, data):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 2)
        run, source = save_static(Path(name, "run")), write_table(Path(name, "in.csv"), cells)
        whole = write(run, source, Path(name, "whole" + kind), keep_columns=("key",))
        end = data.draw(st.integers(0, len(whole)))
        Path(name, f"out{kind}.partial").write_bytes(whole[:end])
        assert write(run, source, Path(name, "out" + kind), keep_columns=("key",), resume=True) == whole


def test_chunk_size_does_not_change_the_output(run, source, tmp_path, monkeypatch):
    whole = write(run, source, tmp_path / "whole.csv")
    for size in (1, 2, 3):
        monkeypatch.setattr(module, "CHUNK", size)
        assert write(run, source, tmp_path / f"out{size}.csv") == whole  # vectors of width 1: nothing to round


def test_texts_of_a_token_model_are_sorted_by_length_and_returned_in_order(tmp_path, monkeypatch):
    save_finetuned(tmp_path / "run")
    generator = random.Random(0)
    texts = [" ".join(generator.choices(["good", "bad", "so"], k=generator.randint(1, 9))) for _ in range(50)]
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    monkeypatch.setattr(module, "CHUNK", 20)
    write(tmp_path / "run", tmp_path / "in.txt", tmp_path / "out.jsonl")
    found = np.array([list(row.values())[2:5] for row in read(tmp_path / "out.jsonl")])
    predictor = Predictor.load(tmp_path / "run")
    expected = np.concatenate([predictor.predict_proba([text]) for text in texts])
    assert np.abs(found - expected).max() < 1e-6  # float32
    assert np.abs(expected - expected[0]).max() > 1e-2  # the texts differ


def test_only_one_chunk_of_rows_is_read_ahead(run, tmp_path, monkeypatch):
    read_count = predicted = 0

    def rows(*_arguments) -> Iterator[module.TextRow]:
        nonlocal read_count
        for line in range(40):
            read_count += 1
            yield module.TextRow(line, "good")

    real = Predictor.predict_proba

    def predict_proba(self: Predictor, texts: list[str]) -> np.ndarray:
        nonlocal predicted
        assert read_count - predicted <= 4
        predicted += len(texts)
        return real(self, texts)

    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "stream_texts", rows)
    monkeypatch.setattr(Predictor, "predict_proba", predict_proba)
    (tmp_path / "in.txt").write_text("not read")
    write(run, tmp_path / "in.txt", tmp_path / "out.csv")
    assert predicted == 40


# Resume


@pytest.fixture
def interrupted(run, source, tmp_path, monkeypatch) -> tuple[bytes, bytes]:
    """An uninterrupted output, and the partial output of a prediction that failed in its last chunk of two rows."""
    monkeypatch.setattr(module, "CHUNK", 2)
    whole = write(run, source, tmp_path / "whole.csv", keep_columns=("id",))
    source.write_text(TABLE + UNCLOSED)
    with pytest.raises(UserError, match=r"line 10: .*; finished rows are in .*out.csv.partial; add --resume"):
        write(run, source, tmp_path / "out.csv", keep_columns=("id",))
    source.write_text(TABLE)
    return whole, (tmp_path / "out.csv.partial").read_bytes()


def test_failed_prediction_keeps_the_finished_chunks(interrupted):
    whole, partial = interrupted
    assert whole.startswith(partial) and partial.count(b"\r\n") == 7  # a header and three chunks of two


def test_a_partial_tsv_with_quotes_is_resumed_to_the_same_bytes(run, tmp_path, monkeypatch):
    """A quote in TSV is a character as any other: it does not join lines."""
    monkeypatch.setattr(module, "CHUNK", 2)
    source = write_table(tmp_path / "in.csv", [(str(i), text) for i, text in enumerate(['"good', "bad", 'a " b'] * 3)])
    whole = write(run, source, tmp_path / "whole.tsv", keep_columns=("text",))
    lines = whole.splitlines(keepends=True)
    for kept in (1, 3, 4, 8, 10):  # lines, with the header
        (tmp_path / "out.tsv.partial").write_bytes(b"".join(lines[:kept]))
        config = PredictConfig(input=str(source), output=str(tmp_path / "out.tsv"), keep_columns=("text",), resume=True)
        assert predict_file(run, config)["resumed"] == (kept - 1) // 2 * 2
        assert (tmp_path / "out.tsv").read_bytes() == whole
        (tmp_path / "out.tsv").unlink()


@pytest.mark.parametrize("more", [b"", b"9,half a row", b'9,"half a row\r\n', b"\0" * 20])
def test_cut_off_last_line_is_dropped(run, source, tmp_path, interrupted, more: bytes):
    (tmp_path / "out.csv.partial").write_bytes(interrupted[1] + more)
    assert write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True) == interrupted[0]


def test_resumed_rows_are_not_predicted_again(run, source, tmp_path, interrupted, monkeypatch):
    predicted = []
    real = Predictor.predict_proba
    monkeypatch.setattr(Predictor, "predict_proba", lambda self, texts: predicted.extend(texts) or real(self, texts))
    config = PredictConfig(input=str(source), output=str(tmp_path / "out.csv"), keep_columns=("id",), resume=True)
    assert predict_file(run, config) == {"predicted": 1, "below the threshold": 0, "without text": 0, "resumed": 6}
    assert predicted == ["good bad"]


def test_unreadable_row_can_be_fixed_before_resuming(run, source, tmp_path, interrupted):
    source.write_text(TABLE + "h,fixed good\n")
    whole = write(run, source, tmp_path / "other.csv", keep_columns=("id",))
    assert write(run, source, tmp_path / "out.csv", keep_columns=("id",), resume=True) == whole
    assert read(tmp_path / "out.csv")[-1]["predicted"] == "pos"


def test_resume_without_a_partial_output_starts_from_the_first_row(run, source, tmp_path):
    assert write(run, source, tmp_path / "out.csv", resume=True) == write(run, source, tmp_path / "whole.csv")


def test_without_resume_an_old_partial_output_is_replaced(run, source, tmp_path, interrupted):
    assert write(run, source, tmp_path / "out.csv", keep_columns=("id",)) == interrupted[0]


def test_partial_output_with_other_columns_is_refused_and_kept(run, source, tmp_path, interrupted):
    with pytest.raises(UserError, match="cannot resume: its columns differ"):
        write(run, source, tmp_path / "out.csv", resume=True)
    assert (tmp_path / "out.csv.partial").read_bytes() == interrupted[1]


@pytest.mark.parametrize(("rows", "kept"), [(0, 0), (1, 0), (2, 2), (5, 4)])
def test_partial_output_is_cut_at_a_multiple_of_the_chunk(tmp_path, monkeypatch, rows: int, kept: int):
    monkeypatch.setattr(module, "CHUNK", 2)
    partial = tmp_path / "out.jsonl.partial"
    line = b'{"line": 2, "note": "\\""}\n'
    partial.write_bytes(line * rows)
    assert start_partial(partial, ".jsonl", ["line", "note"], resume=True) == kept
    assert partial.read_bytes() == line * kept


def test_ctrl_c_names_the_partial_output(run, source, tmp_path, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "predict_proba", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"finished rows are in .*out.csv.partial; add --resume to continue"):
        write(run, source, tmp_path / "out.csv")


# Other files and processes


def test_a_second_process_on_the_same_output_is_refused(run, source, tmp_path):
    with lock_output(tmp_path / "out.csv"):
        with pytest.raises(UserError, match="out.csv: another process is writing it"):
            write(run, source, tmp_path / "out.csv")
        write(run, source, tmp_path / "other.csv")
    write(run, source, tmp_path / "out.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in.csv", "out.csv", "other.csv"}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("content", ["my notes\n", "line of a poem\n", '{"id": 1}\n', "\0\0"])
def test_a_partial_file_that_is_not_of_predictions_is_never_replaced(run, source, tmp_path, kind, content, resume):
    partial = tmp_path / f"out{kind}.partial"
    partial.write_text(content)
    with pytest.raises(UserError, match=r"partial: not unfinished predictions; move it away"):
        write(run, source, tmp_path / f"out{kind}", resume=resume)
    assert partial.read_text() == content


def test_partial_json_lines_with_other_columns_are_refused_and_kept(run, source, tmp_path):
    partial, content = tmp_path / "out.jsonl.partial", '{"line": 2, "predicted": "pos", "note": ""}\n'
    partial.write_text(content)
    with pytest.raises(UserError, match="cannot resume: its columns differ"):
        write(run, source, tmp_path / "out.jsonl", resume=True)
    assert partial.read_text() == content


def test_a_file_of_the_run_is_an_input(run, source):
    (run / "predictions.csv").write_text("precious")
    with pytest.raises(UserError, match="is the input, or a file of it"):
        write(run, source, run / "predictions.csv", overwrite=True)
    assert (run / "predictions.csv").read_text() == "precious"


def test_a_full_disk_keeps_the_finished_rows(run, source, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    whole, real, calls = write(run, source, tmp_path / "whole.csv"), module.format_rows, []

    def full(*arguments: object) -> str:
        calls.append(arguments)
        if len(calls) == 4:  # the header and two chunks are written
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"No space left.*out.csv.partial; add --resume"),
    ):
        patch.setattr(module, "format_rows", full)
        write(run, source, tmp_path / "out.csv")
    assert write(run, source, tmp_path / "out.csv", resume=True) == whole


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"])
def test_cells_that_a_spreadsheet_would_evaluate_are_written_as_they_are(run, tmp_path, cell: str):
    """A prefix would change the data of every program that is no spreadsheet; the documentation warns."""
    with open(tmp_path / "in.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), (cell, "good")])
    write(run, tmp_path / "in.csv", tmp_path / "out.csv", keep_columns=("id",))
    assert read(tmp_path / "out.csv")[0]["id"] == cell


# Killed processes


@pytest.fixture
def many(tmp_path) -> Path:
    """400,000 short texts: some seconds of work."""
    generator = random.Random(0)
    lines = (" ".join(generator.choices(["good", "bad", "film"], k=5)) for _ in range(400_000))
    (tmp_path / "many.txt").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "many.txt"


def start(run: Path, source: Path, output: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "minitext", "predict", run, "--input", source, "--output", output, *more]
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit SIG_IGN
    try:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ignored)


def wait_for_size(process: subprocess.Popen, output: Path, size: int) -> int:
    """Wait until the partial output is larger than `size`; return its size."""
    partial = output.with_name(output.name + ".partial")
    while not partial.exists() or partial.stat().st_size <= size:
        assert process.poll() is None
        time.sleep(0.002)
    return partial.stat().st_size


@pytest.mark.slow
def test_prediction_killed_several_times_ends_with_the_same_bytes(run, many, tmp_path):
    whole = write(run, many, tmp_path / "whole.csv")
    output, size = tmp_path / "out.csv", 100
    for _ in range(4):
        process = start(run, many, output, "--resume")
        size = wait_for_size(process, output, size + 100_000)
        process.kill()
        process.communicate()
    assert size < len(whole)  # the last kill came before the end
    process = start(run, many, output, "--resume")
    process.communicate()
    assert process.returncode == 0
    assert output.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_says_in_one_line_how_to_resume(run, many, tmp_path):
    output = tmp_path / "out.csv"
    process = start(run, many, output)
    wait_for_size(process, output, 100_000)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.count("\n") == 1, error
    assert error.startswith("interrupted: finished rows are in ") and "--resume" in error


CELL = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(CELL, st.one_of(st.none(), CELL, st.floats(allow_nan=False))), max_size=6))
def test_formatted_rows_are_read_back(cells: list[tuple]):
    columns = ("a", "b")
    read = list(csv.reader(io.StringIO(format_rows(".csv", columns, cells), newline=""), strict=True))
    assert read == [[a, "" if b is None else str(b)] for a, b in cells]
    lines = format_rows(".jsonl", columns, cells).split("\n")
    assert [tuple(json.loads(line).values()) for line in lines[:-1]] == cells
