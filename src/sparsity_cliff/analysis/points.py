"""Points of score against measured sparsity, one per configuration and seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sparsity_cliff.analysis.means import finished, last_step, named

#: Test metrics that can be the score. The first one that all runs of an architecture have is used: accuracy (for
#: language models, of the next token), then PESQ (1 to 4.64) and STOI (at most 1) of enhanced speech.
SCORES = ["accuracy", "pesq", "stoi"]
METRICS = ("activation_sparsity", "near_zero_share", *SCORES)  # that `points` reads


def points(facts: pd.DataFrame, runs: pd.DataFrame, losses: Sequence[str], baseline: str) -> pd.DataFrame:
    """One row per finished seed on real data, with measured sparsity and score at the last step.

    losses: for each architecture, only runs with the first of these losses that it was trained with are used. baseline:
    the configuration to which scores are relative.

    Columns: metric is the element of SCORES that is the score, the same for all points of an architecture.
    configuration is the activation, with the normalization if it is not the architecture's own. relative_score
    is the score divided by the mean score of the architecture's baseline, missing if no baseline run has finished or
    its mean is not positive. Further columns: architecture, seed, sparsity, score, loss, near_zero_share,
    target_sparsity (the nominal setting of a control), beyond_target (sparsity - target_sparsity), mechanism (how the
    control makes zeros), run.
    """
    whole = last_step(finished(facts, runs))
    whole = named(whole[whole["layer"].isna() & (whole["split"] == "test") & (whole["data"] == "real")])
    real = set(runs.loc[runs["data"] == "real", ["architecture", "loss"]].itertuples(index=False, name=None))
    judged = {architecture: loss for loss in reversed(losses) for architecture, other in real if loss == other}
    wide = whole[whole["loss"] == whole["architecture"].map(judged)].pivot_table(
        index=["run", "seed", "architecture", "activation", "normalization", "loss"], columns="metric", values="value"
    )
    wide = wide.reindex(columns=["activation_sparsity", "near_zero_share", *SCORES])  # even if no seed finished
    table = wide.reset_index().rename(columns={"activation_sparsity": "sparsity"})
    table = table[table[list(SCORES)].notna().any(axis=1)].reset_index(drop=True)  # silent output has no score
    table["metric"] = [""] * len(table)
    table["score"] = np.nan
    for _, part in table.groupby("architecture"):
        metric = next((name for name in SCORES if part[name].notna().all()), SCORES[0])
        table.loc[part.index, "metric"], table.loc[part.index, "score"] = metric, part[metric]
    own = table["normalization"] == "default"
    configuration = table["activation"].where(own, table["activation"] + " · " + table["normalization"])
    # in the order of the study
    table = runs[["run", "seed", "target_sparsity", "mechanism"]].merge(
        table.assign(configuration=configuration), on=["run", "seed"]
    )
    means = table[table["configuration"] == baseline].groupby("architecture")["score"].mean()
    table["relative_score"] = table["score"] / table["architecture"].map(means.where(means > 0)).astype(float)
    table["beyond_target"] = table["sparsity"] - table["target_sparsity"]
    columns = [
        "sparsity",
        "score",
        "metric",
        "near_zero_share",
        "target_sparsity",
        "beyond_target",
        "mechanism",
        "relative_score",
        "loss",
        "run",
    ]
    return table[["architecture", "configuration", "seed", *columns]]
