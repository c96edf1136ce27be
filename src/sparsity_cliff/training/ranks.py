"""The processes (ranks) that share a run's batches, from the view of one of them."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Ranks:
    """The ranks of a run, from the view of one of them. With a single rank, the default, every method is trivial."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """The parts of a batch that this rank takes."""
        return parts[self.rank :: self.size]

    def add(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, which is equal to the bit on all ranks."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in tensors]
            for tensor, total in zip(tensors, torch.split(flat, sizes), strict=True):
                tensor.copy_(total.view_as(tensor))

    def highest(self, number: int) -> int:
        """The maximum of the ranks' numbers."""
        if self.size > 1:
            numbers = torch.tensor(number)  # on the CPU, so that no rank waits for its device
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
            return int(numbers)
        return number

    def all_of(self, item: T) -> list[T]:
        """The items of all ranks, in their order."""
        items = [item] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(items, item)
        return items


ALONE = Ranks()


def check(ranks: Ranks, batch_size: int, model: nn.Module, loss: nn.Module) -> None:
    """Raise ValueError if ranks that each see a part of the batch would train another network than a single process.

    The study's validation checks the project's own architectures and losses; this check covers the user's.
    """
    if ranks.size > batch_size:
        raise ValueError(f"a batch of {batch_size} examples is too small for processes={ranks.size}")
    if ranks.size > 1 and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        raise ValueError(f"processes={ranks.size}: the model has a batch norm, which would see only part of the batch")
    if ranks.size > 1 and any(True for _ in loss.parameters()):
        raise ValueError(f"processes={ranks.size}: the loss learns from the batch, but would see only part of it")
