"""Predictions for a file of any size: one output row per input row, in order, with constant memory.

Inputs: a finished run and a `.csv`, `.tsv`, `.jsonl` or text file. Outputs: `<output>`, renamed from `<output>.partial`
when it is complete; a partial file can be resumed. Shapes: B texts, C classes.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from minitext.data.readers import TABLE_DELIMITERS, TABLE_KINDS, TextRow, stream_texts
from minitext.evaluation.predictor import BELOW_THRESHOLD, Predictor, predict_class
from minitext.utils.config import option
from minitext.utils.errors import UserError

CHUNK = 1024  # rows predicted and written at once


@dataclass(frozen=True)
class PredictConfig:
    """input and output"""

    input: str | None = option(None, ".csv, .tsv, .jsonl, or another file with one text per line; each also .gz")
    text_column: str | None = option(None, "text column of --input (default: text, review, sentence or content)")
    threshold: float = option(0.0, "predict no class if all probabilities are below this value")
    output: str | None = option(None, "write one row per row of --input to this .csv, .tsv or .jsonl file")
    keep_columns: tuple[str, ...] | None = option(None, "columns of --input to copy to --output")
    overwrite: bool = option(False, "replace an existing --output")
    resume: bool = option(
        False,
        f"keep the rows in <output>.partial (in chunks of {CHUNK}) and skip as many rows of --input; "
        "pass the same run, input and options: only the column names are checked",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold must be in [0, 1] (got {self.threshold})")
        if self.text_column and not self.input:
            raise UserError("--text-column needs --input")
        if self.output and not self.input:
            raise UserError(f"--output {self.output} needs --input")
        if not self.output and (self.keep_columns or self.overwrite or self.resume):
            raise UserError("--keep-columns, --overwrite and --resume need --output")


class Counts(NamedTuple):
    """The rows of an output file, by outcome."""

    resumed: int = 0  # kept from an interrupted prediction
    predicted: int = 0
    below: int = 0  # no class reaches the threshold
    no_text: int = 0


def predict_file(folder: str | Path, config: PredictConfig, device: str = "auto") -> Counts:
    """Predict each row of `config.input` and write `config.output`.

    The output has the columns `line` (where the row starts in the input), those of `--keep-columns`, `predicted`,
    `p(<class>)` for each class, and `note`. The note is empty, or says why `predicted` is empty: "below threshold", or,
    without probabilities, "empty text", "no text", "not a JSON object", "5 fields for 4 columns".

    Raises:
        UserError: the run, the input, the output or the device cannot be used, or the end of an input row cannot be
            found; the rows before it are kept in `<output>.partial`.
    """
    source, output, keep = Path(config.input), Path(config.output), config.keep_columns or ()
    open_input(source).close()  # wrong paths fail before a large model is loaded
    check_output(source, output, config.overwrite)
    predictor = Predictor.load(folder, device)
    columns = ["line", *keep, "predicted", *(f"p({name})" for name in predictor.class_names), "note"]
    if duplicate := next((name for name in keep if columns.count(name) > 1), None):
        raise UserError(f"--keep-columns {duplicate}: already a column of {output}; rename it in {source}")
    kind, partial = output.suffix.lower(), output.with_name(output.name + ".partial")
    done = start_partial(partial, kind, columns, config.resume)
    counts = Counts(resumed=done)
    try:
        with (
            open_input(source) as file,
            open(partial, "ab") as out,
            # disable=None: no bar where stderr is not a terminal
            tqdm(total=source.stat().st_size, unit="B", unit_scale=True, leave=False, disable=None) as bar,
        ):
            rows = islice(stream_texts(source, file, config.text_column, keep), done, None)
            while chunk := list(islice(rows, CHUNK)):
                values = predictor.predict_proba([row.text for row in chunk])
                written = list(output_rows(chunk, values, predictor.class_names, config.threshold))
                out.write(format_rows(kind, columns, written).encode("utf-8", "replace"))
                out.flush()
                counts = add_outcomes(counts, [row[-1] for row in written])
                bar.update(file.tell() - bar.n)
            os.fsync(out.fileno())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished rows are in {partial}; add --resume to continue") from None
    except UserError as error:
        if counts == Counts():  # no row to resume from
            partial.unlink()
            raise
        raise UserError(f"{error}; finished rows are in {partial}; add --resume to continue") from error
    os.replace(partial, output)
    return counts


def open_input(source: Path) -> BinaryIO:
    """Open the input file. Raises UserError if there is none."""
    if not source.is_file():
        raise UserError(f"{source}: no such file")
    return open(source, "rb")


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Raise UserError unless `output` can be written."""
    if output.suffix.lower() not in TABLE_KINDS:
        raise UserError(f"{output}: unsupported file type {output.suffix!r}; supported: {', '.join(TABLE_KINDS)}")
    if not output.parent.is_dir():
        raise UserError(f"{output}: the folder {output.parent} does not exist; create it first")
    if output.is_dir() or (output.exists() and output.samefile(source)):
        raise UserError(f"{output}: is {'a folder' if output.is_dir() else 'the input'}; pass another --output")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: already exists; pass another --output, or --overwrite to replace it")


