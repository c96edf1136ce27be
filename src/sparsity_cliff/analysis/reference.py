"""Whether a study's results agree with the reference results in the repository, within the noise of its seeds."""

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.999  # share of agreeing studies without a complaint
KEYS = ["architecture", "configuration"]


def disagreements(points: pd.DataFrame, reference: pd.DataFrame) -> list[str]:
    """A line for each difference between two tables `points` of the same study; empty if they agree.

    The mean score and the mean sparsity of each configuration are compared by a two-sided t test, with the variance
    between seeds pooled over the configurations of an architecture and both tables. Bonferroni's correction is for the
    number of all comparisons. A configuration that only one table has is a difference.
    """
    mine, theirs = (dict(iter(table.groupby(KEYS, observed=True))) for table in (points, reference))
    lines = [f"{_name(key)}: not in the reference" for key in mine if key not in theirs]
    lines += [f"{_name(key)}: only in the reference" for key in theirs if key not in mine]
    both = [key for key in mine if key in theirs]
    for value in ("score", "sparsity"):
        for architecture in dict.fromkeys(key[0] for key in both):
            own = [key for key in both if key[0] == architecture]
            groups = [table[key][value].to_numpy(np.float64) for key in own for table in (mine, theirs)]
            freedom = sum(len(group) - 1 for group in groups)
            if freedom < 1:
                lines.append(f"{architecture}: one seed of each configuration, which shows no noise")
                continue
            variance = sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom
            most = stats.t.ppf(1 - (1 - LEVEL) / (4 * len(both)), freedom)
            for key in own:
                a, b = (table[key][value].to_numpy(np.float64) for table in (mine, theirs))
                slack = most * np.sqrt(variance * (1 / len(a) + 1 / len(b))) + 1e-6
                if not abs(a.mean() - b.mean()) <= slack:
                    lines.append(f"{_name(key)}: {value} {a.mean():.4f}, reference {b.mean():.4f} ± {slack:.4f}")
    return lines


def _name(key: object) -> str:
    return " · ".join(map(str, key)) if isinstance(key, tuple) else str(key)
