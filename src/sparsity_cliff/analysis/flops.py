"""What zeros could save: the share of FLOPs that would remain, beside the score that they cost."""

import pandas as pd

from sparsity_cliff.analysis.means import last_step

METRICS = ("potential_flops", "dense_flops")


def flops(facts: pd.DataFrame, points: pd.DataFrame, levels: pd.DataFrame, level: float) -> pd.DataFrame:
    """The rows of `levels` (analysis/curves.py) with `flops`: potential FLOPs ÷ dense FLOPs of the whole model.

    It is the mean over seeds at the last step, from 0 (only zeros) to 1. It is about the layers that an activation site
    feeds directly, not about the rest of the network. level: of the intervals in `levels`, which is repeated in each
    row. Rows without a known share are left out: no activations were measured, or no site feeds a layer.
    """
    whole = last_step(facts)
    whole = whole[whole["layer"].isna() & whole["metric"].isin(METRICS)]
    wide = whole.pivot_table(index=["run", "seed"], columns="metric", values="value", observed=True)
    wide = wide.reindex(columns=list(METRICS))
    share = (wide["potential_flops"] / wide["dense_flops"].where(wide["dense_flops"] > 0)).rename("flops").reset_index()
    keys = ["architecture", "configuration"]
    known = points[["run", "seed", *keys]].merge(share, on=["run", "seed"])
    means = known.groupby(keys, sort=False)["flops"].mean().dropna().reset_index()
    return levels.assign(level=level).merge(means, on=keys)
