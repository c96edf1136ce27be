"""Means over seeds, and the rows that they include.

A mean has a two-sided t interval at `level` (missing for one seed) and the number of seeds, n. Seeds that did not
finish are excluded.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

CELL = ["architecture", "activation", "normalization", "loss", "data"]
MARKS = ("fed_by_activation", "head_weight")  # metrics that mark weight matrices


def finished(facts: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The facts of the seeds that finished. Names stay categories, because the rows can be millions."""
    run = facts["run"].astype("category").cat
    good = runs[runs["status"] == "finished"]
    known = _keys(run.categories.get_indexer(pd.Index(good["run"])), good["seed"])
    return facts[_keys(run.codes, facts["seed"]).isin(known).to_numpy()].reset_index(drop=True)


def _keys(runs: ArrayLike, seeds: pd.Series) -> pd.Series:
    """A number for each pair of a run's code and a seed, which is below 2³¹."""
    return pd.Series(np.asarray(runs, np.int64) * 2**31 + np.asarray(seeds, np.int64))


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its names as text instead of categories."""
    categories = frame.select_dtypes("category")
    return frame.astype({name: categories[name].cat.categories.dtype for name in categories})


def over_seeds(frame: pd.DataFrame, by: Sequence[str], level: float) -> pd.DataFrame:
    """Mean, low, high, and n of the column `value` within each group, with its `seeds` and their `values` as lists."""
    groups = frame.groupby(list(by), sort=False, dropna=False, observed=True)
    lists = {"values": ("value", list), "seeds": ("seed", list)}
    numbers = groups.agg(mean=("value", "mean"), deviation=("value", "std"), n=("value", "count"), **lists)
    table = named(numbers.reset_index())
    freedom = (table["n"] - 1).clip(lower=1)
    half = stats.t.ppf(0.5 + level / 2, freedom) * table["deviation"] / np.sqrt(table["n"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half, level=level).drop(columns="deviation")


def tested(frame: pd.DataFrame, by: Sequence[str], level: float) -> pd.DataFrame:
    """The table of `over_seeds` with t and p of the two-sided one-sample t test of the mean against 0.

    Both are missing for one seed, or if all values are equal.
    """
    table = over_seeds(frame, by, level)
    errors = frame.groupby(list(by), sort=False, dropna=False, observed=True)["value"].sem().to_numpy()
    table["t"] = table["mean"] / np.where(errors > 0, errors, np.nan)
    return table.assign(p=2 * stats.t.sf(table["t"].abs(), (table["n"] - 1).clip(lower=1)))


def last_step(facts: pd.DataFrame) -> pd.DataFrame:
    """The facts of each run's last measured step."""
    return facts[facts["step"] == facts.groupby("run", observed=True)["step"].transform("max")]


def hidden(facts: pd.DataFrame) -> pd.DataFrame:
    """(run, layer) of the weight matrices that an activation feeds, without the head.

    The head is excluded, because its mean is conserved exactly under cross-entropy and plain gradient descent.
    """
    fed, head = (facts.loc[facts["metric"] == metric, ["run", "layer"]].drop_duplicates() for metric in MARKS)
    marked = fed.merge(head, on=["run", "layer"], how="left", indicator=True)
    return marked.loc[marked["_merge"] == "left_only", ["run", "layer"]]
