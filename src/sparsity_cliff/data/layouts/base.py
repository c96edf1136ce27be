"""The base class of all layouts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Dataset(ABC):
    """Training examples and held-out examples.

    shape: shape of one example, for the model's constructor. classes: number of distinct targets, 0 if targets are not
    classes. examples: number of training examples per epoch. delimiters: tokens that end a word or sentence, None for
    data without tokens.
    """

    shape: tuple[int, ...]
    classes: int
    examples: int
    delimiters: tuple[int, ...] | None = None

    @classmethod
    @abstractmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The data set of the arrays in a data file. Raises ValueError or KeyError if they do not fit the layout."""

    @abstractmethod
    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        """Training examples by number.

        index: int64 (N,). draw: (N,), uniform in [0, 1), which decides where an example is cropped.
        """

    @abstractmethod
    def held_out(self, limit: int | None) -> list[Batch]:
        """The first `limit` held-out examples, or all if None, in batches that fit into one forward pass."""

    @abstractmethod
    def randomized(self, seed: int) -> "Dataset":
        """Random inputs and unrelated targets in the same shapes, the control for claim C3."""

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor]:
        """Scores of a held-out batch besides the loss: name -> (N,), a value per example, nan where it is undefined.

        last: whether this is the last step. Expensive scores are computed only then.
        """

    def summary(self, means: Mapping[str, float], in_nats: bool) -> dict[str, float]:
        """Values that follow from the means over all held-out examples: name -> value.

        in_nats: whether the loss is a negative log-likelihood.
        """
        return {}

    def to(self, device: torch.device) -> Self:
        """The data set with its tensors on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]


def in_batches(x: Tensor, y: Tensor, limit: int | None, size: int) -> list[Batch]:
    """Split the first `limit` examples (all if None) of x (n, ...) and y (n, ...) into batches of `size` examples."""
    return list(zip(torch.split(x[:limit], size), torch.split(y[:limit], size), strict=True))


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the outputs (N, ..., K) of each example whose largest entry is at the target (N, ...): (N,)."""
    return (outputs.argmax(dim=-1) == targets).float().reshape(len(targets), -1).mean(dim=1)


def require(condition: bool, problem: str) -> None:
    """Raise ValueError with `problem` unless the condition holds."""
    if not condition:
        raise ValueError(problem)
