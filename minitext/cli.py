"""The `minitext` command: predict, explain, evaluate, compare, plot, report, pretrain, vectors."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from minitext import __version__
from minitext.data.corpus import CorpusConfig
from minitext.data.readers import TextRow, line_rows, stream_texts
from minitext.data.word_vectors import load_word_vectors
from minitext.evaluation.attribution import explain
from minitext.evaluation.predict_file import PredictConfig, predict_file
from minitext.evaluation.predictor import TOP, Predictor, format_prediction, json_prediction
from minitext.pretraining import mlm
from minitext.pretraining.glove import GloveConfig, train_vectors
from minitext.reporting import evaluate
from minitext.reporting.attribution_view import format_attribution, json_attribution
from minitext.reporting.report import write_report
from minitext.reporting.saved_run import corrupt, read_notes, read_run
from minitext.utils.config import add_group, fill
from minitext.utils.errors import UserError, exit_status
from minitext.utils.io import check_output, lock_output, write_text
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import METRICS_FILE, Notes, log
from minitext.utils.run_folders import is_complete
from minitext.utils.terminal import list_names, printable

CHUNK = 256  # texts predicted at once
Handler = Callable[[argparse.Namespace], None]


def predict(arguments: argparse.Namespace) -> None:
    """Predict class probabilities of the given texts, of the rows of --input, or of the lines of stdin."""
    config = fill(PredictConfig, arguments)
    if arguments.json and config.top is not None:
        raise UserError("--top is for predictions that are not --json, which have all classes; drop one of them")
    if arguments.texts and config.input:
        raise UserError(f"--input {config.input}: pass texts or --input, not both")
    if config.output:
        if arguments.json:
            raise UserError("--json is for printed predictions; for a file, pass an --output that ends in .jsonl")
        counts = predict_file(arguments.run, config, arguments.device)
        found = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count or outcome != "resumed")
        log(f"{config.output}: {counts.total():,} rows: {found}")
        return
    predictor = Predictor.load(arguments.run, arguments.device)
    if arguments.json:
        use_utf8()
    with open(config.input, "rb") if config.input else nullcontext() as file:
        if config.input:
            rows = stream_texts(Path(config.input), file, config.text_column, table_format=config.table_format())
        elif arguments.texts:
            rows = line_rows(arguments.texts)
        else:
            rows = stream_texts(Path("standard input"), sys.stdin.buffer, table_format=config.table_format())
        top = TOP if config.top is None and sys.stdout.isatty() else config.top
        format_text = json_prediction if arguments.json else partial(format_prediction, top=top)
        print_predictions(predictor, rows, config.threshold, format_text, arguments.json)


def print_predictions(
    predictor: Predictor, rows: Iterator[TextRow], threshold: float, format_text: Callable[..., str], as_json: bool
) -> None:
    """Print the prediction of each row, or its note if it has no text."""
    while chunk := list(islice(rows, CHUNK)):
        for row, values in zip(chunk, predictor.predict_proba([row.text for row in chunk]).tolist(), strict=True):
            line = format_text(row.text, predictor.class_names, values, threshold)
            if row.note:
                line = f"line {row.line}: {row.note}"
                if as_json:
                    line = json.dumps({"text": "", "class": None, "probabilities": None, "note": line})
            print(line if as_json else printable(line, "\n\t"), flush=True)


def explain_texts(arguments: argparse.Namespace) -> None:
    """Show how much each word of a text contributes to a class (integrated gradients, Sundararajan et al. 2017)."""
    predictor = Predictor.load(arguments.run, arguments.device)
    names, name = predictor.class_names, arguments.target
    if name is not None and name not in names:
        raise UserError(f"--class {name}: not a class of {arguments.run}; pass one of {list_names(names)}")
    target = None if name is None else names.index(name)
    if arguments.json:
        use_utf8()
    for row in line_rows(arguments.texts):
        if row.note:
            raise UserError(f"text {row.line}: {row.note}; pass at least one word")
        attribution = explain(predictor, row.text, target)
        if row.line > 1 and not arguments.json:
            print()
        print(json_attribution(attribution) if arguments.json else format_attribution(attribution), flush=True)


def evaluate_run(arguments: argparse.Namespace) -> None:
    """Score a finished run on new labeled texts, with intervals, figures and a report; see `minitext compare`.

    Nothing is trained or fitted. All texts are test; if the source has splits, only its test part is used. The labels
    must be classes of the run. Of a folder of several seeds (--num-seeds), each run is evaluated.
    """
    groups = {group.name: fill(group.type, arguments) for group in fields(evaluate.Config)}
    evaluate.evaluate(arguments.run, evaluate.Config(**groups), arguments.device)


def compare(arguments: argparse.Namespace) -> None:
    """Compare finished runs: a table here, and a self-contained HTML page.

    Single runs must have the same test texts. Folders of several seeds (--num-seeds) are paired by seed.
    """
    from minitext.reporting import comparison, html, paired_seeds  # here: slow to import

    out = Path(arguments.out)
    check_output("--out", out, arguments.overwrite, arguments.runs)
    with Notes().phase("comparing runs and drawing the page"):
        if over_seeds := paired_seeds.compare_seeds(arguments.runs):
            text, page = paired_seeds.show_seeds(over_seeds), html.seeds_page(over_seeds)
        else:
            compared = comparison.compare(arguments.runs, arguments.device)
            text, page = comparison.show_comparison(compared), html.page(compared)
    log(f"\n{text}")
    with lock_output(out):
        write_text(out, page)
    log(f"\npage: {out}")


def plot(arguments: argparse.Namespace) -> None:
    """Draw the figures of a finished run again, from its saved numbers."""
    from minitext.reporting.plots import draw  # here: matplotlib is slow to import

    folder = Path(arguments.run)
    if not (folder / "scores.json").exists() and is_complete(folder, METRICS_FILE):  # of `minitext pretrain`
        draw_curves(folder)
        return
    with Notes().phase("drawing figures"):
        draw(folder)


def report(arguments: argparse.Namespace) -> None:
    """Write the report of a finished run again, from its saved numbers."""
    folder = Path(arguments.run)
    run, notes = read_run(folder), read_notes(folder)
    # the report also shows scores that `read_run` does not check
    with Notes().phase("writing the report"), corrupt(folder):
        write_report(folder, run.name, notes)


def use_utf8() -> None:
    """Print JSON in UTF-8, whatever the encoding of the terminal (RFC 8259, section 8.1)."""
    sys.stdout.reconfigure(encoding="utf-8")


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a masked language model on unlabeled texts (Devlin et al. 2019). `train_finetune.py --model` reads it."""
    config = mlm.Config(**{group.name: fill(group.type, arguments) for group in fields(mlm.Config)})
    mlm.pretrain(config, draw_curves)


