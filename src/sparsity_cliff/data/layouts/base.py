"""What every layout has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Dataset(ABC):
    """Training examples and held-out ones.

    shape: of one example, for the model's constructor. classes: distinct targets, 0 where they are none.
    examples: how many training examples an epoch has. delimiters: tokens that end a word or sentence, None where the
    data is not of tokens.
    """

    shape: tuple[int, ...]
    classes: int
    examples: int
    delimiters: tuple[int, ...] | None = None

    @classmethod
    @abstractmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """From the arrays of a data file. ValueError or KeyError where they do not fit."""

    @abstractmethod
    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        """Training examples by number. draw: one uniform number from [0, 1) for each, to crop with."""

    @abstractmethod
    def held_out(self, limit: int | None) -> list[Batch]:
        """The first `limit` held-out examples, or all, in batches that are small enough to evaluate at once."""

    @abstractmethod
    def randomized(self, seed: int) -> "Dataset":
        """Inputs and targets without any relation, in the same shapes: the control of claim C3."""

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor | float]:
        """What a held-out batch is judged by besides the loss: name -> mean over its examples, where it has one.

        last: whether training is over; what is dear to compute is left out before.
        """

    def summary(self, means: Mapping[str, float], in_nats: bool) -> dict[str, float]:
        """What follows from the means over all held-out examples: name -> value.

        in_nats: whether the loss is a negative log-likelihood.
        """
        return {}

    def to(self, device: torch.device) -> Self:
        """With its tensors on the device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]


def in_batches(x: Tensor, y: Tensor, limit: int | None, size: int) -> list[Batch]:
    return list(zip(torch.split(x[:limit], size), torch.split(y[:limit], size), strict=True))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=-1) == targets).float().mean()


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
