"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through torchvision, which downloads them once and checks their MD5."""

from pathlib import Path
from typing import Any

import numpy as np

KIND = "image"
SHAPE = (3, 32, 32)
EXAMPLES = ("50000", "10000")


def cifar10(root: Path) -> dict[str, np.ndarray]:
    """CIFAR-10: float32 (n, 3, 32, 32), standardized per channel, in 10 classes."""
    from torchvision.datasets import CIFAR10

    return _read(CIFAR10, root)


def cifar100(root: Path) -> dict[str, np.ndarray]:
    """CIFAR-100: float32 (n, 3, 32, 32), standardized per channel, in 100 classes."""
    from torchvision.datasets import CIFAR100

    return _read(CIFAR100, root)


def _read(dataset: Any, root: Path) -> dict[str, np.ndarray]:
    """Channels first, standardized per channel with mean and deviation of the training set, not augmented."""
    train, test = (dataset(root, train=part, download=True) for part in (True, False))
    mean = train.data.mean(axis=(0, 1, 2)) / 255
    deviation = train.data.std(axis=(0, 1, 2)) / 255

    def images(data: np.ndarray) -> np.ndarray:
        standardized = ((data / 255 - mean) / deviation).astype(np.float32)
        return np.ascontiguousarray(standardized.transpose(0, 3, 1, 2))

    return {
        "x_train": images(train.data),
        "y_train": np.asarray(train.targets, dtype=np.int64),
        "x_test": images(test.data),
        "y_test": np.asarray(test.targets, dtype=np.int64),
    }
