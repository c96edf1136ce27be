"""From the collected tables to the tables that the figures show. Pure: frames in, frames out.

A mean over seeds comes with its two-sided t interval at `level` (missing for one seed) and with n. Seeds that
diverged are in no mean.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from sparsity_cliff.traces import HISTOGRAM_EDGES

CELL = ["architecture", "activation", "normalization", "loss", "data"]


def finished(facts: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The facts of the seeds that finished."""
    names = {str(name): facts[name].astype(object) for name in facts.select_dtypes("category").columns}
    good = runs.loc[runs["status"] == "finished", ["run", "seed"]]
    return facts.assign(**names).merge(good, on=["run", "seed"])


def over_seeds(frame: pd.DataFrame, by: Sequence[str], level: float) -> pd.DataFrame:
    """Mean, low, high and n of the column `value` within each group."""
    groups = frame.groupby(list(by), sort=False, dropna=False)["value"]
    table = groups.agg(mean="mean", deviation="std", n="count").reset_index()
    freedom = (table["n"] - 1).clip(lower=1)
    half = stats.t.ppf(0.5 + level / 2, freedom) * table["deviation"] / np.sqrt(table["n"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half, level=level).drop(columns="deviation")


def last_step(facts: pd.DataFrame) -> pd.DataFrame:
    """The facts of each run's last measured step."""
    return facts[facts["step"] == facts.groupby("run")["step"].transform("max")]


# ------------------------------------------------------------------------------------------------- accuracy


def points(facts: pd.DataFrame, runs: pd.DataFrame, loss: str, exclude: Sequence[str]) -> pd.DataFrame:
    """One row per finished seed on real data with this loss: measured sparsity and accuracy at the last step.

    configuration: the activation, with the normalization where that is not the architecture's own. fitted: whether the
    point belongs to the curve, that is, its activation is not in `exclude`. Columns also: near_zero_share,
    target_sparsity (the nominal setting of a control), run.
    """
    whole = last_step(finished(facts, runs))
    whole = whole[whole["layer"].isna() & (whole["split"] == "test")]
    chosen = (whole["data"] == "real") & (whole["loss"] == loss)
    wide = whole[chosen].pivot_table(
        index=["run", "seed", "architecture", "activation", "normalization"], columns="metric", values="value"
    )
    wide = wide.reindex(columns=["activation_sparsity", "accuracy", "near_zero_share"])  # also where no seed finished
    table = wide.reset_index().rename(columns={"activation_sparsity": "sparsity"})
    own = table["normalization"] == "default"
    configuration = table["activation"].where(own, table["activation"] + " · " + table["normalization"])
    # the order of the study, not of the alphabet
    table = runs[["run", "seed", "target_sparsity"]].merge(
        table.assign(configuration=configuration), on=["run", "seed"]
    )
    table["fitted"] = ~table["activation"].isin(list(exclude))
    columns = ["sparsity", "accuracy", "near_zero_share", "target_sparsity", "fitted", "run"]
    return table[["architecture", "configuration", "seed", *columns]]


# ------------------------------------------------------------------------------------------------- drift


def run_drift(facts: pd.DataFrame) -> pd.DataFrame:
    """Drift z of each run, seed and step: the mean over the hidden weight matrices that an activation feeds.

    The head is left out: under cross-entropy and plain gradient descent its mean is conserved exactly.
    """
    fed = facts.loc[facts["metric"] == "fed_by_activation", ["run", "layer"]].drop_duplicates()
    fed = fed[fed["layer"] != "head.weight"]
    drift = facts[facts["metric"] == "drift_z"].merge(fed, on=["run", "layer"])
    return drift.groupby([*CELL, "run", "seed", "step"], sort=False)["value"].mean().reset_index()


def drift(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Drift z over steps: mean and interval over seeds, per cell and step."""
    return over_seeds(run_drift(finished(facts, runs)), [*CELL, "step"], level)


def drift_contrasts(facts: pd.DataFrame, runs: pd.DataFrame, controls: Sequence[str], level: float) -> pd.DataFrame:
    """Drift z at the last step, per cell, and its difference from each control, paired by seed.

    against: "nothing" (the drift itself), a control activation with the same data (odd or linear functions do not
    drift: claim C4), or "random data" (the same activation on Gaussian inputs and random labels: claim C3).
    p: two-sided one-sample t test of the paired differences against 0; missing for one seed or equal differences.
    """
    final = last_step(run_drift(finished(facts, runs)))
    keys = ["architecture", "normalization", "loss", "seed"]
    pieces = [final.assign(against="nothing")]
    for control in controls:
        other = final[final["activation"] == control][[*keys, "data", "value"]]
        rest = final[final["activation"] != control]
        paired = rest.merge(other, on=[*keys, "data"], suffixes=("", "_control"))
        pieces.append(paired.assign(value=paired["value"] - paired["value_control"], against=control))
    random = final[final["data"] == "random"][[*keys, "activation", "value"]]
    paired = final[final["data"] == "real"].merge(random, on=[*keys, "activation"], suffixes=("", "_control"))
    pieces.append(paired.assign(value=paired["value"] - paired["value_control"], against="random data"))
    every = pd.concat(pieces)
    table = over_seeds(every, [*CELL, "against"], level)
    return table.assign(p=_p_values(every, table))


def _p_values(every: pd.DataFrame, table: pd.DataFrame) -> list[float]:
    def p(values: pd.Series) -> float:
        usable = len(values) > 1 and values.std() > 0
        return float(stats.ttest_1samp(values, 0).pvalue) if usable else float("nan")

    by_cell = every.groupby([*CELL, "against"], sort=False)["value"].apply(p)
    return [float(by_cell.loc[tuple(row)]) for row in table[[*CELL, "against"]].itertuples(index=False)]


# ------------------------------------------------------------------------------------------------- sparsity


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


# ------------------------------------------------------------------------------------------------- weights


def histograms(facts: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Weight densities at the first and the last step, per unit of the initial standard deviation.

    Mean over seeds and over the hidden matrices that an activation feeds. left, right: bin edges; the two open bins
    are not in the table. moment: "start" or "end".
    """
    good = finished(facts, runs)
    fed = good.loc[good["metric"] == "fed_by_activation", ["run", "layer"]].drop_duplicates()
    rows = good[good["metric"].str.startswith("weight_histogram.")].merge(fed[fed["layer"] != "head.weight"])
    table = rows.groupby([*CELL, "metric", "step"], sort=False).agg(share=("value", "mean"), n=("seed", "nunique"))
    table = table.reset_index()
    number = table["metric"].str.rsplit(".").str[-1].astype(int)
    table = table.assign(number=number)[(number > 0) & (number < len(HISTOGRAM_EDGES))]
    edges = np.array(HISTOGRAM_EDGES)
    left, right = edges[table["number"] - 1], edges[table["number"]]
    moment = np.where(table["step"] == 0, "start", "end")
    table = table.assign(left=left, right=right, moment=moment, density=table["share"] / (right - left))
    return table[[*CELL, "moment", "left", "right", "density", "n"]].reset_index(drop=True)
