"""MNIST-1D (Greydanus & Kobak, arXiv 2011.14439): ten noisy one-dimensional shapes, generated from a fixed seed."""

from pathlib import Path

import numpy as np

from sparsity_cliff.study.registry import Count

KIND = "signal"
SHAPE = (40,)
EXAMPLES = (
    "examples - (examples // 5 if held_out is None else held_out)",
    "examples // 5 if held_out is None else held_out",
)
REQUIRES = (
    "examples >= 10 and examples % 10 == 0",  # an equal number of each of the ten shapes
    "held_out is None or held_out < examples",
)


def mnist1d(root: Path, *, examples: Count = 5000, held_out: Count | None = None) -> dict[str, np.ndarray]:
    """`examples` signals float32 (n, 40), by default the published set.

    held_out: number of signals that are not for training; None for a fifth, as published. The whole set has mean 0 and
    standard deviation 1.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples = examples
    if held_out is not None:
        args.train_split = (examples - held_out + 0.5) / examples  # rounded down by the package
    made = make_dataset(args)
    return {
        "x_train": made["x"].astype(np.float32),
        "y_train": made["y"].astype(np.int64),
        "x_test": made["x_test"].astype(np.float32),
        "y_test": made["y_test"].astype(np.int64),
    }
