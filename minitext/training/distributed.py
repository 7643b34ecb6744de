"""Data-parallel training: one process per GPU, as `torchrun` starts them; a single process without it.

Inputs: the environment of torchrun. Outputs: rank and world size, and sums over all processes.
The processes share one machine and its disk: rank 0 writes the run directory, the others read it.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported before a process group exists: see `destroy`
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minitext.utils.errors import UserError


@dataclass(frozen=True)
class Distributed:
    """This process among all."""

    rank: int = 0
    world_size: int = 1

    def shard(self, items: Sequence) -> Sequence:
        """The items of this process: strided, so that all ranks get texts of similar lengths."""
        return items[self.rank :: self.world_size]

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of the values of all processes; every process has to call it."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is set in any process; every process has to call it."""
        return flag if self.world_size == 1 else bool(self.all_reduce_sum(torch.tensor(int(flag), device=device)))

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model; with several processes, one that averages gradients over them during the backward pass."""
        return DistributedDataParallel(model, gradient_as_bucket_view=True) if self.world_size > 1 else model


SINGLE = Distributed()


def world_size() -> int:
    """The number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_torchrun(script: str) -> None:
    """Raise UserError in a script that does not train in parallel: all processes would write one run directory."""
    if world_size() > 1:
        raise UserError(f"{script} does not train in parallel; run it without torchrun")


def init_distributed(device: torch.device) -> Distributed:
    """Join the process group: NCCL between GPUs, gloo between CPUs."""
    if world_size() == 1:
        return SINGLE
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    return Distributed(dist.get_rank(), dist.get_world_size())


def destroy(distributed: Distributed) -> None:
    """Leave the process group, and end the threads of gloo.

    Threads that outlive Python abort the process. They live as long as anything refers to the group: a
    DistributedDataParallel, in a reference cycle; and torch.distributed.nn.functional (torch 2.13), whose default
    arguments are the group at the time of its import, which AdamW triggers if nobody did before.
    """
    if distributed.world_size > 1:
        gc.collect()
        dist.destroy_process_group()
