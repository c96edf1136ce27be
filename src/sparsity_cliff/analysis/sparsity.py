"""Activation sparsity over steps and by depth."""

import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, last_step, over_seeds


def sparsity_over_steps(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Network-level activation sparsity and near-zero share over steps: mean and interval over seeds."""
    whole = finished(facts, runs)
    whole = whole[whole["layer"].isna() & whole["metric"].isin(["activation_sparsity", "near_zero_share"])]
    return over_seeds(whole, [*CELL, "metric", "step"], level)


def sparsity_by_depth(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Activation sparsity of each site at the last step: mean and interval over seeds. depth counts from the input."""
    sites = last_step(finished(facts, runs))
    sites = sites[sites["layer"].notna() & sites["metric"].isin(["activation_sparsity", "near_zero_share"])]
    return over_seeds(sites, [*CELL, "metric", "layer", "depth"], level)
