"""A finished run to class probabilities for new texts.

In: a run's folder and texts. Out: `(texts, classes)` probabilities, and how a person or a program reads them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from minitext.errors import UserError
from minitext.static import StaticClassifier

BAR = 30  # characters of a probability of 1


class Predictor(NamedTuple):
    """A trained classifier, whatever its track."""

    names: tuple[str, ...]
    predict: Callable[[Sequence[str]], Tensor]  # texts to (B, C) probabilities


def load_run(folder: str | Path) -> Predictor:
    """The classifier of a finished run. Raises UserError when the folder is no run, unfinished, or damaged."""
    folder = Path(folder)
    if not (folder / "scores.json").exists():
        inside = sorted(path.parent.name for path in folder.glob("*/scores.json"))
        hint = f"; did you mean {folder / inside[0]}?" if inside else "; give the folder that a script wrote (--out)"
        raise UserError(f"{folder}: not a finished run{hint}")
    try:
        model = StaticClassifier.load(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # missing, not JSON, lacking a key, wrong shapes
        raise UserError(f"{folder}: damaged ({error}); train it again") from error
    return Predictor(model.names, model.predict)


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
