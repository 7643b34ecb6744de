"""Data-parallel training: one process per GPU, as `torchrun` starts them; a single process without it.

Inputs: the environment of torchrun. Outputs: rank and world size, sums over all processes, and what rank 0 sends.
The processes share no disk: rank 0 alone reads the checkpoint and reads and writes the run directory. Each process
reads its own copy of the data. A process that fails ends alone; torchrun then ends the others.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported before a process group exists: see `destroy`
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from minitext.utils.errors import UserError

Value = TypeVar("Value")
TIMEOUT = timedelta(hours=1)  # the others wait while rank 0 downloads a checkpoint or draws the figures of a seed


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

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value in all processes, which may be anything that can be pickled; every process has to call it."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def broadcast_weights(self, model: nn.Module) -> None:
        """Give rank 0's weights to the models of all processes, which have the same shape."""
        if self.world_size > 1:
            for tensor in model.state_dict().values():  # it shares the memory of the model
                dist.broadcast(tensor, 0)

    def broadcast_optimizer(self, optimizer: Optimizer) -> None:
        """Give rank 0's moments to the optimizers of all processes, which may have none yet."""
        if self.world_size == 1:
            return
        content, device = optimizer.state_dict(), optimizer.param_groups[0]["params"][0].device
        moments = [(i, name, moment) for i, entry in content["state"].items() for name, moment in entry.items()]
        layout = self.broadcast([(i, name, moment.shape, moment.dtype) for i, name, moment in moments])
        received: dict[int, dict[str, Tensor]] = {i: {} for i, *_ in layout}  # of each parameter, by its number
        for place, (i, name, shape, dtype) in enumerate(layout):
            moment = moments[place][2] if self.rank == 0 else torch.empty(shape, dtype=dtype)
            received[i][name] = moment.to(device)
            dist.broadcast(received[i][name], 0)
        optimizer.load_state_dict({**content, "state": received})

    def require_same(self, value: object, name: str) -> None:
        """Raise UserError, in all processes, if `value`, which has this name, differs between them."""
        if self.world_size == 1:
            return
        values: list[object] = [None] * self.world_size
        dist.all_gather_object(values, value)
        for rank, other in enumerate(values):
            if other != values[0]:
                problem = f"process {rank} has another copy than process 0"
                raise UserError(f"{name}: {problem}; copy the same to all machines")

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
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"--device {device}: cannot train in several processes; pass --device cpu or drop torchrun")
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT, device_id=device if on_gpu else None)
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
