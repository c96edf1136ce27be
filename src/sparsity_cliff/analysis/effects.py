"""The effects that the paper's claims are about, each as a mean over seeds with its tests.

An effect is measured in one architecture, between named activations and with one loss: a *part*, such as
"relu (mse)". Its unit is the seed: sites or matrices of one network are averaged first. Runs on real data with
the architecture's own normalization are used, unless a function says otherwise.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sparsity_cliff.analysis.drift import run_drift
from sparsity_cliff.analysis.means import MARKS, finished, last_step, named

Array = NDArray[np.float64]
INF = float("inf")

MIN_SEEDS = 4  # fewer show too little of how much seeds differ
EARLY = 0.1  # share of the steps; the measured step nearest to it is used
SAME_SPARSITY = 0.02  # ± share of zeros
CLOSED_FORM = "closed form"  # in place of an architecture
METRICS = (
    *("loss", "perplexity", "first_token_share", "activation_sparsity", "near_zero_share", "spike", "spike_ratio"),
    *("gradient_positive", "weight_mean", "weight_std", *MARKS),
)
CELL = ["architecture", "activation", "role", "loss"]


@dataclasses.dataclass(frozen=True)
class Effect:
    """A mean over seeds, and one-sided t tests of it.

    obstacle: why it can decide nothing, and remedy: the runs that would change that; "" if it can.
    """

    architecture: str
    part: str
    mean: float
    error: float  # standard error
    freedom: float  # degrees of freedom
    n: int  # seeds
    runs: frozenset[str]
    obstacle: str = ""
    remedy: str = ""

    def p_above(self, bound: float) -> float:
        """p of the test that shows a mean above the bound."""
        return self._p(self.mean - bound)

    def p_below(self, bound: float) -> float:
        """p of the test that shows a mean below the bound."""
        return self._p(bound - self.mean)

    def _p(self, distance: float) -> float:
        if distance == INF:
            return 0.0
        if not self.error > 0:  # all seeds are equal
            return float(distance <= 0)
        return float(stats.t.sf(distance / self.error, self.freedom))

    def interval(self, level: float) -> tuple[float, float]:
        """The two-sided interval of the mean; nan for one seed."""
        half = float(stats.t.ppf(0.5 + level / 2, max(self.freedom, 1))) * self.error
        return self.mean - half, self.mean + half


@dataclasses.dataclass(frozen=True)
class Tables:
    """The collected tables as the effects need them."""

    facts: pd.DataFrame  # of METRICS, finished seeds, and the own normalization; with `role` and `mechanism`
    runs: pd.DataFrame
    theory: pd.DataFrame  # with `role`
    tokens: frozenset[str]  # architectures of language models
    in_nats: frozenset[str]  # runs with a loss in nats per token

    @staticmethod
    def of(facts: pd.DataFrame, runs: pd.DataFrame, theory: pd.DataFrame) -> "Tables":
        """facts, runs: of analysis/collect.py. theory: of analysis/theory.py, or without rows."""
        own_roles = [role(*pair) for pair in zip(runs["function"], runs["options"], strict=True)]
        runs = runs.assign(role=own_roles)
        good = finished(facts[facts["metric"].isin(METRICS) & (facts["normalization"] == "default")], runs)
        run = good["run"].astype("category").cat
        about = runs.drop_duplicates("run").set_index("run").reindex(run.categories)
        good = good.assign(**{name: about[name].array.take(run.codes) for name in ("role", "mechanism", "steps")})
        roles = dict(zip(runs["activation"], runs["role"], strict=True))
        tokens = good.loc[good["metric"].isin(["first_token_share", "perplexity"]), "architecture"]
        in_nats = good.loc[good["metric"] == "perplexity", "run"]
        theory = theory.assign(role=theory["activation"].map(roles))
        return Tables(good, runs, theory, frozenset(tokens), frozenset(in_nats))

    @property
    def architectures(self) -> list[str]:
        """All architectures of the study, in the order of the runs."""
        return [str(name) for name in self.runs["architecture"].unique()]

    @functools.cached_property
    def early_drift(self) -> pd.DataFrame:
        """Drift d (analysis/drift.py) of hidden weights for each run and seed, early in training."""
        rows = named(run_drift(self.facts))
        about = self.runs[["run", "role", "steps"]].drop_duplicates()
        rows = rows[(rows["quantity"] == "weights") & (rows["step"] > 0)].merge(about, on="run").sort_values("step")
        nearest = (rows["step"] - EARLY * rows["steps"]).abs().groupby(rows["run"]).idxmin()
        early = rows.merge(rows.loc[nearest, ["run", "step"]], on=["run", "step"])
        return early.assign(part=_part(early))

    def of_model(self, metric: str, roles: Collection[str] | None = None) -> pd.DataFrame:
        """The metric of whole models on held-out real data, at all measured steps. roles: None for all."""
        rows = self.facts
        rows = rows[(rows["metric"] == metric) & rows["layer"].isna() & (rows["split"] == "test")]
        rows = rows[rows["data"] == "real"]
        return named(rows if roles is None else rows[rows["role"].isin(roles)])


def role(function: str | None, options: str) -> str:
    """What an activation is to the claims, whatever its name in the study.

    It is its function, or for example "clipped relu2" or "topk of relu". options: JSON of the other options, with or
    without those that have their default.
    """
    given = json.loads(options)
    if function == "topk":
        return f"topk of {given.get('base', 'relu')}"
    return f"clipped {function}" if given.get("clip") is not None else str(function)


def of_samples(frame: pd.DataFrame, *others: str) -> list[Effect]:
    """An Effect for each architecture and part of a frame with architecture, part, run, value, and a row per seed.

    others: further columns with run ids. Values that are not finite, such as the spike of a dead site, do not count.
    """
    found = []
    frame = frame[np.isfinite(frame["value"].astype(float))]
    for (architecture, part), rows in frame.groupby(["architecture", "part"], sort=False):
        values, n = rows["value"].to_numpy(np.float64), len(rows)
        error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        runs = frozenset(str(run) for column in ("run", *others) for run in rows[column])
        found.append(Effect(str(architecture), str(part), float(values.mean()), error, n - 1, n, runs))
    return found


def paired(first: pd.DataFrame, second: pd.DataFrame, on: Sequence[str] = (), sign: str = "-") -> pd.DataFrame:
    """first - second for each pair of activations and each seed that both have, named "first - second (loss)".

    on: further columns in which both agree. sign: of the name.
    """
    both = first.merge(second, on=["architecture", "loss", "seed", *on], suffixes=("", "_other"))
    part = both["activation"] + f" {sign} " + both["activation_other"] + " (" + both["loss"] + ")"
    return both.assign(value=both["value"] - both["value_other"], part=part)


def _part(frame: pd.DataFrame) -> pd.Series:
    return frame["activation"] + " (" + frame["loss"] + ")"


# ------------------------------------------------------------------------------------------ gradients


def positive_gradient(tables: Tables, roles: Collection[str]) -> list[Effect]:
    """Mean of ∂L/∂z over z > 0 at initialization, over sites, for the losses that have a closed form."""
    known = set(tables.theory.loc[tables.theory["closed_form"].notna(), "loss"])
    rows = tables.facts[tables.facts["metric"] == "gradient_positive"]
    rows = rows[(rows["step"] == 0) & (rows["data"] == "real") & rows["role"].isin(roles) & rows["loss"].isin(known)]
    by_seed = named(rows).groupby([*CELL, "run", "seed"], sort=False)["value"].mean().reset_index()
    return of_samples(by_seed.assign(part=_part(by_seed))) + closed_forms(tables, roles)


def closed_forms(tables: Tables, roles: Collection[str]) -> list[Effect]:
    """The Monte Carlo means over z > 0 of the two-layer network of analysis/theory.py; n counts draws.

    Where one differs from its closed form (α = 5 %, Bonferroni over the cells), theory or code is wrong, and it can
    decide nothing.
    """
    rows = tables.theory[tables.theory["role"].isin(roles) & (tables.theory["region"] == "positive")]
    rows = rows[rows["mean"].notna()]
    found = []
    for row in rows.to_dict("records"):
        mean, error, n = row["mean"], row["standard_error"], int(row["n"])
        p = 2 * stats.norm.sf(abs(mean - row["closed_form"]) / error) if error > 0 else 1.0
        effect = Effect(CLOSED_FORM, f"{row['activation']} ({row['loss']})", mean, error, n - 1, n, frozenset())
        if p * len(rows) < 0.05:
            remedy = "a correction of the closed form or of its code"
            effect = dataclasses.replace(effect, obstacle="Monte Carlo mean and closed form differ", remedy=remedy)
        found.append(effect)
    return found


# ------------------------------------------------------------------------------------------ drift


def drift(tables: Tables, roles: Collection[str], data: str = "real") -> list[Effect]:
    """Early drift d of hidden weights. data: real or random."""
    rows = tables.early_drift
    return of_samples(rows[rows["role"].isin(roles) & (rows["data"] == data)])


def drift_difference(tables: Tables, roles: Collection[str], controls: Collection[str]) -> list[Effect]:
    """Early drift of the roles minus that of the controls, paired by seed."""
    rows = tables.early_drift
    rows = rows[rows["data"] == "real"]
    return of_samples(paired(rows[rows["role"].isin(roles)], rows[rows["role"].isin(controls)]), "run_other")


# ------------------------------------------------------------------------------------------ sparsity


def rise(tables: Tables, metric: str, roles: Collection[str]) -> list[Effect]:
    """A share of the whole model's activations at the end minus that at initialization."""
    rows = tables.of_model(metric, roles)
    both = last_step(rows).merge(rows.loc[rows["step"] == 0, ["run", "seed", "value"]], on=["run", "seed"])
    return of_samples(both.assign(value=both["value_x"] - both["value_y"], part=_part))


