"""MNIST-1D (Greydanus & Kobak, arXiv 2011.14439): ten noisy one-dimensional shapes, generated from a fixed seed."""

from pathlib import Path

import numpy as np

from sparsity_cliff.study.registry import Count

KIND = "signal"
SHAPE = (40,)
EXAMPLES = ("4 * examples // 5", "examples // 5")
REQUIRES = ("examples >= 10 and examples % 10 == 0",)  # an equal number of each of the ten shapes


def mnist1d(root: Path, *, examples: Count = 5000) -> dict[str, np.ndarray]:
    """The published set of `examples` signals float32 (n, 40), of which 80 % are for training.

    The whole set has mean 0 and standard deviation 1.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples = examples
    made = make_dataset(args)
    return {
        "x_train": made["x"].astype(np.float32),
        "y_train": made["y"].astype(np.int64),
        "x_test": made["x_test"].astype(np.float32),
        "y_test": made["y_test"].astype(np.int64),
    }
