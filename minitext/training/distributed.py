"""The processes that train together, one for each GPU, as `torchrun` starts them; alone where it did not.

In: torchrun's environment. Out: who this process is, and sums over all. The processes share one machine and its disk:
the first of them writes the run's folder, the others read what it wrote.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: see `leave`
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Distributed:
    """This process's place among all."""

    rank: int = 0
    size: int = 1

    def share(self, rows: Sequence) -> Sequence:
        """This process's part of a window's rows: every `size`-th, so that all get texts of like length."""
        return rows[self.rank :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """The sum of all processes' values; every process has to call it."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, or one that averages gradients over the processes while the backward pass is under way."""
        return DistributedDataParallel(model) if self.size > 1 else model


SINGLE = Distributed()


def join(device: torch.device) -> Distributed:
    """Meet the other processes (NCCL between GPUs, gloo between CPUs)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Distributed(dist.get_rank(), dist.get_world_size())


def leave(team: Distributed) -> None:
    """Let go of the group, and so end gloo's threads.

    Those that outlive Python abort the process when they free its tensors. They live as long as anything refers to the
    group: a DistributedDataParallel, which is part of a cycle; and torch.distributed.nn.functional (torch 2.13), whose
    default arguments are the group of the moment when it is imported, which AdamW does if nobody did before.
    """
    if team.size > 1:
        gc.collect()
        dist.destroy_process_group()
