"""Long texts as overlapping windows of one length, so that no token is lost.

Inputs: the token ids of a text, or numbers of tokens. Outputs: windows, or numbers of windows. Shapes: B texts.
The logits of a text are the mean of those of its windows (`models/bert.py`).
"""

from typing import TypeVar

import torch
from torch import Tensor

# of a window's own tokens, the part that the next window repeats. Inside a text, each token then has an eighth of a
# window of context on both sides in one of its windows, for at most a third more tokens; a last window is longer still.
OVERLAP = 0.25
Item = TypeVar("Item")


def split_windows(ids: list[Item], size: int) -> list[list[Item]]:
    """Windows of `size` ids, the last one of the rest; each begins with the last quarter of the one before it."""
    overlap = int(OVERLAP * size)
    starts = range(0, max(len(ids) - overlap, 1), size - overlap)
    return [ids[start : start + size] for start in starts]


def num_windows(lengths: Tensor, size: int) -> Tensor:
    """(B,) int64 numbers of windows, from the (B,) tokens of each text in all of its windows; 1 for an empty text."""
    return (lengths + (size - 1)).div(size, rounding_mode="floor").clamp_min(1)


def window_lengths(lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The number of windows of each text, (B,), and the length of each window: all but a text's last have `size`."""
    windows = num_windows(lengths, size)
    each = torch.full((int(windows.sum()),), size)
    each[windows.cumsum(0) - 1] = lengths - (windows - 1) * size
    return windows, each


def describe_windows(lengths: Tensor, size: int) -> str:
    """One line: how many texts have several windows, and the most of one text, which are in memory together."""
    windows = num_windows(lengths, size)
    longer, most = (windows > 1).sum().item(), windows.max().item()
    return (
        f"{longer:,} of {len(windows):,} training texts are longer than {size} tokens; the longest is {most:,} windows"
    )
