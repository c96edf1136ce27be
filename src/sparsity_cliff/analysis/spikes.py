"""The size and the position of the largest activations."""

import numpy as np
import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, last_step, named, over_seeds

#: Share under uniform placement -> measured share of the spikes.
PLACES = {"first_token_share": "spike_first_token_share", "delimiter_share": "spike_delimiter_share"}
METRICS = ("loss", "spike", "spike_ratio", *PLACES, *PLACES.values())


def spikes(facts: pd.DataFrame, runs: pd.DataFrame, reference: str | None, level: float) -> pd.DataFrame:
    """Means of spikes over seeds, per cell, site, and step. Rows of the whole model have no layer and depth.

    The spike of a whole model is the largest of its sites. Its spike_ratio is the geometric mean over intermediate
    sites: all but the first and the last, or all if there are fewer than three.

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
    ratios = pd.concat([spike, good[good["metric"] == "spike_ratio"], amplified, _intermediate(good)])
    by = [*CELL, "metric", "layer", "depth", "step"]
    geometric = _geometric(ratios, by, level)

    places = over_seeds(good[good["metric"].isin(PLACES.values())], by, level)
    uniform = named(good[good["metric"].isin(PLACES)]).assign(metric=lambda rows: rows["metric"].map(PLACES))
    uniform = uniform.groupby([*CELL, "metric", "step"], sort=False)["value"].mean().rename("expected").reset_index()
    placed = places.merge(uniform, how="left", on=[*CELL, "metric", "step"])
    table = geometric.assign(expected=np.nan)
    return pd.concat([table, placed], ignore_index=True) if len(placed) else table


def loss_and_spikes(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Held-out loss and spike ratio of intermediate sites (see `spikes`) at the last step, per cell on real data.

    The loss is the arithmetic mean over seeds, with loss_low and loss_high, in the unit of the loss function, which
    `loss` names. spike_ratio is the geometric mean, with ratio_low and ratio_high. seeds, losses, ratios: the same of
    each seed, as lists. n: seeds that have both.
    """
    good = named(last_step(finished(facts, runs)))
    good = good[(good["split"] == "test") & (good["data"] == "real")]
    keys = [*CELL, "run", "seed"]
    losses = good.loc[(good["metric"] == "loss") & good["layer"].isna(), [*keys, "value"]]
    ratios = _intermediate(good)[[*keys, "value"]]
    both = losses.merge(ratios[ratios["value"] > 0], on=keys, suffixes=("", "_ratio"))
    table = over_seeds(both, CELL, level).rename(
        columns={"mean": "held_out_loss", "low": "loss_low", "high": "loss_high", "values": "losses"}
    )
    names = {"mean": "spike_ratio", "low": "ratio_low", "high": "ratio_high", "values": "ratios"}
    other = _geometric(both.assign(value=both["value_ratio"]), CELL, level).rename(columns=names)
    return table.merge(other[[*CELL, *names.values()]], on=CELL)


def _intermediate(facts: pd.DataFrame) -> pd.DataFrame:
    """The spike ratio of whole models: geometric means over intermediate sites. Sites without a spike do not count."""
    rows = facts[facts["metric"] == "spike_ratio"]
    depths = rows.groupby("run")["depth"]
    first, last = depths.transform("min"), depths.transform("max")
    rows = rows[((rows["depth"] > first) & (rows["depth"] < last)) | (last - first < 2)]
    rows = rows[rows["value"] > 0]
    keys = [*CELL, "run", "seed", "step", "split"]
    logs = rows.assign(value=np.log(rows["value"])).groupby(keys, sort=False, observed=True)["value"]
    means = logs.mean().reset_index()
    return means.assign(value=np.exp(means["value"]), metric="spike_ratio", layer=None, depth=np.nan)


def _geometric(frame: pd.DataFrame, by: list[str], level: float) -> pd.DataFrame:
    """The table of `over_seeds` for positive values, with geometric means."""
    frame = frame[frame["value"] > 0]
    table = over_seeds(frame.assign(value=np.log(frame["value"])), by, level)
    numbers = ["mean", "low", "high"]
    table[numbers] = np.exp(table[numbers])
    return table.assign(values=[np.exp(values).tolist() for values in table["values"]])
