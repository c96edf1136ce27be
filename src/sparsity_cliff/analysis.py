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
#: What a run is judged by: the first of these test metrics that its architecture's runs have. Share of right answers
#: (of right next tokens), PESQ (1 to 4.5) and STOI (0 to 1) of enhanced speech.
SCORES = ["accuracy", "pesq", "stoi"]


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


def tested(frame: pd.DataFrame, by: Sequence[str], level: float) -> pd.DataFrame:
    """As `over_seeds`, and t and p: the two-sided one-sample t test of the mean against 0.

    Both are missing for one seed, or where all values are equal.
    """
    table = over_seeds(frame, by, level)
    errors = frame.groupby(list(by), sort=False, dropna=False)["value"].sem().to_numpy()
    table["t"] = table["mean"] / np.where(errors > 0, errors, np.nan)
    return table.assign(p=2 * stats.t.sf(table["t"].abs(), (table["n"] - 1).clip(lower=1)))


def last_step(facts: pd.DataFrame) -> pd.DataFrame:
    """The facts of each run's last measured step."""
    return facts[facts["step"] == facts.groupby("run")["step"].transform("max")]


# ------------------------------------------------------------------------------------------------- scores


def points(facts: pd.DataFrame, runs: pd.DataFrame, losses: Sequence[str], exclude: Sequence[str]) -> pd.DataFrame:
    """One row per finished seed on real data: measured sparsity and score at the last step.

    losses: of each architecture's runs, those with the first of these losses that it has any with. metric: which of
    SCORES the score is, one for all points of an architecture. configuration: the activation, with the normalization
    where that is not the architecture's own. fitted: whether the point belongs to the curve, that is, its activation is
    not in `exclude`. Columns also: loss, near_zero_share, target_sparsity (the nominal setting of a control), run.
    """
    whole = last_step(finished(facts, runs))
    whole = whole[whole["layer"].isna() & (whole["split"] == "test") & (whole["data"] == "real")]
    real = set(runs.loc[runs["data"] == "real", ["architecture", "loss"]].itertuples(index=False, name=None))
    judged = {architecture: loss for loss in reversed(losses) for architecture, other in real if loss == other}
    wide = whole[whole["loss"] == whole["architecture"].map(judged)].pivot_table(
        index=["run", "seed", "architecture", "activation", "normalization", "loss"], columns="metric", values="value"
    )
    wide = wide.reindex(columns=["activation_sparsity", "near_zero_share", *SCORES])  # also where no seed finished
    table = wide.reset_index().rename(columns={"activation_sparsity": "sparsity"})
    table = table[table[list(SCORES)].notna().any(axis=1)].reset_index(drop=True)  # silence has no score
    table["metric"] = [""] * len(table)
    table["score"] = np.nan
    for _, part in table.groupby("architecture"):
        metric = next((name for name in SCORES if part[name].notna().all()), SCORES[0])
        table.loc[part.index, "metric"], table.loc[part.index, "score"] = metric, part[metric]
    own = table["normalization"] == "default"
    configuration = table["activation"].where(own, table["activation"] + " · " + table["normalization"])
    # the order of the study, not of the alphabet
    table = runs[["run", "seed", "target_sparsity"]].merge(
        table.assign(configuration=configuration), on=["run", "seed"]
    )
    table["fitted"] = ~table["activation"].isin(list(exclude))
    columns = ["sparsity", "score", "metric", "near_zero_share", "target_sparsity", "fitted", "loss", "run"]
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
    return tested(pd.concat(pieces), [*CELL, "against"], level)


# ------------------------------------------------------------------------------------------------- gradients


