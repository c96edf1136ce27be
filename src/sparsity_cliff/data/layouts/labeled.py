"""Labeled examples: signals and images with classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sparsity_cliff.data.layouts.base import Batch, Dataset, accuracy, in_batches, require
from sparsity_cliff.data.seeds import generator

EVALUATION_BATCH = 1000  # examples


@dataclass(frozen=True)
class Labeled(Dataset):
    """Standardized inputs float32 (n, *shape) and labels int64 (n,). The accuracy is over examples."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """From x_train, x_test float32 (n, *shape) and y_train, y_test int64 (n,). Raises ValueError or KeyError."""
        x_train, y_train, x_test, y_test = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
        for x, y, part in ((x_train, y_train, "train"), (x_test, y_test, "test")):
            require(x.dtype == np.float32 and y.dtype == np.int64, f"x_{part} is not float32 or y_{part} not int64")
            require(x.ndim > 1 and y.ndim == 1, f"x_{part} has shape {x.shape} and y_{part} {y.shape}")
            require(len(x) == len(y) > 0, f"x_{part} has {len(x)} examples and y_{part} {len(y)}")
        require(x_train.shape[1:] == x_test.shape[1:], "x_train and x_test differ in shape")
        require(min(y_train.min(), y_test.min()) >= 0, "negative labels")
        tensors = (torch.from_numpy(array) for array in (x_train, y_train, x_test, y_test))
        return cls(*tensors, int(max(y_train.max(), y_test.max())) + 1)  # type: ignore[arg-type, call-arg]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of one example."""
        return tuple(self.x_train.shape[1:])

    @property
    def examples(self) -> int:  # type: ignore[override]
        """Number of training examples."""
        return len(self.y_train)

    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        """Inputs (N, *shape) and labels (N,). `draw` is not used."""
        return self.x_train[index], self.y_train[index]

    def held_out(self, limit: int | None) -> list[Batch]:
        """Batches of up to EVALUATION_BATCH examples."""
        return in_batches(self.x_test, self.y_test, limit, EVALUATION_BATCH)

    def randomized(self, seed: int) -> "Labeled":
        """Gaussian inputs N(0, 1) and uniform random labels."""
        stream = generator(seed, "data")

        def draw(x: Tensor, y: Tensor) -> Batch:
            inputs = torch.randn(x.shape, generator=stream)
            return inputs, torch.randint(self.classes, y.shape, generator=stream)

        return Labeled(*draw(self.x_train, self.y_train), *draw(self.x_test, self.y_test), self.classes)

    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor]:
        """Whether logits (N, K) are largest at the labels (N,), 0 or 1."""
        return {"accuracy": accuracy(outputs, targets)}
