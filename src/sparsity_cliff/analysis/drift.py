"""Drift of weights and of pre-activations, and its differences from the controls.

Drift d is the shift of a mean since initialization, in units of the initial standard deviation: d = (mean_t - mean_0) /
std_0. Unlike drift z, it does not grow with the number of weights, so that it compares across sizes. Pre-activations
are shown beside weights, because they become the zeros: behind a norm or on a residual stream, they can shift while the
mean of no matrix does.
"""

import itertools
from collections.abc import Sequence

import pandas as pd

from sparsity_cliff.analysis.means import CELL, MARKS, finished, hidden, last_step, over_seeds, tested

#: Quantity -> metrics of its mean and standard deviation.
QUANTITIES = {
    "weights": ("weight_mean", "weight_std"),
    "pre-activations": ("preactivation_mean", "preactivation_std"),
}
METRICS = (*itertools.chain.from_iterable(QUANTITIES.values()), *MARKS)  # that this module reads


def run_drift(facts: pd.DataFrame) -> pd.DataFrame:
    """Drift d of each run, seed, step, and quantity.

    For weights, it is the mean over the hidden matrices that an activation feeds. For pre-activations, it is the mean
    over activation sites. Those with an initial standard deviation of 0 do not count.
    """
    keys, pieces = ["run", "seed", "layer"], []
    for quantity, (mean, std) in QUANTITIES.items():
        means = facts[(facts["metric"] == mean) & facts["layer"].notna()]
        if quantity == "weights":
            means = means.merge(hidden(facts), on=["run", "layer"])
        initial = means.loc[means["step"] == 0, [*keys, "value"]]
        spread = facts.loc[(facts["metric"] == std) & (facts["step"] == 0) & (facts["value"] > 0), [*keys, "value"]]
        means = means.merge(initial, on=keys, suffixes=("", "_start")).merge(spread, on=keys, suffixes=("", "_spread"))
        d = (means["value"] - means["value_start"]) / means["value_spread"]
        cells = means.assign(value=d).groupby([*CELL, "run", "seed", "step"], sort=False, observed=True)["value"].mean()
        pieces.append(cells.reset_index().assign(quantity=quantity))
    return pd.concat(pieces, ignore_index=True)


def drift(facts: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Mean and interval of drift d over seeds, per cell, quantity, and step."""
    return over_seeds(run_drift(finished(facts, runs)), [*CELL, "quantity", "step"], level)


def drift_contrasts(facts: pd.DataFrame, runs: pd.DataFrame, controls: Sequence[str], level: float) -> pd.DataFrame:
    """Drift d at the last step, per cell and quantity, and its differences from the controls, paired by seed.

    against: "nothing" (the drift itself), a control activation with the same data (claim C4: odd or linear functions do
    not drift), or "random data" (claim C3: the same activation on Gaussian inputs with random labels). p: two-sided
    one-sample t test of the paired differences against 0; missing for one seed or equal differences.
    """
    final = last_step(run_drift(finished(facts, runs)))
    keys = ["architecture", "normalization", "loss", "seed", "quantity"]
    pieces = [final.assign(against="nothing")]
    for control in controls:
        other = final[final["activation"] == control][[*keys, "data", "value"]]
        rest = final[final["activation"] != control]
        paired = rest.merge(other, on=[*keys, "data"], suffixes=("", "_control"))
        pieces.append(paired.assign(value=paired["value"] - paired["value_control"], against=control))
    random = final[final["data"] == "random"][[*keys, "activation", "value"]]
    paired = final[final["data"] == "real"].merge(random, on=[*keys, "activation"], suffixes=("", "_control"))
    pieces.append(paired.assign(value=paired["value"] - paired["value_control"], against="random data"))
    return tested(pd.concat(pieces), [*CELL, "quantity", "against"], level)
