"""Critical sparsity: how sparse activations can be while at most a share τ of the reference score is lost.

The term is from arXiv 2509.00454, which uses τ = 1 %. An architecture and a mechanism (a way of making zeros, such as
Top-K of one base) give scores at several levels of sparsity. The reference, the same architecture with the baseline
activation, gives the score to keep. The result for each τ is a bracket: an interval from a level that is shown to keep
the score to a level that is shown to lose more.

The bracket assumes only that the score does not rise with sparsity. It needs no fitted curve, and therefore holds for
steps, hinges, and gentle declines alike. docs/critical.md explains the method and shows how often it is right.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sparsity_cliff.analysis.curves import DESIGN, Curve, Differences, Fitted, differences, fit, monotone

NAN = float("nan")
Verdict = Literal["bracket", "beyond the range measured", "not reached", "undecided", "too few runs"]

TOLERANCES = (0.01, 0.02, 0.05, 0.10)  # shares of the reference score that may be lost
CLAIM = 0.70  # sparsity above which accuracy falls according to the paper (arXiv 2605.17659, abstract)


class Found(NamedTuple):
    """A critical sparsity. Sparsities are shares of zeros, 0 to 1.

    sparsity: the estimate. low, high: at least the share `level` of intervals hold the truth. An end that is missing
    (nan) is open. The verdicts:

    - "bracket": both ends are known.
    - "beyond the range measured": every level keeps the score, so the critical sparsity is above the highest.
    - "not reached": every level loses more than tolerated. `low` is the sparsity of the reference, if that is lower.
    - "undecided": at least one end is unknown, because the runs differ too much to tell. `reason` names the levels.
    - "too few runs": the reference, or every level, has fewer than two seeds, or the reference has no positive score.
    """

    verdict: Verdict
    sparsity: float
    low: float
    high: float
    reason: str


def bracket(fitted: Fitted, tolerance: float, level: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(safe, below), each (levels,): which levels are shown to keep the score, and which to lose more than tolerated.

    The tests are one-sided t tests of the difference level - (1 - tolerance) · reference, at (1 - level) / 2 in each
    direction. A direction goes through the levels in their order and stops at its first failure, so that no correction
    for multiplicity is needed (Hsu and Berger 1999, JASA 94, 468).

    A level passes by its own test, or by that of its window, each at half the error (Bonferroni). The window joins it
    with its neighbors in the direction of the tests. If the level loses more than tolerated, so do these, because the
    score does not rise. Without windows, a long plateau of levels with few seeds would seldom pass as a whole.
    """
    seeds = np.array([len(part.scores) for part in fitted.levels], np.float64)
    steps = np.subtract.outer(np.arange(len(seeds)), np.arange(len(seeds)))
    to_right = ((steps <= 0) & (steps > -fitted.span)) * seeds
    to_left = ((steps >= 0) & (steps < fitted.span)) * seeds
    weights = [np.eye(len(seeds)), *(part / part.sum(1, keepdims=True) for part in (to_right, to_left))]
    own, right, left = (differences(fitted, 1 - tolerance, part) for part in weights)

    def passes(found: Differences, sign: int) -> NDArray[np.bool_]:
        return np.asarray(sign * found.t > stats.t.ppf(0.75 + level / 4, found.freedom))

    safe = np.logical_and.accumulate(passes(own, 1) | passes(right, 1))
    below = np.logical_and.accumulate((passes(own, -1) | passes(left, -1))[::-1])[::-1]
    return safe, below


def _estimate(fitted: Fitted, tolerance: float) -> float:
    """Where the monotone curve, linear between levels, has lost the tolerance; missing if it never has."""
    parts, _, heights = monotone(fitted)
    least = (1 - tolerance) * fitted.scale
    lost = np.flatnonzero(heights < least)
    if not len(lost):
        return NAN
    if not lost[0]:
        return parts[0].sparsity
    before, after = parts[lost[0] - 1].sparsity, parts[lost[0]].sparsity
    high, low = heights[lost[0] - 1], heights[lost[0]]
    return float(before + (after - before) * (high - least) / (high - low))


