"""A file of texts to a file of predictions, of any size: in order, a row for each row, and resumable.

In: a finished run and an input file. Out: `<output>`, which grows in `<output>.partial` and takes its name when it is
whole; the journal beside it says where a prediction that was stopped can go on.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from torch import Tensor
from tqdm import tqdm

from minitext.data.readers import TABLE_KINDS, TextRow, format_rows, stream_texts
from minitext.evaluation.predictor import BELOW_THRESHOLD, load_predictor, predict_class
from minitext.reporting.run import changed_settings
from minitext.training.interrupt import DelayedInterrupt
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.io import sync_folder
from minitext.utils.metrics_log import MetricsLog

RUN_FILES = ("config.json", "model.safetensors", "tokenizer.json", "words.txt")  # what a run's answers depend on
AT_ONCE = 4096  # rows passed over together


@dataclass(frozen=True)
class PredictConfig:
    """what is read and written"""

    input: str | None = option(None, ".csv, .tsv, .jsonl, or another file with a text a line; each also .gz")
    text_column: str | None = option(None, "column of --input with the text; otherwise text, review, sentence, content")
    threshold: float = option(0.0, "abstain where no class is as probable as this")
    output: str | None = option(None, "write a row for each row of --input to this .csv, .tsv or .jsonl file")
    keep_columns: tuple[str, ...] | None = option(None, "columns of --input that are carried along into --output")
    overwrite: bool = option(False, "replace --output where it exists")
    resume: bool = option(False, "go on where the same command was stopped")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold {self.threshold}: a probability lies from 0 to 1")
        if self.text_column and not self.input:
            raise UserError("--text-column: goes with --input")
        if self.output and not self.input:
            raise UserError(f"--output {self.output}: goes with --input")
        if not self.output and (self.keep_columns or self.overwrite or self.resume):
            raise UserError("--keep-columns, --overwrite and --resume go with --output")


class Counts(NamedTuple):
    """What became of the rows."""

    rows: int = 0
    below: int = 0  # a text, but no class as probable as the threshold
    unread: int = 0  # no text


def predict_file(folder: str | Path, options: PredictConfig) -> Counts:
    """Write `options.output`: a row for each row of `options.input`, with the columns `line` (where the row begins in
    the input), those of `--keep-columns`, `predicted`, `p(<class>)` for each class, and `note`.

    `note` is empty, or says why `predicted` is: "below threshold"; or, with the probabilities empty as well, "empty
    text", "no text", "not a JSON object", "5 fields for 4 columns". Raises UserError where the run, the input or the
    output cannot be used, and where a row's end cannot be found; the rows before that are kept for `--resume`.
    """
    source, output, keep = Path(options.input), Path(options.output), options.keep_columns or ()
    open_input(source).close()  # what is missing is said before a large model is loaded
    check_output(source, output, options.overwrite)
    run = load_predictor(folder)
    columns = ["line", *keep, "predicted", *(f"p({name})" for name in run.class_names), "note"]
    if twice := next((name for name in keep if columns.count(name) > 1), None):
        raise UserError(f"--keep-columns {twice}: {output} would have two columns of that name; rename it in {source}")
    settings = {"run": digest_of_run(Path(folder)), "columns": columns, "threshold": options.threshold}
    with (
        open_input(source) as file,
        Partial(output, columns, settings, options.resume) as partial,
        # disable=None: no bar where stderr is not a terminal
        tqdm(total=source.stat().st_size, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        rows = stream_texts(source, file, options.text_column, keep)
        seen = pass_over(rows, partial, source)
        # Ctrl-C counts between two chunks: anywhere else, a callback of the workers' pool could swallow it
        with saying_how_to_go_on(partial), DelayedInterrupt() as interrupt:
            for chunk, probabilities in beside(rows, run.predict_in_chunks):
                seen.update(identity(chunk))
                partial.append(
                    list(answers(chunk, probabilities, run.class_names, options.threshold)), seen.hexdigest()
                )
                bar.set_postfix_str(f"{partial.counts.rows:,} rows", refresh=False)
                bar.update(file.tell() - bar.n)
                if interrupt.asked:
                    raise KeyboardInterrupt
        partial.finish()
    return partial.counts


def open_input(source: Path) -> BinaryIO:
    if not source.is_file():
        raise UserError(f"{source}: there is no such file")
    return open(source, "rb")


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    if output.suffix.lower() not in TABLE_KINDS:
        raise UserError(f"{output}: unknown kind {output.suffix!r}; minitext writes {', '.join(TABLE_KINDS)}")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it first")
    if output.is_dir() or (output.exists() and output.samefile(source)):
        raise UserError(f"{output}: is {'a folder' if output.is_dir() else 'the input'}; choose another --output")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists; choose another --output, or replace it with --overwrite")


def digest_of_run(folder: Path) -> str:
    """SHA-256 of all that a run's answers depend on."""
    total = hashlib.sha256()
    for name in RUN_FILES:
        if (folder / name).exists():
            with open(folder / name, "rb") as file:
                total.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]  # against accidents, in a message of one line


