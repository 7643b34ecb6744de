"""Predictions for a file of any size: one output row per input row, in order, with constant memory.

Inputs: a finished run and a `.csv`, `.tsv`, `.jsonl` or text file. Outputs: `<output>`, renamed from `<output>.partial`
when it is complete; a partial file can be resumed. Shapes: B texts, C classes.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from minitext.data.readers import TextRow, stream_texts
from minitext.data.tables import TABLE_KINDS, TableFormat
from minitext.data.text_input import check_regular
from minitext.evaluation.predictor import BELOW_THRESHOLD, TOP, Predictor, predict_class
from minitext.utils.config import option, require
from minitext.utils.errors import UserError
from minitext.utils.io import check_output, lock_output, sync_folder

CHUNK = 1024  # rows predicted and written at once
NOT_IN_TSV = str.maketrans(dict.fromkeys("\t\r\n\0", " "))  # NUL: a file that begins with one is read as binary


@dataclass(frozen=True)
class PredictConfig:
    """input and output"""

    input: str | None = option(None, ".csv, .tsv, .jsonl, or another file with one text per line; each also .gz")
    text_column: str | None = option(None, "text column of --input (default: text, review, sentence or content)")
    no_header: bool = option(False, "the first line of --input is data; name columns by number: --text-column 2")
    delimiter: str | None = option(None, "what separates columns, such as ; or tab; makes a table of any file")
    encoding: str | None = option(None, "of --input, such as latin-1 (default: UTF-8, or UTF-16 with a mark)")
    threshold: float = option(0.0, "predict no class if all probabilities are below this value")
    top: int | None = option(
        None, f"print the N most probable classes (default: {TOP} on a terminal if there are more, otherwise all)"
    )
    output: str | None = option(None, "write one row per row of --input to this .csv, .tsv or .jsonl file")
    keep_columns: tuple[str, ...] | None = option(None, "columns of --input to copy to --output")
    overwrite: bool = option(False, "replace an existing --output")
    resume: bool = option(
        False,
        f"keep the rows in <output>.partial (in chunks of {CHUNK}) and skip as many rows of --input; "
        "pass the same run, input and options: only the column names are checked",
    )

    def __post_init__(self) -> None:
        require(self, lambda value: 0 <= value <= 1, "in [0, 1]", "threshold")
        require(self, lambda value: value is None or value >= 1, "at least 1", "top")
        self.table_format()
        for name in ("text_column", "no_header", "delimiter"):
            if getattr(self, name) and not self.input:
                raise UserError(f"--{name.replace('_', '-')} needs --input")
        if self.output and self.top is not None:
            raise UserError("--top is for printed predictions; an --output has all classes")
        if self.output and not self.input:
            raise UserError(f"--output {self.output} needs --input")
        if not self.output and (self.keep_columns or self.overwrite or self.resume):
            raise UserError("--keep-columns, --overwrite and --resume need --output")
        if self.input:
            check_regular(Path(self.input))
        if not self.output:
            return
        output = Path(self.output)
        if output.suffix.lower() not in TABLE_KINDS:
            raise UserError(f"{output}: unsupported file type {output.suffix!r}; supported: {', '.join(TABLE_KINDS)}")
        check_output("--output", output, self.overwrite, [self.input])

    def table_format(self) -> TableFormat:
        """How --input differs from what its suffix says. Raises UserError for an unknown encoding or delimiter."""
        return TableFormat(self.no_header, self.delimiter, self.encoding)


def predict_file(folder: str | Path, config: PredictConfig, device: str = "auto") -> Counter[str]:
    """Predict each row of `config.input` and write `config.output`.

    The output has the columns `line` (where the row starts in the input), those of `--keep-columns`, `predicted`,
    `p(<class>)` for each class, and `note`. The note is empty, or says why `predicted` is empty: "below threshold", or,
    without probabilities, "empty text", "no text", "not a JSON object", "5 fields for 4 columns".

    Returns the number of rows by outcome. Raises UserError if the run, a column or the device cannot be used, if
    another process writes the output, or if the end of an input row cannot be found; the rows before it are kept in
    `<output>.partial`.
    """
    with lock_output(Path(config.output)):
        # again, as another process may have written it since
        check_output("--output", Path(config.output), config.overwrite, [config.input, folder])
        return write_predictions(folder, config, device)


def write_predictions(folder: str | Path, config: PredictConfig, device: str) -> Counter[str]:
    """`predict_file` without the lock."""
    source, output, keep = Path(config.input), Path(config.output), config.keep_columns or ()
    predictor = Predictor.load(folder, device)
    names = predictor.class_names
    columns = ["line", *keep, "predicted", *(f"p({name})" for name in names), "note"]
    if duplicate := next((name for name in keep if columns.count(name) > 1), None):
        raise UserError(f"--keep-columns {duplicate}: already a column of {output}; rename it in {source}")
    kind, partial = output.suffix.lower(), output.with_name(output.name + ".partial")
    done = start_partial(partial, kind, columns, config.resume)
    counts = Counter({"predicted": 0, "below the threshold": 0, "without text": 0, "resumed": done})
    outcomes = {"": "predicted", BELOW_THRESHOLD: "below the threshold"}  # by the note of a row
    hint = f"finished rows are in {partial}; add --resume to continue"
    try:
        with (
            open(source, "rb") as file,
            open(partial, "ab") as out,
            # disable=None: no bar where stderr is not a terminal
            tqdm(total=source.stat().st_size, unit="B", unit_scale=True, leave=False, disable=None) as bar,
        ):
            rows = islice(stream_texts(source, file, config.text_column, keep, config.table_format()), done, None)
            while chunk := list(islice(rows, CHUNK)):
                values = predictor.predict_proba([row.text for row in chunk]).tolist()
                written = [output_row(*pair, names, config.threshold) for pair in zip(chunk, values, strict=True)]
                out.write(format_rows(kind, columns, written).encode("utf-8", "replace"))
                out.flush()
                counts.update(outcomes.get(row[-1], "without text") for row in written)
                bar.update(file.tell() - bar.n)
            os.fsync(out.fileno())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(hint) from None
    except (UserError, OSError) as error:  # OSError: a full disk
        if not counts.total():  # no row to resume from
            partial.unlink()
            raise
        raise UserError(f"{error}; {hint}") from error
    os.replace(partial, output)
    sync_folder(output.parent)
    return counts


def start_partial(partial: Path, kind: str, columns: Sequence[str], resume: bool) -> int:
    """Write the header to a new partial file, or cut an existing one after its last complete chunk.

    A resumed file is cut at a multiple of CHUNK rows, so that it is predicted in the same batches as an uninterrupted
    one and gets the same bytes. Returns the number of rows that are kept. Raises UserError if the file has other
    columns, or if it is not one of predictions, so that no other file is ever replaced.
    """
    header = b"" if kind == ".jsonl" else format_rows(kind, columns, [columns]).encode("utf-8", "replace")
    beginning = b'{"line": ' if kind == ".jsonl" else header[: len("line,")]
    if partial.is_symlink() or (partial.exists() and not partial.is_file()):
        raise UserError(f"{partial}: not a file; move it away")
    with open(partial, "rb") if partial.exists() else io.BytesIO() as file:
        first = file.readline()
    if not beginning.startswith(first[: len(beginning)]):
        raise UserError(f"{partial}: not unfinished predictions; move it away, or pass another --output")
    if not (resume and partial.exists() and partial.stat().st_size > len(header)):
        partial.write_bytes(header)
        return 0
    if kind == ".jsonl" and first.endswith(b"\n") and columns_of(first) != list(columns):
        raise UserError(f"{partial}: cannot resume: its columns differ; restore the options or drop --resume")
    with open(partial, "rb+") as file:
        if file.read(len(header)) != header:
            raise UserError(f"{partial}: cannot resume: its columns differ; restore the options or drop --resume")
        rows = quotes = kept = 0
        size = len(header)
        while line := file.readline():
            quotes += line.count(b'"') if kind == ".csv" else 0
            if line.endswith(b"\n") and quotes % 2 == 0:  # an odd count: the line end is inside a quoted field
                rows += 1
                if rows % CHUNK == 0:
                    kept, size = rows, file.tell()
        file.truncate(size)
    return kept


def columns_of(line: bytes) -> list[str]:
    """The keys of a JSON object; none if it is something else."""
    try:
        return list(json.loads(line).keys())
    except (ValueError, RecursionError, AttributeError):
        return []


def output_row(row: TextRow, values: Sequence[float], names: Sequence[str], threshold: float) -> tuple:
    """Return an output row: line, kept columns, predicted class, C probabilities, note."""
    if row.note:
        return (row.line, *row.kept, *(None,) * (len(names) + 1), row.note)
    predicted = predict_class(names, values, threshold)
    numbers = [float(f"{value:.9g}") for value in values]  # the digits of predictions.csv
    return (row.line, *row.kept, predicted, *numbers, BELOW_THRESHOLD if predicted is None else "")


def format_rows(kind: str, columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Format rows as lines of a `.csv`, `.tsv` or `.jsonl` file; None is an empty field, or JSON's null.

    TSV has no quotes: tabs and line ends of a field become spaces, so that every row is one line.
    """
    if kind == ".jsonl":
        records = (dict(zip(columns, row, strict=True)) for row in rows)
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if kind == ".tsv":
        fields = (("" if value is None else str(value).translate(NOT_IN_TSV) for value in row) for row in rows)
        return "".join("\t".join(row) + "\n" for row in fields)
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
