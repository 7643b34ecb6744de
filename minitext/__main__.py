"""`minitext` on the command line: what is done with runs and vectors once they are there."""

import argparse
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from minitext import __version__, glove
from minitext.errors import UserError, exit_status
from minitext.glove_train import TrainOptions, train_vectors
from minitext.options import add_group, fill
from minitext.predict import json_prediction, load_run, show_prediction
from minitext.pretrain import LoopOptions as PretrainLoopOptions
from minitext.pretrain import PretrainOptions, PretrainRunOptions
from minitext.pretrain import pretrain as pretrain_bert

CHUNK = 256  # texts predicted at once


def predict(arguments: argparse.Namespace) -> None:
    """Class probabilities of the texts given as words on the command line, or of each line of a file or of stdin."""
    run = load_run(arguments.run)
    show = json_prediction if arguments.json else show_prediction
    if arguments.input and not Path(arguments.input).is_file():
        raise UserError(f"{arguments.input}: there is no such file")
    if arguments.texts:
        predict_each(run, arguments.texts, show)
    elif arguments.input:
        with open(arguments.input, encoding="utf-8", errors="replace") as file:
            predict_each(run, file, show)
    else:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        predict_each(run, sys.stdin, show)


def predict_each(run, lines: Iterable[str], show) -> None:
    texts = (line.rstrip("\n") for line in lines)
    while chunk := list(islice(texts, CHUNK)):
        for text, probabilities in zip(chunk, run.predict(chunk).tolist(), strict=True):
            print(show(text, run.names, probabilities), flush=True)


def nearest(arguments: argparse.Namespace) -> None:
    """The words whose vectors point the same way."""
    if arguments.k < 1:
        raise UserError(f"-k {arguments.k}: at least 1")
    vectors = glove.read(arguments.vectors)
    for word, similarity in vectors.nearest(arguments.word, arguments.k):
        print(f"{similarity:.3f}  {word}")


def train(arguments: argparse.Namespace) -> None:
    """Train GloVe vectors on texts (Pennington et al. 2014) and write them in the GloVe text format."""
    train_vectors(fill(TrainOptions, arguments))


def pretrain(arguments: argparse.Namespace) -> None:
    """Train a masked language model on texts (Devlin et al. 2019); `train_finetune.py --model` takes the result."""
    pretrain_bert(
        fill(PretrainOptions, arguments), fill(PretrainLoopOptions, arguments), fill(PretrainRunOptions, arguments)
    )


def plot(arguments: argparse.Namespace) -> None:
    """Draw a run's figures again from its saved numbers."""
    from minitext.plots import draw  # here: matplotlib is slow to import, and the other commands do without

    load_run(arguments.run)
    draw(Path(arguments.run))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="minitext", description=__doc__)
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("predict", help="class probabilities of new texts", description=predict.__doc__)
    command.add_argument("run", help="folder of a finished run, such as runs/static/mlp")
    command.add_argument(
        "texts", nargs="*", metavar="TEXT", help="without any, each line of --input or stdin is a text"
    )
    command.add_argument("--input", metavar="FILE", help="a UTF-8 file with a text a line")
    command.add_argument("--json", action="store_true", help="print a JSON object a line")
    command.set_defaults(act=predict)

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
    for settings in (PretrainOptions, PretrainLoopOptions, PretrainRunOptions):
        add_group(command, settings)
    command.set_defaults(act=pretrain)

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


if __name__ == "__main__":
    sys.exit(main())