def start_partial(partial: Path, kind: str, columns: Sequence[str], resume: bool) -> int:
    """Write the header to a new partial file, or cut an existing one after its last complete chunk.

    A resumed file is cut at a multiple of CHUNK rows, so that it is predicted in the same batches as an uninterrupted
    one and gets the same bytes. Returns the number of rows that are kept.
    """
    header = b"" if kind == ".jsonl" else format_rows(kind, columns, [columns]).encode()
    if not (resume and partial.exists() and partial.stat().st_size > len(header)):
        partial.write_bytes(header)
        return 0
    with open(partial, "rb") as file:
        if file.read(len(header)) != header:
            raise UserError(f"{partial}: cannot resume: its columns differ; restore the options or drop --resume")
        rows = quotes = kept = 0
        size = position = len(header)
        for line in file:
            position += len(line)
            quotes += 0 if kind == ".jsonl" else line.count(b'"')
            if line.endswith(b"\n") and quotes % 2 == 0:  # an odd count: the line end is inside a quoted field
                rows += 1
                if rows % CHUNK == 0:
                    kept, size = rows, position
    os.truncate(partial, size)
    return kept


def output_rows(rows: Sequence[TextRow], values: np.ndarray, names: Sequence[str], threshold: float) -> Iterator[tuple]:
    """Yield the output rows: line, kept columns, predicted class, C probabilities, note. `values`: (B, C)."""
    for row, p in zip(rows, values.tolist(), strict=True):
        if row.note:
            yield (row.line, *row.kept, *(None,) * (len(names) + 1), row.note)
            continue
        best = predict_class(p, threshold)
        numbers = [float(f"{value:.9g}") for value in p]  # the digits of predictions.csv
        predicted, note = (None, BELOW_THRESHOLD) if best is None else (names[best], "")
        yield (row.line, *row.kept, predicted, *numbers, note)


def add_outcomes(counts: Counts, notes: Sequence[str]) -> Counts:
    """Add the outcomes of rows with these notes."""
    predicted, below = notes.count(""), notes.count(BELOW_THRESHOLD)
    no_text = len(notes) - predicted - below
    return Counts(counts.resumed, counts.predicted + predicted, counts.below + below, counts.no_text + no_text)


def format_rows(kind: str, columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Format rows as lines of a `.csv`, `.tsv` or `.jsonl` file; None is an empty field, or JSON's null."""
    if kind == ".jsonl":
        records = (dict(zip(columns, row, strict=True)) for row in rows)
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=TABLE_DELIMITERS[kind]).writerows(rows)
    return buffer.getvalue()
