"""Activation sparsity over steps and by depth."""

import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, last_step, over_seeds

DENSE = 0.001  # share of zeros below which an activation has hardly any (such as GELU)
METRICS = ("activation_sparsity", "near_zero_share")


def sparsity_over_steps(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Activation sparsity and near-zero share of the whole model over steps: mean and interval over seeds.

    Three columns are about the activation with its normalization. dense: whether its mean sparsity is below DENSE in
    every row of the table. soft: the same at step 0, so that it depends on the function and hardly on the training:
    GELU stays soft if some of its values underflow to 0 later. control: whether it sets its sparsity by itself.
    """
    whole = finished(facts, runs)
    whole = whole[whole["layer"].isna() & whole["metric"].isin(METRICS)]
    table = over_seeds(whole, [*CELL, "metric", "step"], level)
    return _described(table, runs).assign(soft=_highest_share(table, table["step"] == 0) < DENSE)


def sparsity_by_depth(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Activation sparsity and near-zero share of each site at the last step: mean and interval over seeds.

    depth counts sites from the input. dense, control: as for `sparsity_over_steps`.
    """
    sites = last_step(finished(facts, runs))
    sites = sites[sites["layer"].notna() & sites["metric"].isin(METRICS)]
    return _described(over_seeds(sites, [*CELL, "metric", "layer", "depth"], level), runs)


def _described(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns dense and control."""
    names = ["activation", "normalization"]
    controls = set(runs.loc[runs["mechanism"].notna(), names].itertuples(index=False, name=None))
    control = [pair in controls for pair in zip(table[names[0]], table[names[1]], strict=True)]
    return table.assign(dense=_highest_share(table) < DENSE, control=control)


def _highest_share(table: pd.DataFrame, where: "pd.Series[bool] | bool" = True) -> "pd.Series[float]":
    """The highest mean sparsity of each row's activation, over the rows `where`."""
    zeros = table["mean"].where((table["metric"] == "activation_sparsity") & where)
    return zeros.groupby([table["activation"], table["normalization"]]).transform("max")