class Partial:
    """`<output>.partial`, and its journal `<output>.partial.jsonl`: the settings, then a line after each chunk."""

    def __init__(self, output: Path, columns: Sequence[str], settings: dict, resume: bool):
        """Raises UserError where what is there was begun with other settings and `resume` would go on with it."""
        self.output, self.columns, self.kind = output, columns, output.suffix.lower()
        self.path = output.with_name(output.name + ".partial")
        self.journal = MetricsLog(output.with_name(output.name + ".partial.jsonl"))
        self.counts, self.size, self.digest = Counts(), 0, hashlib.sha256().hexdigest()
        if not (resume and self.path.exists() and self.find_place(settings)):
            self.journal.path.unlink(missing_ok=True)  # first: a journal never stands beside a file that is not its own
            self.path.unlink(missing_ok=True)
            self.path.touch()
            self.journal.write(settings)
        self.file = open(self.path, "r+b")  # noqa: SIM115 (`__exit__` closes it)
        self.file.truncate(self.size)  # a chunk that was being written when the process died
        self.file.seek(self.size)
        if not self.size and self.kind != ".jsonl":
            self.write([self.columns])

    def find_place(self, settings: dict) -> bool:
        """Go to the last chunk that journal and file both hold whole; False where there is no journal to read."""
        written = self.path.stat().st_size
        lines = whole_lines(self.journal.path)
        begun, end = next(lines, (None, 0))
        if begun is None:
            return False
        if changed := list(changed_settings(begun, settings)):
            raise UserError(
                f"{self.path}: cannot be resumed with another run or other settings: {'; '.join(changed)}; "
                "give the old ones, or leave --resume away"
            )
        for place, place_end in lines:
            if place["size"] > written:
                break
            self.counts, self.size, self.digest = Counts(**place["counts"]), place["size"], place["digest"]
            end = place_end
        self.journal.cut(end)
        return True

    def write(self, rows: Sequence[Sequence]) -> None:
        self.file.write(format_rows(self.kind, self.columns, rows).encode("utf-8", "replace"))

    def append(self, rows: Sequence[Sequence], digest: str) -> None:
        """Write a chunk; `digest` is that of all rows of the input so far."""
        self.write(rows)
        self.file.flush()
        os.fsync(self.file.fileno())  # the journal must not know of rows that a power cut can take
        notes = [row[-1] for row in rows if row[-1]]
        below = notes.count(BELOW_THRESHOLD)
        before = self.counts
        counts = Counts(before.rows + len(rows), before.below + below, before.unread + len(notes) - below)
        self.size = self.file.tell()
        self.journal.write({"counts": counts._asdict(), "size": self.size, "digest": digest})
        self.counts = counts

    def finish(self) -> None:
        """Take the name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.path, self.output)
        sync_folder(self.output.parent)
        self.journal.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        if not self.counts.rows:  # nothing to go on with
            self.path.unlink(missing_ok=True)
            self.journal.path.unlink(missing_ok=True)


def whole_lines(journal: Path) -> Iterator[tuple[dict, int]]:
    """Yield the journal's lines, each with the byte where it ends, up to one that was not wholly written."""
    end = 0
    for line in journal.read_bytes().splitlines(keepends=True) if journal.exists() else ():
        end += len(line)
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n"):
            return
        yield record, end


@contextmanager
def saying_how_to_go_on(partial: Partial) -> Iterator[None]:
    """Add to Ctrl-C, and to an error in the middle of the input, what to do next."""
    try:
        yield
    except (KeyboardInterrupt, UserError) as error:
        kept = f"the first {partial.counts.rows:,} rows are kept, the same command with --resume goes on from there"
        hint = kept if partial.counts.rows else ""
        raise type(error)("; ".join(filter(None, (str(error), hint)))) from error


def pass_over(rows: Iterator[TextRow], partial: Partial, source: Path) -> "hashlib._Hash":
    """Read the rows that are done, and see that they are what they were."""
    seen, left = hashlib.sha256(), partial.counts.rows
    while chunk := list(islice(rows, min(left, AT_ONCE))):
        seen.update(identity(chunk))
        left -= len(chunk)
    if seen.hexdigest() != partial.digest:
        raise UserError(
            f"{source}: its first {partial.counts.rows:,} rows are not those that were predicted; "
            "bring them back, or leave --resume away"
        )
    return seen


def identity(rows: Iterable[TextRow]) -> bytes:
    """All that the output takes from these rows."""
    return "".join(f"{row.line}\0{row.text}\0{row.note}\0{row.kept}\0" for row in rows).encode("utf-8", "replace")


def beside(rows: Iterable[TextRow], predict) -> Iterator[tuple[list[TextRow], Tensor]]:
    """Yield chunks of rows with their (B, C) probabilities; rows that were taken in ahead wait in between."""
    rows, ahead = tee(rows)
    for probabilities in predict(row.text for row in ahead):
        yield list(islice(rows, len(probabilities))), probabilities


def answers(rows: Sequence[TextRow], probabilities: Tensor, names: Sequence[str], threshold: float) -> Iterator[tuple]:
    """Yield each row as it is written: line, kept columns, class, probabilities, note."""
    nothing = (None,) * (len(names) + 1)
    for row, p in zip(rows, probabilities.tolist(), strict=True):
        if row.note:
            yield (row.line, *row.kept, *nothing, row.note)
        else:
            best = predict_class(p, threshold)
            # nine digits tell any two float32 apart
            numbers = [float(f"{value:.9g}") for value in p]
            yield (
                row.line,
                *row.kept,
                None if best is None else names[best],
                *numbers,
                BELOW_THRESHOLD if best is None else "",
            )
