"""A finished run to class probabilities for new texts.

In: a run's folder and texts. Out: `(texts, classes)` probabilities, and how a person or a program reads them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from minitext.batches import Padder
from minitext.bert import Classifier
from minitext.device import pick_device
from minitext.errors import UserError, first_line
from minitext.evaluate import predict_all
from minitext.families import family_of, read_config
from minitext.feedforward import FeedForward
from minitext.pretrained import load_weights
from minitext.static import StaticClassifier
from minitext.tokens import encode, load_tokenizer, pad_id

PREDICTION_BATCH = 8  # texts in a forward pass
BAR = 30  # characters of a probability of 1


class Predictor(NamedTuple):
    """A trained classifier, whatever its track."""

    names: tuple[str, ...]
    predict: Callable[[Sequence[str]], Tensor]  # texts to (B, C) probabilities


def load_run(folder: str | Path) -> Predictor:
    """The classifier of a finished run. Raises UserError when the folder is no run, unfinished, or damaged."""
    folder = Path(folder)
    if not (folder / "scores.json").exists():
        inside = sorted(path.parent.name for path in folder.glob("*/scores.json") if path.parent.suffix != ".partial")
        hint = f"; did you mean {folder / inside[0]}?" if inside else "; give the folder that a script wrote (--out)"
        raise UserError(f"{folder}: not a finished run{hint}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        track = config["minitext"]["track"] if "minitext" in config else config["track"]
        return {"static": load_static, "scratch": load_scratch, "finetune": load_finetune}[track](folder, config)
    # a file that is missing or not JSON, a setting or tensor that is missing or of the wrong shape
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged ({first_line(error)}); train it again") from error


def load_static(folder: Path, config: dict) -> Predictor:
    model = StaticClassifier.load(folder)
    return Predictor(tuple(config["names"]), model.predict)


def load_scratch(folder: Path, config: dict) -> Predictor:
    model = FeedForward.load(folder)
    return Predictor(tuple(config["names"]), predict_tokens(model, folder, config["max_length"], config["truncate"]))


def load_finetune(folder: Path, config: dict) -> Predictor:
    names = tuple(config["id2label"][str(row)] for row in range(len(config["id2label"])))
    model = Classifier(read_config(config, str(folder)), len(names))
    new, _ = load_weights(model, folder, family_of(config, str(folder)))
    if new:  # drawn at random: no answer is better than a guess
        raise UserError(f"{folder}: damaged (its weights lack {new[0]} for {len(names)} classes); train it again")
    settings = config["minitext"]
    return Predictor(names, predict_tokens(model, folder, settings["max_length"], settings["truncate"]))


def predict_tokens(model: nn.Module, folder: Path, max_length: int, truncate: str) -> Callable[[Sequence[str]], Tensor]:
    """What a run on tokens does with texts: tokenizer, padded batches, softmax; on a GPU if there is one."""
    tokenizer = load_tokenizer(str(folder))
    device = pick_device("auto")
    model.to(device)

    def predict(texts: Sequence[str]) -> Tensor:
        ids = encode(tokenizer, texts, max_length, truncate)
        data = Padder(ids, torch.zeros(len(texts), dtype=torch.int64), pad_id(tokenizer))
        return predict_all(model, data, PREDICTION_BATCH, device, torch.float32).softmax(dim=1)

    return predict


def show_prediction(text: str, names: Sequence[str], probabilities: Sequence[float]) -> str:
    """Lines for a terminal: the text, then a bar for each class, the likeliest marked."""
    best = max(range(len(names)), key=lambda c: probabilities[c])
    width = max(map(len, names))
    lines = [text if len(text) <= 100 else text[:99] + "…"]
    for c, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
        bar = "█" * round(BAR * probability)
        lines.append(f"  {'>' if c == best else ' '} {name:<{width}} {probability:7.2%} {bar}")
    return "\n".join(lines)


def json_prediction(text: str, names: Sequence[str], probabilities: Sequence[float]) -> str:
    """One JSON object on one line: text, class, probabilities by name."""
    best = max(range(len(names)), key=lambda c: probabilities[c])
    record = {"text": text, "class": names[best], "probabilities": dict(zip(names, probabilities, strict=True))}
    return json.dumps(record, ensure_ascii=False)
