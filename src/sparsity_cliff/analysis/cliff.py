"""Cliff or gradual decline: the stretch of sparsity in which the score falls from its first loss to 90 %.

The stretch is the distance between two critical sparsities (analysis/critical.py), that at a tolerance of 10 % and that
at 1 or 2 %. A step has the stretch 0, a steep bend a few points, and a gentle decline tens of points. It is measured by
the brackets of both ends, without a fitted curve. docs/cliff.md explains the method and shows how often it is right.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sparsity_cliff.analysis import critical
from sparsity_cliff.analysis.curves import DESIGN, Curve, Fitted, fit

NAN = float("nan")
Verdict = Literal["cliff", "gradual decline", "no fall in the range measured", "underpowered", "too few runs"]

STARTS = (0.01, 0.02)  # tolerances at which the stretch begins
END = 0.10  # tolerance at which it ends
ABRUPT = 0.10  # longest stretch of a cliff, as a share of zeros


class Found(NamedTuple):
    """A stretch of sparsity, as a share of zeros.

    stretch: the estimate, missing if the score does not fall to 90 %. low, high: interval. low is at least 0; a missing
    (nan) high is open. The verdicts:

    - "cliff": the interval lies at or below ABRUPT.
    - "gradual decline": it lies above ABRUPT.
    - "no fall in the range measured": every level loses less than 10 %, and the stretch may be shorter than ABRUPT.
    - "underpowered": the interval holds ABRUPT, so the runs cannot tell.
    - "too few runs": as for critical sparsity.
    """

    verdict: Verdict
    stretch: float
    low: float
    high: float
    reason: str


def fall(fitted: Fitted, start: float, *, level: float = 0.95) -> Found:
    """The stretch from the loss of the share `start` of the score to that of END, and its verdict.

    Each end of the interval combines two one-sided limits at (1 - level) / 2. Therefore, a verdict is wrong in at most
    1 - level of all cases (Bonferroni).
    """
    first = critical.locate(fitted, start, level=level)
    last = critical.locate(fitted, END, level=level)
    low = max(0.0, last.low - first.high)  # 0 if an end is open (nan)
    high = last.high - first.low
    estimate = last.sparsity - first.sparsity
    if not np.isnan(estimate):
        estimate = float(np.clip(estimate, low, np.nan_to_num(high, nan=estimate)))
    text = f"from {100 * (1 - start):g} to {100 * (1 - END):g} % of the score"
    limit = f"{100 * ABRUPT:g} points of sparsity"
    if high <= ABRUPT:
        return Found("cliff", estimate, low, high, f"{text} within {100 * high:.0f} points of sparsity")
    if low > ABRUPT:
        return Found("gradual decline", estimate, low, high, f"{text} in more than {100 * low:.0f} points of sparsity")
    if last.verdict == "beyond the range measured":
        return Found("no fall in the range measured", NAN, low, high, last.reason)
    reason = f"the runs cannot tell whether the way {text} takes more than {limit}: {first.reason}"
    return Found("underpowered", estimate, low, high, reason)


def cliffs(curves: Sequence[Curve], *, level: float) -> pd.DataFrame:
    """A row per curve and start, in this order, with the fields of `Curve.design` and of `Found`.

    start, end: the losses, as shares of the score, between which the stretch lies.
    """
    rows = []
    for curve in curves:
        fitted = None if curve.lack else fit(curve.levels, curve.reference)
        for start in STARTS:
            found = Found("too few runs", NAN, NAN, NAN, curve.lack)
            if fitted:
                found = fall(fitted, start, level=level)
            rows.append({**curve.design(), "start": start, "end": END, "level": level, **found._asdict()})
    return pd.DataFrame(rows, columns=[*DESIGN, "start", "end", "level", *Found._fields])
