"""The 1,797 scanned 8×8 digits that scikit-learn ships (Alpaydin & Kaynak 1998, UCI)."""

from pathlib import Path

import numpy as np

from sparsity_cliff.study.registry import Count

KIND = "image"
SHAPE = (1, 8, 8)
EXAMPLES = ("1797 - held_out if examples is None else examples", "held_out")
REQUIRES = ("10 <= held_out <= 1787", "examples is None or examples <= 1797 - held_out")  # 10 classes in both parts


def digits(root: Path, *, examples: Count | None = None, held_out: Count = 360) -> dict[str, np.ndarray]:
    """A fixed stratified split, standardized with mean and deviation of the training set.

    held_out: number of digits that are not for training, by default 20 %. examples: number of training examples, None
    for all others; fewer make the task harder. Images are float32 (n, 1, 8, 8).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=held_out, random_state=0, stratify=y)
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
