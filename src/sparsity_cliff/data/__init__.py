"""Data sets. A source is a function (root, **options) -> arrays, in a file of its own that states, as constants, the
KIND of its examples ("signal" or "image") and their SHAPE.

Sources run once, in the workflow's data stage, and their arrays go into one .npz file; training reads only that file.
The keys are x_train, y_train, x_test, y_test: inputs float32 (n, *shape), standardized; labels int64 (n,).
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SOURCES = {
    "mnist1d": "sparsity_cliff.data.mnist1d:mnist1d",
    "digits": "sparsity_cliff.data.digits:digits",
    "cifar10": "sparsity_cliff.data.cifar:cifar10",
    "cifar100": "sparsity_cliff.data.cifar:cifar100",
}


class DataError(ValueError):
    """A data file that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Dataset:
    """Inputs float32 (n, *shape) and labels int64 (n,), for training and for held-out evaluation, on one device."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x_train.shape[1:])

    def to(self, device: torch.device) -> "Dataset":
        x_train, y_train = self.x_train.to(device), self.y_train.to(device)
        return Dataset(x_train, y_train, self.x_test.to(device), self.y_test.to(device), self.classes)


def load(path: str | Path) -> Dataset:
    """Read a file of the data stage. DataError where it is missing, torn or not such a file."""
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            x_train, y_train, x_test, y_test = (torch.from_numpy(arrays[key]) for key in keys)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable data file ({error}); delete it and run again") from error
    return Dataset(x_train, y_train, x_test, y_test, classes=int(max(y_train.max(), y_test.max())) + 1)


def randomized(data: Dataset, generator: torch.Generator) -> Dataset:
    """Gaussian inputs N(0, 1) and uniform random labels in the shapes of `data`: the control of claim C3."""

    def draw(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(x.shape, generator=generator)
        return inputs, torch.randint(data.classes, y.shape, generator=generator)

    return Dataset(*draw(data.x_train, data.y_train), *draw(data.x_test, data.y_test), data.classes)
