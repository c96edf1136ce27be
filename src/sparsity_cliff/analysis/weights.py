"""Distributions of weights at the start and at the end of training."""

import numpy as np
import pandas as pd

from sparsity_cliff.analysis.means import CELL, MARKS, finished, hidden, named
from sparsity_cliff.traces.metrics import HISTOGRAM_EDGES

METRICS = ("weight_histogram.*", *MARKS)


def histograms(facts: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Weight densities at the first and the last step, per unit of the initial standard deviation.

    They are means over seeds and over the hidden matrices that an activation feeds. moment: "start" or "end". left,
    right: edges of a bin. change: density minus that at the start of the same cell, 0 at the start. outside: share of
    the weights in the two open bins, which have no density.
    """
    good = finished(facts, runs)
    rows = good[good["metric"].str.startswith("weight_histogram.")].merge(hidden(good))
    groups = rows.groupby([*CELL, "metric", "step"], sort=False, observed=True)
    table = named(groups.agg(share=("value", "mean"), n=("seed", "nunique")).reset_index())
    number = table["metric"].str.rsplit(".").str[-1].astype(int)
    inside = (number > 0) & (number < len(HISTOGRAM_EDGES))
    outside = table["share"].mask(inside, 0).groupby([table[name] for name in (*CELL, "step")]).transform("sum")
    table = table.assign(number=number, outside=outside)[inside]
    edges = np.array(HISTOGRAM_EDGES)
    left, right = edges[table["number"] - 1], edges[table["number"]]
    moment = np.where(table["step"] == 0, "start", "end")
    table = table.assign(left=left, right=right, moment=moment, density=table["share"] / (right - left))
    keys = [*CELL, "left"]
    start = table.loc[table["moment"] == "start", [*keys, "density"]]
    table = table.merge(start, how="left", on=keys, suffixes=("", "_start"))
    table = table.assign(change=table["density"] - table["density_start"])
    return table[[*CELL, "moment", "left", "right", "density", "change", "outside", "n"]]
