"""The processes that share a run's batches, seen from one of them: who has which part, and how gradients add up."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Ranks:
    """The ranks of a run, seen from one of them. Alone, as by default, every method gives back what it got."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """This rank's of all parts of a batch."""
        return parts[self.rank :: self.size]

    def add(self, tensors: list[Tensor]) -> None:
        """In place: the sum over ranks of each tensor, the same to the bit on all of them."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in tensors]
            for tensor, total in zip(tensors, torch.split(flat, sizes), strict=True):
                tensor.copy_(total.view_as(tensor))

    def highest(self, number: int) -> int:
        """The highest of the ranks' numbers."""
        if self.size > 1:
            numbers = torch.tensor(number)  # on the CPU, so that no rank waits for its device
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
            return int(numbers)
        return number

    def all_of(self, item: T) -> list[T]:
        """Every rank's, in their order."""
        items = [item] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(items, item)
        return items


ALONE = Ranks()


def check(ranks: Ranks, batch_size: int, model: nn.Module, loss: nn.Module) -> None:
    """ValueError where ranks that each see a part of the batch would train another network than one that sees it all.

    The study's validation knows our own architectures and losses; this is for a user's.
    """
    if ranks.size > batch_size:
        raise ValueError(f"a batch of {batch_size} examples is too small for processes={ranks.size}")
    if ranks.size > 1 and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        raise ValueError(f"processes={ranks.size}: the model has a batch norm, which would see a part of the batch")
    if ranks.size > 1 and any(True for _ in loss.parameters()):
        raise ValueError(f"processes={ranks.size}: the loss learns from the batch itself, and would from a part of it")
