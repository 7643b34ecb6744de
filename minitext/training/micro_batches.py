"""The micro-batches of each update, on the device, and a second attempt in smaller ones when memory runs out.

Inputs: a collator and a plan of steps. Outputs: for each step the list of this process's micro-batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minitext.data.batching import Batch, Collator, chunk_by_length, load_batches
from minitext.training.distributed import Distributed
from minitext.training.step import IGNORE_INDEX, StepResult
from minitext.utils.errors import UserError, is_out_of_memory


@dataclass
class MicroBatches:
    """Iterates over steps. `max_texts` is the micro-batch size of the next step; it is halved when memory runs out.

    Texts of several windows have no more tokens in a micro-batch than `max_texts` texts of one, unless one is alone.
    """

    collator: Collator
    steps: Sequence[np.ndarray]
    epochs: Sequence[int]
    max_texts: int
    device: torch.device
    distributed: Distributed

    def __iter__(self) -> Iterator[list[Batch]]:
        lengths, window = self.collator.data.lengths().numpy(), self.collator.data.window
        for indices, epoch in zip(self.steps, self.epochs, strict=True):
            shard, size = shard_indices(indices, self.distributed), self.max_texts
            parts = chunk_by_length(shard, lengths, size, None if window is None else size * window)
            loaded = load_batches(self.collator, parts, [epoch] * len(parts), pin=self.device.type == "cuda")
            micro_batches = [batch.to(self.device) for batch in loaded]
            if self.distributed.rank >= len(indices):  # fewer texts than processes: this one's text does not count
                for batch in micro_batches:
                    batch.labels.fill_(IGNORE_INDEX)
            yield micro_batches

    def run(
        self, step: Callable[[list[Batch]], StepResult], micro_batches: list[Batch], log: Callable[[str], None]
    ) -> StepResult:
        """`step(micro_batches)`; when memory runs out, again in halves, with the same update."""
        while True:
            try:
                return step([part for batch in micro_batches for part in batch.split(self.max_texts)])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                largest = min(self.max_texts, max(len(batch.indices) for batch in micro_batches))
                if largest == 1 or self.distributed.world_size > 1:  # the other processes would not know
                    remedy = "lower --micro-batch-size or --max-length, or pass --gradient-checkpointing"
                    if largest == 1 and self.collator.data.window is not None:  # of any size, they have all tokens
                        remedy = "pass --gradient-checkpointing or drop --windows"
                    raise UserError(f"out of memory with {largest} texts per forward pass; {remedy}") from error
            self.max_texts = largest // 2  # outside of `except`, whose error keeps the tensors that filled the memory
            if self.device.type != "cpu":
                torch.get_device_module(self.device).empty_cache()
            log(f"out of memory: continuing with --micro-batch-size {self.max_texts} (same update)")


def shard_indices(indices: np.ndarray, distributed: Distributed) -> np.ndarray:
    """This process's texts of a step; the first text where there are too few for all."""
    return distributed.shard(indices) if distributed.rank < len(indices) else indices[:1]
