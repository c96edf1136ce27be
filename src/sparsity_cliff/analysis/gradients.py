"""The sign of gradients at initialization."""

import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, tested

METRICS = ("gradient_*",)


def gradient_signs(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Means of ∂L/∂z at initialization over z > 0, z <= 0, and all z, first over sites, then over seeds, per cell.

    metric: gradient_positive, gradient_nonpositive, or gradient_all, which distinguishes odd and linear activations
    from others (claims C1 and C4). t: mean ÷ standard error. p: two-sided t test against 0. Both are missing for one
    seed, or if all seeds have the same value, such as 0.
    """
    good = finished(facts, runs)
    signs = good[(good["step"] == 0) & good["metric"].str.startswith("gradient_")]
    by_seed = signs.groupby([*CELL, "metric", "seed"], sort=False, observed=True)["value"].mean().reset_index()
    return tested(by_seed, [*CELL, "metric"], level)
