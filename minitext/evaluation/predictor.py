"""A finished run as a classifier for new texts.

Inputs: a run's folder, and texts. Outputs: logits, probabilities and class names; lines for a terminal or a program.
Shapes: B texts, C classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import encode, load_tokenizer
from minitext.evaluation.predict import predict_logits, probabilities
from minitext.models.bert import BertClassifier
from minitext.models.embedding_bag import EmbeddingBagClassifier
from minitext.models.hf_checkpoint import load_model as load_checkpoint
from minitext.models.hf_names import family_of, read_config
from minitext.models.static import StaticClassifier
from minitext.training.device import one_thread, pick_device
from minitext.utils.errors import UserError, first_line, is_out_of_memory
from minitext.utils.io import read_json
from minitext.utils.run_dir import check_finished, evaluated_run, how_to_replace
from minitext.utils.terminal import pad, shorten, text_width

BATCH_SIZE = 32  # texts per forward pass
EMPTY_TEXT_ID = 0  # the token of an empty text, where the tokenizer adds no special tokens; BERT needs one
BAR_WIDTH = 30  # characters of the bar of probability 1
TEXT_WIDTH, NAME_WIDTH = 100, 40  # characters of a text, and columns of a class name, that a terminal shows
TOP = 3  # classes that a terminal shows
TRACKS = ("static", "scratch", "finetune")
BELOW_THRESHOLD = "below threshold"  # the note of a text without a predicted class


class TokenSettings(NamedTuple):
    """How a run cuts a text into tokens."""

    tokenizer: Tokenizer
    max_length: int
    truncate: str
    windows: bool = False  # a longer text is cut into windows instead


@dataclass(frozen=True)
class Predictor:
    """A trained classifier of any track, on its device."""

    class_names: tuple[str, ...]
    model: nn.Module  # a StaticClassifier, EmbeddingBagClassifier or BertClassifier, in evaluation mode
    device: torch.device
    tokens: TokenSettings | None = None  # None: the model reads words

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> "Predictor":
        """Load the classifier of a finished run.

        Args:
            folder: the folder that a training script wrote (`--out`).
            device: "auto" (cuda, then mps, then cpu) or a device of torch, such as "cuda:1". Static models stay on the
                CPU: looking up words takes most of their time. On a Mac, "auto" is the CPU for models from scratch too.
        Raises:
            UserError: the folder holds no finished run or a corrupt one, or the device is missing or too small.
        """
        folder = Path(folder)
        check_finished(folder)
        if evaluated := evaluated_run(folder):
            raise UserError(f"{folder}: has no model, it is an evaluation; pass the run: {evaluated}")
        torch_device = pick_device(device)
        try:
            class_names, model, tokens = load_model(folder, read_json(folder / "config.json"))
            gains_by_mps = device != "auto" or isinstance(model, BertClassifier)
            if tokens is None or (torch_device.type == "mps" and not gains_by_mps):
                torch_device = torch.device("cpu")
            predictor = cls(class_names, model.to(torch_device).eval(), torch_device, tokens)
            predictor.check()
        except PermissionError as error:
            raise UserError(f"{error.filename or folder}: no permission to read it; change its permissions") from error
        # a file is missing or not JSON; a setting or tensor is missing or has another type or shape
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            if is_out_of_memory(error):
                remedy = "close other programs" if torch_device.type == "cpu" else "pass --device cpu"
                raise UserError(f"{folder}: too large for the memory of {torch_device}; {remedy}") from error
            reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise UserError(f"{folder}: corrupt ({reason}); {how_to_replace(folder)}") from error
        return predictor

    def check(self) -> None:
        """Raises ValueError or TypeError unless the settings of a loaded model fit it: one text is predicted."""
        names = self.class_names
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise TypeError("config.json: class names must be different texts")
        if (found := self.predict_logits(["a text"]).shape[1]) != len(names):
            raise ValueError(f"config.json has {len(names)} class names, the model {found} classes")

    def predict_logits(self, texts: Sequence[str]) -> Tensor:
        """Return `(B, C)` float32 logits on the CPU."""
        if self.tokens is None:
            with one_thread():
                return self.model.logits(texts)
        tokenizer, max_length, truncate, windows = self.tokens
        rows, pad_id = encode(tokenizer, texts, max_length, truncate, windows=windows), EMPTY_TEXT_ID
        if isinstance(self.model, EmbeddingBagClassifier):
            rows, pad_id = self.model.features(rows), None
        collator = PackCollator(rows, torch.zeros(len(texts), dtype=torch.int64), pad_id)  # the labels are not used
        return predict_logits(self.model, collator, BATCH_SIZE, self.device, torch.float32)

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return `(B, C)` float64 probabilities; columns are in the order of `class_names`."""
        return probabilities(self.predict_logits(texts))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the name of the most probable class of each text."""
        return [self.class_names[c] for c in self.predict_logits(texts).argmax(dim=1).tolist()]


def load_model(folder: Path, config: dict) -> tuple[tuple[str, ...], nn.Module, TokenSettings | None]:
    settings = config.get("minitext", config)
    if settings["track"] not in TRACKS:
        raise ValueError(f"config.json, track: expected one of {', '.join(TRACKS)}, found {settings['track']!r:.40}")
    if settings["track"] == "static":
        model = StaticClassifier.load(folder)
        return model.class_names, model, None
    tokens = TokenSettings(load_tokenizer(str(folder)), settings["max_length"], settings["truncate"])
    if settings["track"] == "scratch":
        return tuple(config["class_names"]), EmbeddingBagClassifier.load(folder), tokens
    if not isinstance(windows := settings.get("windows", False), bool):  # missing: a run of an older version
        raise TypeError(f"config.json, windows: expected true or false, found {windows!r:.40}")
    tokens = tokens._replace(windows=windows)
    class_names = tuple(config["id2label"][str(c)] for c in range(len(config["id2label"])))
    new_model = partial(BertClassifier, read_config(config, str(folder)), len(class_names))
    model, new, _ = load_checkpoint(new_model, folder, family_of(config, str(folder)))
    if new:  # newly initialized weights would predict at random
        raise ValueError(f"its weights lack {new[0]} for {len(class_names)} classes")
    return class_names, model, tokens


def predict_class(names: Sequence[str], values: Sequence[float], threshold: float) -> str | None:
    """Return the name of the most probable class, or None if its probability is below `threshold`."""
    highest = max(values)
    return names[values.index(highest)] if highest >= threshold else None


def format_prediction(
    text: str, names: Sequence[str], values: Sequence[float], threshold: float = 0.0, top: int | None = None
) -> str:
    """Format a prediction for a terminal: the text, one bar per class, the predicted class marked with `>`.

    `values` are the C probabilities. No class is marked if all are below `threshold`. Of more than `top` classes the
    `top` most probable ones are shown, in this order, and the number and sum of the others; long names are shortened.
    """
    predicted, shown = predict_class(names, values, threshold), list(zip(names, values, strict=True))
    if top is not None and top < len(names):
        shown = sorted(shown, key=lambda row: -row[1])[:top]
    name_width = NAME_WIDTH if top else max(map(text_width, names))
    rows = [(">" if name == predicted else " ", shorten(name, name_width), value) for name, value in shown]
    if others := len(names) - len(shown):
        rest = max(0.0, 1 - sum(value for _, value in shown))
        rows.append((" ", f"{others:,} other class{'es' if others > 1 else ''}", rest))
    width = max(text_width(name) for _, name, _ in rows)
    lines = [text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"]
    for mark, name, value in rows:
        lines.append(f"  {mark} {pad(name, width)} {value:7.2%} {'█' * round(BAR_WIDTH * value)}")
    return "\n".join(lines if predicted is not None else [*lines, f"  abstains: {BELOW_THRESHOLD}"])


def json_prediction(text: str, names: Sequence[str], values: Sequence[float], threshold: float = 0.0) -> str:
    """Format a prediction as one line of JSON: text, class (null below `threshold`), probabilities by name, note."""
    predicted, by_name = predict_class(names, values, threshold), dict(zip(names, values, strict=True))
    note = BELOW_THRESHOLD if predicted is None else ""
    record = {"text": text, "class": predicted, "probabilities": by_name, "note": note}
    return json.dumps(record, ensure_ascii=False)
