"""The 1,797 scanned 8×8 digits that scikit-learn ships (Alpaydin & Kaynak 1998, UCI)."""

from pathlib import Path

import numpy as np

from sparsity_cliff.study.registry import Count

KIND = "image"
SHAPE = (1, 8, 8)
EXAMPLES = ("1437 if examples is None else examples", "360")
REQUIRES = ("examples is None or examples <= 1437",)


def digits(root: Path, *, examples: Count | None = None) -> dict[str, np.ndarray]:
    """A fixed stratified split with 80 % for training, standardized with mean and deviation of the training set.

    examples: number of training examples, of 1,437; fewer make the task harder. Images are float32 (n, 1, 8, 8).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    x_train, y_train = x_train[:examples], y_train[:examples]
    mean, deviation = x_train.mean(), x_train.std()

    def images(x: np.ndarray) -> np.ndarray:
        return np.asarray((x - mean) / deviation, dtype=np.float32).reshape(-1, *SHAPE)

    return {
        "x_train": images(x_train),
        "y_train": y_train.astype(np.int64),
        "x_test": images(x_test),
        "y_test": y_test.astype(np.int64),
    }
