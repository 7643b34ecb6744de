"""Long texts as overlapping windows of one length, so that no token is lost.

Inputs: the token ids of a text, numbers of tokens, or logits of windows. Outputs: windows, their numbers, or logits of
texts. Shapes: B texts, S windows of all texts, C classes.
"""

from typing import TypeVar

import torch
from torch import Tensor

# The part of a window's own tokens that the next window repeats. Inside a text, each token then has an eighth of a
# window of context on both sides in one of its windows, and the last window is longer than this; the price is up to a
# third more tokens.
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


def mean_by_text(logits: Tensor, windows: Tensor) -> Tensor:
    """`(S, C)` logits of windows to `(B, C)`, the mean over the windows of each text; `windows` is (B,)."""
    texts = torch.arange(len(windows), device=windows.device)
    texts = texts.repeat_interleave(windows, output_size=len(logits))  # (S,); the given size saves a wait for a GPU
    sums = logits.new_zeros(len(windows), logits.shape[1]).index_add(0, texts, logits)
    return sums / windows[:, None]


def describe_windows(lengths: Tensor, size: int) -> str:
    """One line: how many texts have several windows, and the most of one text, which are in memory together."""
    windows = num_windows(lengths, size)
    longer, most = (windows > 1).sum().item(), windows.max().item()
    return (
        f"{longer:,} of {len(windows):,} training texts are longer than {size} tokens; the longest is {most:,} windows"
    )
