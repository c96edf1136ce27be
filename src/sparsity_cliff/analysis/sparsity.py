"""Activation sparsity over steps and by depth."""

import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, last_step, over_seeds

#: An activation whose share of zeros is always below this has hardly any exact zeros (such as GELU).
DENSE = 0.001
METRICS = ("activation_sparsity", "near_zero_share")


def sparsity_over_steps(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Activation sparsity and near-zero share of the whole model over steps: mean and interval over seeds.

    dense: whether the activation, with its normalization, has a mean sparsity below DENSE in every row of the table.
    """
    whole = finished(facts, runs)
    whole = whole[whole["layer"].isna() & whole["metric"].isin(METRICS)]
    return _with_dense(over_seeds(whole, [*CELL, "metric", "step"], level))


def sparsity_by_depth(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Activation sparsity and near-zero share of each site at the last step: mean and interval over seeds.

    depth counts sites from the input. dense: as for `sparsity_over_steps`.
    """
    sites = last_step(finished(facts, runs))
    sites = sites[sites["layer"].notna() & sites["metric"].isin(METRICS)]
    return _with_dense(over_seeds(sites, [*CELL, "metric", "layer", "depth"], level))


def _with_dense(table: pd.DataFrame) -> pd.DataFrame:
    zeros = table["mean"].where(table["metric"] == "activation_sparsity")
    highest = zeros.groupby([table["activation"], table["normalization"]]).transform("max")
    return table.assign(dense=highest < DENSE)
