"""Means over seeds, and the rows that they include.

A mean has a two-sided t interval at `level` (missing for one seed) and the number of seeds, n. Seeds that did not
finish are excluded.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

CELL = ["architecture", "activation", "normalization", "loss", "data"]


def finished(facts: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The facts of the seeds that finished."""
    names = {str(name): facts[name].astype(object) for name in facts.select_dtypes("category").columns}
    good = runs.loc[runs["status"] == "finished", ["run", "seed"]]
    return facts.assign(**names).merge(good, on=["run", "seed"])


def over_seeds(frame: pd.DataFrame, by: Sequence[str], level: float) -> pd.DataFrame:
    """Mean, low, high, and n of the column `value` within each group, with its `seeds` and their `values` as lists."""
    groups = frame.groupby(list(by), sort=False, dropna=False)
    lists = {"values": ("value", list), "seeds": ("seed", list)}
    table = groups.agg(mean=("value", "mean"), deviation=("value", "std"), n=("value", "count"), **lists).reset_index()
    freedom = (table["n"] - 1).clip(lower=1)
    half = stats.t.ppf(0.5 + level / 2, freedom) * table["deviation"] / np.sqrt(table["n"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half, level=level).drop(columns="deviation")


def tested(frame: pd.DataFrame, by: Sequence[str], level: float) -> pd.DataFrame:
    """The table of `over_seeds` with t and p of the two-sided one-sample t test of the mean against 0.

    Both are missing for one seed, or if all values are equal.
    """
    table = over_seeds(frame, by, level)
    errors = frame.groupby(list(by), sort=False, dropna=False)["value"].sem().to_numpy()
    table["t"] = table["mean"] / np.where(errors > 0, errors, np.nan)
    return table.assign(p=2 * stats.t.sf(table["t"].abs(), (table["n"] - 1).clip(lower=1)))


def last_step(facts: pd.DataFrame) -> pd.DataFrame:
    """The facts of each run's last measured step."""
    return facts[facts["step"] == facts.groupby("run")["step"].transform("max")]


def hidden(facts: pd.DataFrame) -> pd.DataFrame:
    """(run, layer) of the weight matrices that an activation feeds, without the head.

    The head is excluded, because its mean is conserved exactly under cross-entropy and plain gradient descent.
    """
    fed, head = (
        facts.loc[facts["metric"] == metric, ["run", "layer"]].drop_duplicates()
        for metric in ("fed_by_activation", "head_weight")
    )
    marked = fed.merge(head, on=["run", "layer"], how="left", indicator=True)
    return marked.loc[marked["_merge"] == "left_only", ["run", "layer"]]
