"""Whether a run of pytest may see a GPU. Imported before torch."""

from collections.abc import Sequence
from itertools import pairwise

MARKS = ("gpu", "gpus", "mps")


def selects_gpu_tests(arguments: Sequence[str]) -> bool:
    """Whether `-m` selects tests that need a GPU, and no others."""
    marks = [value for option, value in pairwise(arguments) if option == "-m"]
    words = marks[-1].split() if marks else [""]
    return words[0] in MARKS and ("or" not in words or set(words) <= {*MARKS, "or"})
