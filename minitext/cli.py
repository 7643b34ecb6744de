"""`minitext` on the command line: what is done with runs and vectors once they are there."""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from minitext import __version__
from minitext.data.readers import TextRow, line_rows, stream_texts
from minitext.data.word_vectors import load_word_vectors
from minitext.evaluation.attribution import explain
from minitext.evaluation.predict_file import PredictConfig, open_input, predict_file
from minitext.evaluation.predictor import (
    Predictor,
    format_prediction,
    format_skipped_row,
    json_prediction,
    json_unread,
    load_predictor,
)
from minitext.pretraining.glove import TrainOptions, train_vectors
from minitext.pretraining.mlm import PretrainConfig, PretrainRunConfig
from minitext.pretraining.mlm import TrainConfig as PretrainTrainConfig
from minitext.pretraining.mlm import pretrain as pretrain_bert
from minitext.reporting.attribution_view import json_explanation, show
from minitext.utils.config import add_group, fill
from minitext.utils.errors import UserError, exit_status

CHUNK = 256  # texts predicted at once


def predict(arguments: argparse.Namespace) -> None:
    """Class probabilities of the texts given as words on the command line, else of the rows of --input, else of each
    line of stdin; printed, or with --output written to a file of any size.
    """
    options = fill(PredictConfig, arguments)
    if arguments.texts and options.input:
        raise UserError(f"--input {options.input}: give texts or a file, not both")
    if options.output:
        if arguments.json:
            raise UserError("--json: prints; with --output, name a .jsonl file")
        counts = predict_file(arguments.run, options)
        predicted = counts.rows - counts.below - counts.unread
        print(
            f"{options.output}: {counts.rows:,} rows, {predicted:,} predicted, {counts.below:,} below the threshold, "
            f"{counts.unread:,} without a text"
        )
        return
    run = load_predictor(arguments.run)
    if arguments.texts:
        predict_each(run, line_rows(arguments.texts), options.threshold, arguments.json)
    elif options.input:
        with open_input(Path(options.input)) as file:
            rows = stream_texts(Path(options.input), file, options.text_column)
            predict_each(run, rows, options.threshold, arguments.json)
    else:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        predict_each(run, line_rows(sys.stdin), options.threshold, arguments.json)


def predict_each(run: Predictor, rows: Iterator[TextRow], threshold: float, as_json: bool) -> None:
    """Print an answer for each row; one without a text gets its note instead."""
    show = json_prediction if as_json else format_prediction
    unread = json_unread if as_json else format_skipped_row
    while chunk := list(islice(rows, CHUNK)):
        for row, probabilities in zip(chunk, run.predict([row.text for row in chunk]).tolist(), strict=True):
            shown = (
                unread(row.line, row.note) if row.note else show(row.text, run.class_names, probabilities, threshold)
            )
            print(shown, flush=True)


def explain_texts(arguments: argparse.Namespace) -> None:
    """What each word of a text adds to a class's score: exact on mean vectors under a logistic regression, integrated
    gradients elsewhere (Sundararajan et al. 2017).
    """
    run = load_predictor(arguments.run)
    if arguments.target is not None and arguments.target not in run.class_names:
        raise UserError(f"--class {arguments.target}: the classes of {arguments.run} are {', '.join(run.class_names)}")
    target = None if arguments.target is None else run.class_names.index(arguments.target)
    for row in line_rows(arguments.texts):
        if row.note:
            raise UserError(f"text {row.line}: {row.note}; give at least one word")
        explanation = explain(run, row.text, target)
        if row.line > 1 and not arguments.json:
            print()
        print(json_explanation(explanation) if arguments.json else show(explanation), flush=True)


def nearest(arguments: argparse.Namespace) -> None:
    """The words whose vectors point the same way."""
    if arguments.k < 1:
        raise UserError(f"-k {arguments.k}: at least 1")
    vectors = load_word_vectors(arguments.vectors)
    for word, similarity in vectors.nearest(arguments.word, arguments.k):
        print(f"{similarity:.3f}  {word}")


def train(arguments: argparse.Namespace) -> None:
    """Train GloVe vectors on texts (Pennington et al. 2014) and write them in the GloVe text format."""
    train_vectors(fill(TrainOptions, arguments))


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a masked language model on texts (Devlin et al. 2019); `train_finetune.py --model` takes the result."""
    pretrain_bert(
        fill(PretrainConfig, arguments), fill(PretrainTrainConfig, arguments), fill(PretrainRunConfig, arguments)
    )


def plot(arguments: argparse.Namespace) -> None:
    """Draw a run's figures again from its saved numbers."""
    from minitext.reporting.plots import draw  # here: matplotlib is slow to import, and the other commands do without

    load_predictor(arguments.run)
    draw(Path(arguments.run))


def compare(arguments: argparse.Namespace) -> None:
    """Put finished runs on the same test texts side by side: a table here, and an HTML page that needs nothing else."""
    from minitext.reporting.comparison import (
        compare as compare_runs,  # here: with `explain` and `page`, it is slow to import
    )
    from minitext.reporting.comparison import show_comparison
    from minitext.reporting.html import write_page

    comparison = compare_runs(arguments.runs)
    print(show_comparison(comparison))
    write_page(comparison, Path(arguments.out))
    print(f"\npage: {arguments.out}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="minitext", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("predict", help="class probabilities of new texts", description=predict.__doc__)
    command.add_argument("run", help="folder of a finished run, such as runs/static/mlp")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="without any, --input is read, or each line of stdin")
    command.add_argument("--json", action="store_true", help="print a JSON object a line")
    add_group(command, PredictConfig)
    command.set_defaults(act=predict)

    command = commands.add_parser("explain", help="what each word speaks for", description=explain_texts.__doc__)
    command.add_argument("run", help="folder of a finished run, such as runs/static/mlp")
    command.add_argument("texts", nargs="+", metavar="TEXT")
    command.add_argument("--class", dest="target", metavar="NAME", help="the class to explain (default: the likeliest)")
    command.add_argument("--json", action="store_true", help="print a JSON object a line")
    command.set_defaults(act=explain_texts)

    vectors = commands.add_parser("vectors", help="train word vectors, look into them").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command = vectors.add_parser("train", help="GloVe vectors from texts", description=train.__doc__)
    add_group(command, TrainOptions)
    command.set_defaults(act=train)
    command = vectors.add_parser("nearest", help="the nearest words of a word", description=nearest.__doc__)
    command.add_argument("vectors", help="sample, a name such as glove.6B.100d, or a file")
    command.add_argument("word")
    command.add_argument("-k", type=int, default=10, metavar="COUNT", help="how many (default: 10)")
    command.set_defaults(act=nearest)

    command = commands.add_parser("pretrain", help="a BERT from texts without labels", description=pretrain.__doc__)
    for settings in (PretrainConfig, PretrainTrainConfig, PretrainRunConfig):
        add_group(command, settings)
    command.set_defaults(act=pretrain)

    command = commands.add_parser("compare", help="several runs side by side", description=compare.__doc__)
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or of its seeds")
    command.add_argument("--out", default="compare.html", metavar="FILE", help="the page (default: compare.html)")
    command.set_defaults(act=compare)

    command = commands.add_parser("plot", help="draw a run's figures again", description=plot.__doc__)
    command.add_argument("run")
    command.set_defaults(act=plot)
    return top


def main() -> int:
    top = parser()
    arguments, rest = top.parse_known_args()
    if rest and (not hasattr(arguments, "texts") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # texts behind an option, which argparse does not join to those before it
        arguments.texts += rest
    return exit_status(lambda: arguments.act(arguments))
