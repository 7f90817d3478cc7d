"""Data-parallel workers: each trains its share of every batch, and all have the same weights after every update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import nn

from alexnet_core.model.alexnet import AlexNet


@dataclass(frozen=True)
class Workers:
    """This process among the data-parallel workers of a training; the caller initialises torch.distributed.

    Attributes:
        rank: This worker's number, from 0.
        count: How many there are; with one, nothing is sent.
    """

    rank: int = 0
    count: int = 1

    def share(self, rows: int) -> tuple[int, int]:
        """Returns the part of so many rows that falls to this worker: the first, and one past the last."""
        return (rows * self.rank) // self.count, (rows * (self.rank + 1)) // self.count

    def replicated(self, model: AlexNet) -> nn.Module:
        """Returns a module whose backward pass leaves the mean of all workers' gradients on each of them."""
        if self.count == 1:
            return model
        # 合并梯度的通信只等一个流
        model.overlaps_towers = False
        return nn.parallel.DistributedDataParallel(model)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the sum of all workers' tensors, which are of the same shape, any; this one's is left as it is."""
        if self.count == 1:
            return tensor
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def agree(self, *flags: bool, device: torch.device) -> tuple[bool, ...]:
        """Returns rank 0's flags on every worker, so that all leave an epoch at the same batch.

        Args:
            flags: What this worker would do.
            device: One that this worker trains on, for the message.
        """
        if self.count == 1:
            return flags
        message = torch.tensor([int(flag) for flag in flags], device=device)
        distributed.broadcast(message, src=0)
        return tuple(bool(flag) for flag in message.tolist())


ALONE = Workers()
