"""Drift of the hidden weights, and its differences from the controls."""

from collections.abc import Sequence

import pandas as pd

from sparsity_cliff.analysis.means import CELL, finished, hidden, last_step, over_seeds, tested


def run_drift(facts: pd.DataFrame) -> pd.DataFrame:
    """Drift z of each run, seed, and step, as the mean over the hidden weight matrices that an activation feeds."""
    drift = facts[facts["metric"] == "drift_z"].merge(hidden(facts), on=["run", "layer"])
    return drift.groupby([*CELL, "run", "seed", "step"], sort=False)["value"].mean().reset_index()


def drift(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Mean and interval of drift z over seeds, per cell and step."""
    return over_seeds(run_drift(finished(facts, runs)), [*CELL, "step"], level)


def drift_contrasts(facts: pd.DataFrame, runs: pd.DataFrame, controls: Sequence[str], level: float) -> pd.DataFrame:
    """Drift z at the last step, per cell, and its differences from the controls, paired by seed.

    against: "nothing" (the drift itself), a control activation with the same data (claim C4: odd or linear functions do
    not drift), or "random data" (claim C3: the same activation on Gaussian inputs with random labels). p: two-sided
    one-sample t test of the paired differences against 0; missing for one seed or equal differences.
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
