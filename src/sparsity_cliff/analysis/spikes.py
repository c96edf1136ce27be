"""The size and the position of the largest activations."""

import numpy as np
import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, named, over_seeds

#: Share under uniform placement -> measured share of the spikes.
PLACES = {"first_token_share": "spike_first_token_share", "delimiter_share": "spike_delimiter_share"}
METRICS = ("spike", "spike_ratio", *PLACES, *PLACES.values())


def spikes(facts: pd.DataFrame, runs: pd.DataFrame, reference: str | None, level: float) -> pd.DataFrame:
    """Means of spikes over seeds, per cell, site, and step. Rows of the whole model have no layer and depth.

    metric: spike; spike_ratio; amplification, the spike divided by that of the activation `reference` (ReLU) with the
    same architecture, normalization, loss, data, site, step, and seed; and for token data, spike_first_token_share and
    spike_delimiter_share, with the share under uniform placement as `expected`. Means of the first three are geometric,
    with the t interval of the logarithms, because ratios multiply. Means of shares are arithmetic. n counts the seeds
    with a spike; a site whose activations are all 0 has none.
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

    places = over_seeds(good[good["metric"].isin(PLACES.values())], by, level)
    uniform = named(good[good["metric"].isin(PLACES)]).assign(metric=lambda rows: rows["metric"].map(PLACES))
    uniform = uniform.groupby([*CELL, "metric", "step"], sort=False)["value"].mean().rename("expected").reset_index()
    placed = places.merge(uniform, how="left", on=[*CELL, "metric", "step"])
    table = geometric.assign(expected=np.nan)
    return pd.concat([table, placed], ignore_index=True) if len(placed) else table