def gradient_signs(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """∂L/∂z at initialization over z > 0, z <= 0 and all z: mean over sites per seed, then over seeds, per cell.

    metric: gradient_positive, gradient_nonpositive or gradient_all; the last is what tells odd and linear activations
    from others (claims C1 and C4). t: mean ÷ standard error; p: two-sided t test against 0. Both are missing for one
    seed, or where all seeds have the same value, such as 0.
    """
    good = finished(facts, runs)
    signs = good[(good["step"] == 0) & good["metric"].str.startswith("gradient_")]
    by_seed = signs.groupby([*CELL, "metric", "seed"], sort=False)["value"].mean().reset_index()
    return tested(by_seed, [*CELL, "metric"], level)


# ------------------------------------------------------------------------------------------------- spikes


def spikes(facts: pd.DataFrame, runs: pd.DataFrame, reference: str | None, level: float) -> pd.DataFrame:
    """Spikes of each site (and of the whole model: layer and depth missing) at each step, over seeds, per cell.

    metric: spike; spike_ratio; amplification, which is the spike over that of the activation `reference` (ReLU) with
    the same architecture, normalization, loss, data, site, step and seed; and, for token data, spike_first_token_share
    and spike_delimiter_share, with what uniform placement gives as `expected`. Means of the first three are geometric,
    with the t interval of the logarithms, since ratios multiply; those of shares are arithmetic. n counts the seeds
    that have a spike: a site whose every activation is 0 has none.
    """
    good = finished(facts, runs)
    good = good[good["split"] == "test"]
    keys = ["architecture", "normalization", "loss", "data", "layer", "step", "seed"]
    spike = good[good["metric"] == "spike"]
    paired = spike.merge(spike.loc[spike["activation"] == reference, [*keys, "value"]], on=keys, suffixes=("", "_relu"))
    paired = paired[(paired["activation"] != reference) & (paired["value_relu"] > 0)]
    amplified = paired.assign(value=paired["value"] / paired["value_relu"], metric="amplification")
    ratios = pd.concat([spike, good[good["metric"] == "spike_ratio"], amplified])
    ratios = ratios[ratios["value"] > 0]
    by = [*CELL, "metric", "layer", "depth", "step"]
    geometric = over_seeds(ratios.assign(value=np.log(ratios["value"])), by, level)
    geometric[["mean", "low", "high"]] = np.exp(geometric[["mean", "low", "high"]])

    names = {"first_token_share": "spike_first_token_share", "delimiter_share": "spike_delimiter_share"}
    places = over_seeds(good[good["metric"].isin(names.values())], by, level)
    uniform = good[good["metric"].isin(names)].assign(metric=lambda rows: rows["metric"].map(names))
    uniform = uniform.groupby([*CELL, "metric", "step"], sort=False)["value"].mean().rename("expected").reset_index()
    placed = places.merge(uniform, how="left", on=[*CELL, "metric", "step"])
    table = geometric.assign(expected=np.nan)
    return pd.concat([table, placed], ignore_index=True) if len(placed) else table


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
    have no density: outside is the share of the weights that lies in them. moment: "start" or "end".
    """
    good = finished(facts, runs)
    fed = good.loc[good["metric"] == "fed_by_activation", ["run", "layer"]].drop_duplicates()
    rows = good[good["metric"].str.startswith("weight_histogram.")].merge(fed[fed["layer"] != "head.weight"])
    table = rows.groupby([*CELL, "metric", "step"], sort=False).agg(share=("value", "mean"), n=("seed", "nunique"))
    table = table.reset_index()
    number = table["metric"].str.rsplit(".").str[-1].astype(int)
    inside = (number > 0) & (number < len(HISTOGRAM_EDGES))
    outside = table["share"].mask(inside, 0).groupby([table[name] for name in (*CELL, "step")]).transform("sum")
    table = table.assign(number=number, outside=outside)[inside]
    edges = np.array(HISTOGRAM_EDGES)
    left, right = edges[table["number"] - 1], edges[table["number"]]
    moment = np.where(table["step"] == 0, "start", "end")
    table = table.assign(left=left, right=right, moment=moment, density=table["share"] / (right - left))
    return table[[*CELL, "moment", "left", "right", "density", "outside", "n"]].reset_index(drop=True)