def locate(fitted: Fitted, tolerance: float, *, level: float = 0.95) -> Found:
    """The critical sparsity of one curve at one tolerance, whose levels and reference have at least two seeds each."""
    x = np.array([part.sparsity for part in fitted.levels])
    safe, below = bracket(fitted, tolerance, level)
    start = fitted.reference.sparsity if fitted.reference.sparsity < x[0] else NAN  # the reference keeps its own score
    low = float(x[safe][-1]) if safe.any() else start
    high = float(x[below][0]) if below.any() else NAN
    estimate = _estimate(fitted, tolerance)
    if not np.isnan(estimate):
        estimate = float(np.clip(estimate, *np.nan_to_num([low, high], nan=estimate)))
    text = f"{100 * tolerance:g} % of the score"
    open_levels = ", ".join(f"{100 * value:.0f} %" for value in x[~safe & ~below])
    unknown = f"; at {open_levels}, the runs cannot tell" if open_levels else ""
    if below.all():
        return Found("not reached", estimate, low, high, f"all levels lose more than {text}")
    if safe.all():
        return Found("beyond the range measured", NAN, low, NAN, f"all levels lose less than {text}")
    if not below.any():
        return Found("undecided", estimate, low, NAN, f"no level is shown to lose more than {text}{unknown}")
    if np.isnan(low):
        return Found("undecided", estimate, NAN, high, f"no level is shown to lose less than {text}{unknown}")
    shown = f"{100 * low:.0f} % of zeros lose less than {text}, {100 * high:.0f} % more{unknown}"
    return Found("bracket", estimate, low, high, shown)


def criticals(curves: Sequence[Curve], *, tolerances: Sequence[float] = TOLERANCES, level: float) -> pd.DataFrame:
    """A row per curve and tolerance, in this order, with the fields of `Curve.design` and of `Found`.

    claimed: where 70 %, the paper's claim, lies: "inside", "below", or "above" the interval, with open ends as
    unlimited; missing with "too few runs". Raises ValueError for a tolerance outside 0 to 1.
    """
    rows = []
    for curve in curves:
        fitted = None if curve.lack else fit(curve.levels, curve.reference)
        for tolerance in tolerances:
            if not 0 < tolerance < 1:
                raise ValueError(f"tolerance {tolerance} is not valid; valid: numbers between 0 and 1")
            found, claimed = Found("too few runs", NAN, NAN, NAN, curve.lack), None
            if fitted:
                found = locate(fitted, tolerance, level=level)
                claimed = "below" if found.low > CLAIM else "above" if found.high < CLAIM else "inside"
            row = {**curve.design(), "tolerance": tolerance, "level": level}
            rows.append({**row, **found._asdict(), "claimed": claimed})
    return pd.DataFrame(rows, columns=[*DESIGN, "tolerance", "level", *Found._fields, "claimed"])


def worst(criticals: pd.DataFrame) -> pd.DataFrame:
    """Critical sparsity over architectures: a row per mechanism and tolerance, because a pooled number would mislead.

    low: what every architecture is shown to afford; missing if one of them has an open lower end. lowest, highest:
    range of the estimates. architecture: the one with the lowest estimate. n: architectures that have an estimate.
    beyond: architectures that lose less than the tolerance at all their levels, joined by commas. unknown: those that
    have neither.
    """
    rows = []
    judged = criticals[criticals["verdict"] != "too few runs"]
    for (mechanism, tolerance), part in judged.groupby(["mechanism", "tolerance"], sort=False):
        some = part[part["sparsity"].notna()]
        beyond = part[part["verdict"] == "beyond the range measured"]
        unknown = part[part["sparsity"].isna() & (part["verdict"] != "beyond the range measured")]
        names = [", ".join(other["architecture"]) for other in (beyond, unknown)]
        row = {"mechanism": mechanism, "tolerance": tolerance, "low": part["low"].min(skipna=False)}
        row |= {"lowest": some["sparsity"].min(), "highest": some["sparsity"].max(), "n": len(some)}
        row["architecture"] = some["architecture"].iloc[some["sparsity"].argmin()] if len(some) else None
        rows.append(row | {"beyond": names[0], "unknown": names[1]})
    columns = ["mechanism", "tolerance", "low", "lowest", "highest", "architecture", "n", "beyond", "unknown"]
    return pd.DataFrame(rows, columns=columns)