def at_end(tables: Tables, metric: str, roles: Collection[str]) -> list[Effect]:
    """A share of the whole model's activations at the end."""
    return of_samples(last_step(tables.of_model(metric, roles)).assign(part=_part))


# ------------------------------------------------------------------------------------------ validation loss


def final_loss(tables: Tables) -> pd.DataFrame:
    """Held-out losses in nats per token at the last step."""
    rows = last_step(tables.of_model("loss"))
    return rows[rows["run"].isin(tables.in_nats)]


def loss_difference(tables: Tables, roles: Collection[str], others: Collection[str]) -> list[Effect]:
    """Final validation loss of the roles minus that of the others, paired by seed."""
    rows = final_loss(tables)
    return of_samples(paired(rows[rows["role"].isin(roles)], rows[rows["role"].isin(others)]), "run_other")


def loss_at_equal_sparsity(tables: Tables, roles: Collection[str], others: Collection[str]) -> list[Effect]:
    """Final validation loss of each of the roles minus that of the one of the others with the nearest sparsity.

    Sparsity is measured, as a mean over seeds. Without another within ± SAME_SPARSITY, the effect can decide nothing.
    """
    losses, found = final_loss(tables), []
    zeros = last_step(tables.of_model("activation_sparsity")).groupby(CELL, sort=False)["value"].mean().reset_index()
    near = zeros[zeros["role"].isin(roles)].merge(
        zeros[zeros["role"].isin(others)], on=["architecture", "loss"], suffixes=("", "_other")
    )
    near = near.assign(gap=(near["value"] - near["value_other"]).abs())
    near = near.loc[near.groupby(["architecture", "loss", "activation"], sort=False)["gap"].idxmin()]
    for row in near.to_dict("records"):
        own = losses[(losses["architecture"] == row["architecture"]) & (losses["loss"] == row["loss"])]
        pair = paired(own[own["activation"] == row["activation"]], own[own["activation"] == row["activation_other"]])
        for effect in of_samples(pair, "run_other"):
            if row["gap"] > SAME_SPARSITY:
                gap = f"sparsities differ by {100 * row['gap']:.0f} points, more than {100 * SAME_SPARSITY:g}"
                remedy = f"one of {', '.join(others)} at {100 * row['value']:.0f} % zeros"
                effect = dataclasses.replace(effect, obstacle=gap, remedy=remedy)
            found.append(effect)
    return found


