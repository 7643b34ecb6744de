"""Integrated gradients (Sundararajan, Taly & Yan 2017, arXiv:1703.01365, sections 3 and 5).

Inputs: a margin, the explained score, as a function of what each token adds. Outputs: one contribution per token.
Shapes: P tokens, K points of the path, D vector width, U hidden units, C classes.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = (16, 64, 256, 1024)  # points of the path; the first number with a small enough error is taken
MAX_ERROR = 0.01  # completeness error of a reliable attribution
MIN_CHANGE = 0.1  # of the margin; rounding alone would be several per cent of a smaller one
TOKENS_PER_PASS = 1024  # over several points of the path; bounds the memory
Margin = Callable[[Tensor], Tensor]  # (K, …) to (K,)


class PathIntegral(NamedTuple):
    """Integrated gradients along the straight line from a baseline to the input."""

    contributions: Tensor  # (P,) float64
    baseline_margin: float
    margin: float
    steps: int | None = None  # None: exact

    @property
    def completeness_error(self) -> float:
        """How far the sum of the contributions is from the change of the margin, relative to that change."""
        change = self.margin - self.baseline_margin
        return abs(self.contributions.sum().item() - change) / max(abs(change), MIN_CHANGE)


@torch.no_grad()
def one_layer_gradients(
    hidden: nn.Module | None, output: nn.Module, vectors: Tensor, fixed: Tensor, margin: Margin
) -> PathIntegral:
    """Exact integrated gradients of `output(relu(hidden(x)))` (`hidden` None: `output(x)`) from `fixed` to the input.

    The input is `fixed`, (D,), plus the sum of `vectors`, (P, D). Along the path a unit's input is linear, so that the
    mean slope of its ReLU is the change of its value divided by the change of its input.
    """
    linear = hidden is None
    hidden, output = (deepcopy(module).cpu().double() for module in (hidden or nn.Identity(), output))
    vectors, fixed = vectors.cpu().double(), fixed.cpu().double()
    ends = hidden(torch.stack((fixed, fixed + vectors.sum(dim=0))))  # (2, units): baseline, input
    units = hidden(vectors) - hidden(torch.zeros_like(vectors))  # (P, units), what each token adds to a unit's input
    if not linear:
        change, values = ends[1] - ends[0], F.relu(ends)
        slope = torch.where(change == 0, (ends[0] > 0).double(), (values[1] - values[0]) / change)  # (units,)
        units, ends = units * slope, values
    logits = output(units) - output(torch.zeros_like(units))  # (P, C), what each token adds to the logits
    baseline, end = margin(output(ends)).tolist()
    return PathIntegral(margin(logits), baseline, end)


def integrated_gradients(margin: Margin, num_tokens: int, device: torch.device) -> PathIntegral:
    """Integrate d margin / d scale from all scales 0 to all scales 1 (equation 1), by Gauss-Legendre quadrature.

    `margin` maps `(K, P)` scales, which say how much of each token is present, to `(K,)` margins.
    """
    with torch.no_grad():
        ends = [margin(torch.full((1, num_tokens), scale, device=device)).item() for scale in (0.0, 1.0)]
    for steps in STEPS:
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(steps))  # on [-1, 1]
        contributions, chunk = torch.zeros(num_tokens, dtype=torch.float64), max(1, TOKENS_PER_PASS // num_tokens)
        for points, point_weights in zip(((nodes + 1) / 2).split(chunk), (weights / 2).split(chunk), strict=True):
            scales = points.float()[:, None].repeat(1, num_tokens).to(device).requires_grad_()
            slopes = torch.autograd.grad(margin(scales).sum(), scales)[0]  # (K, P)
            contributions += point_weights @ slopes.cpu().double()
        integral = PathIntegral(contributions, *ends, steps)
        if integral.completeness_error < MAX_ERROR:
            break
    return integral
