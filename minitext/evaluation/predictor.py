"""A finished run to class probabilities for new texts.

In: a run's folder and texts. Out: `(texts, classes)` probabilities, and how a person or a program reads them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import encode, load_tokenizer, pad_id
from minitext.evaluation.predict import predict_logits
from minitext.models.bert import BertClassifier
from minitext.models.embedding_bag import EmbeddingBagClassifier
from minitext.models.hf_checkpoint import load_weights
from minitext.models.hf_names import family_of, read_config
from minitext.models.static import StaticClassifier
from minitext.training.device import pick_device
from minitext.utils.errors import UserError, first_line
from minitext.utils.run_dir import check_finished

PREDICTION_BATCH = 8  # texts in a forward pass
TOKEN_CHUNK = 1024  # texts of a stream that are sorted by length together: 128 batches, so that hardly any is padded
BAR = 30  # characters of a probability of 1
BELOW_THRESHOLD = "below threshold"  # why a run abstains


@dataclass(frozen=True)
class Predictor:
    """A trained classifier, whatever its track."""

    class_names: tuple[str, ...]
    model: nn.Module  # a StaticClassifier, EmbeddingBagClassifier or BertClassifier
    logits: Callable[[Sequence[str]], Tensor]  # texts to (B, C)
    temperature: float = 1.0  # what logits are divided by (Guo et al. 2017, section 4.2)
    tokens: "TokenSettings | None" = None  # None: the model reads words

    def predict(self, texts: Sequence[str]) -> Tensor:
        """`(B, C)` probabilities."""
        return (self.logits(texts) / self.temperature).softmax(dim=1)

    def predict_in_chunks(self, texts: Iterable[str]) -> Iterator[Tensor]:
        """`(B, C)` probabilities of a stream of texts, a chunk at a time and in order; only a few chunks are taken in
        ahead. Where a chunk ends depends on the number of texts alone, so that a stream that goes on behind a chunk
        gives the same bits.
        """
        if self.tokens is None:
            logits = static_logits_in_chunks(self.model, texts)
        else:
            texts = iter(texts)
            logits = map(self.logits, iter(lambda: list(islice(texts, TOKEN_CHUNK)), []))
        for some in logits:
            yield (some / self.temperature).softmax(dim=1)


class TokenSettings(NamedTuple):
    """How a run cuts a text into tokens."""

    tokenizer: Tokenizer
    max_length: int
    truncate: str


def load_predictor(folder: str | Path) -> Predictor:
    """The classifier of a finished run. Raises UserError when the folder is no run, unfinished, or damaged."""
    folder = Path(folder)
    check_finished(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        track = config["minitext"]["track"] if "minitext" in config else config["track"]
        return {"static": load_static, "scratch": load_scratch, "finetune": load_finetune}[track](folder, config)
    # a file that is missing or not JSON, a setting or tensor that is missing or of the wrong shape
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged ({first_line(error)}); train it again") from error


def load_static(folder: Path, config: dict) -> Predictor:
    model = StaticClassifier.load(folder)
    return Predictor(tuple(config["names"]), model, model.logits, config.get("temperature", 1.0))


@torch.no_grad()
def static_logits_in_chunks(model: StaticClassifier, texts: Iterable[str]) -> Iterator[Tensor]:
    """`(B, C)` logits of a chunk after the other, while other processes look up the words of the next ones."""
    model.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the cores are taken: more threads wait for each other, at twice the processor time
    try:
        for encoded in model.encoder.encode_in_chunks(texts):
            yield model.classifier(encoded.vectors)
    finally:
        torch.set_num_threads(threads)


def load_scratch(folder: Path, config: dict) -> Predictor:
    return token_predictor(tuple(config["names"]), EmbeddingBagClassifier.load(folder), folder, config)


def load_finetune(folder: Path, config: dict) -> Predictor:
    names = tuple(config["id2label"][str(row)] for row in range(len(config["id2label"])))
    model = BertClassifier(read_config(config, str(folder)), len(names))
    new, _ = load_weights(model, folder, family_of(config, str(folder)))
    if new:  # drawn at random: no answer is better than a guess
        raise UserError(f"{folder}: damaged (its weights lack {new[0]} for {len(names)} classes); train it again")
    return token_predictor(names, model, folder, config["minitext"])


def token_predictor(names: tuple[str, ...], model: nn.Module, folder: Path, settings: dict) -> Predictor:
    """A run on tokens: tokenizer, padded batches, logits; on a GPU if there is one."""
    tokens = TokenSettings(load_tokenizer(str(folder)), settings["max_length"], settings["truncate"])
    device = pick_device("auto")
    model.to(device)

    def logits(texts: Sequence[str]) -> Tensor:
        ids = encode(tokens.tokenizer, texts, tokens.max_length, tokens.truncate)
        data = PackCollator(ids, torch.zeros(len(texts), dtype=torch.int64), pad_id(tokens.tokenizer))
        return predict_logits(model, data, PREDICTION_BATCH, device, torch.float32)

    return Predictor(names, model, logits, settings.get("temperature", 1.0), tokens)


def predict_class(probabilities: Sequence[float], threshold: float) -> int | None:
    """The likeliest class; None where no class is as probable as `threshold`."""
    highest = max(probabilities)
    return probabilities.index(highest) if highest >= threshold else None


def format_prediction(text: str, names: Sequence[str], probabilities: Sequence[float], threshold: float = 0.0) -> str:
    """Lines for a terminal: the text, then a bar for each class, the likeliest marked if it reaches `threshold`."""
    best = predict_class(probabilities, threshold)
    width = max(map(len, names))
    lines = [text if len(text) <= 100 else text[:99] + "…"]
    for c, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
        bar = "█" * round(BAR * probability)
        lines.append(f"  {'>' if c == best else ' '} {name:<{width}} {probability:7.2%} {bar}")
    return "\n".join(lines if best is not None else [*lines, f"  abstains: {BELOW_THRESHOLD}"])


def json_prediction(text: str, names: Sequence[str], probabilities: Sequence[float], threshold: float = 0.0) -> str:
    """One JSON object on one line: text, class (null below `threshold`), probabilities by name, note."""
    best = predict_class(probabilities, threshold)
    record = {
        "text": text,
        "class": None if best is None else names[best],
        "probabilities": dict(zip(names, probabilities, strict=True)),
        "note": BELOW_THRESHOLD if best is None else "",
    }
    return json.dumps(record, ensure_ascii=False)


def format_skipped_row(line: int, note: str) -> str:
    """A line for a terminal in place of an answer, where a row holds no text."""
    return f"line {line}: {note}"


def json_unread(line: int, note: str) -> str:
    """The JSON object for a row that holds no text."""
    return json.dumps({"text": "", "class": None, "probabilities": None, "note": f"line {line}: {note}"})