def lowest_loss(tables: Tables, roles: Collection[str], variants: Collection[str]) -> list[Effect]:
    """Final validation loss of the roles minus that of each other activation, paired by seed.

    Each difference has its own variance. Dunnett's test, which pools them, supports the claim wrongly where activations
    differ in how much their seeds vary (docs/claims.md). variants: no others. Neither are controls of sparsity, which
    are levels and not activations.
    """
    rows = final_loss(tables)
    rows = rows[rows["mechanism"].isna()]
    others = rows[~rows["role"].isin([*roles, *variants])]
    return of_samples(paired(rows[rows["role"].isin(roles)], others), "run_other")


# ------------------------------------------------------------------------------------------ spikes


def spike_factor(
    tables: Tables, metric: str, roles: Collection[str], others: Collection[str], middle: bool = False
) -> list[Effect]:
    """Logarithm of the factor between the spikes of the roles and the others at the end, at the same site and seed.

    metric: spike or spike_ratio. middle: at all sites but the first and the last, else of the whole model.
    """
    rows = last_step(tables.facts[tables.facts["metric"] == metric])
    rows = named(rows[(rows["split"] == "test") & (rows["data"] == "real")])
    if middle:
        depths = rows.groupby("run")["depth"]
        inside = (rows["depth"] > depths.transform("min")) & (rows["depth"] < depths.transform("max"))
        rows = rows[inside]
    else:
        rows = rows[rows["layer"].isna()].fillna({"layer": ""})
    rows = rows[rows["value"] > 0]
    rows = rows.assign(value=np.log(rows["value"]))
    sites = paired(rows[rows["role"].isin(roles)], rows[rows["role"].isin(others)], ["layer"], "÷")
    keys = ["architecture", "part", "run", "run_other", "seed"]
    return of_samples(sites.groupby(keys, sort=False)["value"].mean().reset_index(), "run_other")