def draw_curves(folder: Path) -> None:
    """Draw loss and accuracy of each evaluation into `curves.png`."""
    from minitext.reporting.plots import curves, save  # here: matplotlib is slow to import

    save(curves(MetricsLog(folder / METRICS_FILE).evaluations()), folder / "curves.png")


def train_word_vectors(arguments: argparse.Namespace) -> None:
    """Train GloVe vectors on texts (Pennington et al. 2014) and write them in the GloVe text format."""
    train_vectors(fill(GloveConfig, arguments), fill(CorpusConfig, arguments))


def nearest_words(arguments: argparse.Namespace) -> None:
    """Print the words with the most similar vectors, by cosine similarity."""
    if arguments.k < 1:
        raise UserError(f"-k must be >= 1 (got {arguments.k})")
    for word, similarity in load_word_vectors(arguments.vectors).nearest(arguments.word, arguments.k):
        print(f"{similarity:.3f}  {printable(word)}")


def add_command(commands: Any, name: str, handler: Handler, **settings: Any) -> argparse.ArgumentParser:
    """Add a sub-command that calls `handler` with the parsed arguments; its docstring is the description."""
    command = commands.add_parser(name, description=handler.__doc__, allow_abbrev=False, **settings)
    command.set_defaults(handler=handler)
    return command


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    run, device, as_json = (argparse.ArgumentParser(add_help=False) for _ in range(3))  # arguments of several commands
    run.add_argument("run", help="folder of a finished run, such as runs/static/mlp")
    device.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    as_json.add_argument("--json", action="store_true", help="print one JSON object per line")

    parser = argparse.ArgumentParser(prog="minitext", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shared = [run, as_json, device]
    command = add_command(commands, "predict", predict, help="predict class probabilities of new texts", parents=shared)
    command.add_argument("texts", nargs="*", metavar="TEXT", help="texts (default: --input, or the lines of stdin)")
    add_group(command, PredictConfig)

    command = add_command(commands, "explain", explain_texts, help="show what each word contributes", parents=shared)
    command.add_argument("texts", nargs="+", metavar="TEXT")
    command.add_argument("--class", dest="target", metavar="NAME", help="class to explain (default: the predicted one)")

    command = add_command(commands, "evaluate", evaluate_run, help="score a run on new data", parents=[run, device])
    for group in fields(evaluate.Config):
        add_group(command, group.type)

    command = add_command(commands, "compare", compare, help="compare several runs", parents=[device])
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or of its seeds")
    command.add_argument("--out", default="compare.html", metavar="FILE", help="the page (default: compare.html)")
    command.add_argument("--overwrite", action="store_true", help="replace an existing --out")

    add_command(commands, "plot", plot, help="draw the figures of a run again", parents=[run])
    add_command(commands, "report", report, help="write the report of a run again", parents=[run])

    command = add_command(commands, "pretrain", pretrain, help="train a BERT on unlabeled texts")
    for group in fields(mlm.Config):
        add_group(command, group.type)

    vectors = commands.add_parser("vectors", help="train word vectors, or look up similar words")
    vector_commands = vectors.add_subparsers(required=True, metavar="COMMAND")
    command = add_command(vector_commands, "train", train_word_vectors, help="train GloVe vectors on texts")
    add_group(command, CorpusConfig)
    add_group(command, GloveConfig)
    command = add_command(vector_commands, "nearest", nearest_words, help="print the most similar words")
    command.add_argument("vectors", help="sample, a name such as glove.6B.100d, or a file")
    command.add_argument("word")
    command.add_argument("-k", type=int, default=10, metavar="COUNT", help="number of words (default: 10)")
    return parser


def main() -> int:
    """Run the command; return its exit status."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args()
    if rest and (not hasattr(arguments, "texts") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # texts after an option: argparse does not add them to those before it
        arguments.texts += rest
    return exit_status(lambda: arguments.handler(arguments))
