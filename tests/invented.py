"""Invented curves of score against sparsity, for the tests of the analysis."""

import numpy as np
import pandas as pd

from sparsity_cliff.analysis.curves import Level

X = np.linspace(0.6, 0.98, 11)


def scores(mean: float, seeds: int, sd: float, *key: object) -> np.ndarray:
    """Scores with exactly this mean and standard deviation."""
    drawn = np.random.default_rng(list(repr(key).encode())).normal(size=seeds)
    exact: np.ndarray = mean + sd * (drawn - drawn.mean()) / drawn.std(ddof=1)
    return exact


def curve(means: np.ndarray, sd: float = 0.005, seeds: int = 4) -> list[Level]:
    return [Level(float(x), scores(mean, seeds, sd, i)) for i, (x, mean) in enumerate(zip(X, means, strict=True))]


def reference(sd: float = 0.005, seeds: int = 9, mean: float = 0.7, sparsity: float = 0.5) -> Level:
    return Level(sparsity, scores(mean, seeds, sd, "reference"))


def points(**changes: object) -> pd.DataFrame:
    rows = []
    for architecture in ("mlp", "vit"):
        for name, way, x, mean in (
            ("relu", None, 0.5, 0.7),
            ("gelu", None, 0.0, 0.72),
            ("topk_80", "topk", 0.8, 0.69),
            ("topk_90", "topk", 0.9, 0.5),
            ("q_90", "quantile", 0.9, 0.7),
        ):
            for seed, score in enumerate(scores(mean, 5, 0.002, architecture, name)):
                rows.append((architecture, name, way, seed, x + 0.001 * (seed - 2), score))
    columns = ["architecture", "configuration", "mechanism", "seed", "sparsity", "score"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(run=frame["architecture"] + "." + frame["configuration"], metric="accuracy", **changes)
