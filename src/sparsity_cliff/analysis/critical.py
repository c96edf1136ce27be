"""Critical sparsity: how sparse activations can be while at most a share τ of the reference score is lost.

The term is from arXiv 2509.00454, which uses τ = 1 %. An architecture and a mechanism (a way of making zeros, such as
Top-K of one base) give scores at several levels of sparsity. The reference, the same architecture with the baseline
activation, gives the score to keep. The result for each τ is a bracket: an interval from a level that is shown to keep
the score to a level that is shown to lose more.

The bracket assumes only that the score does not rise with sparsity. It needs no fitted curve, and therefore holds for
steps, hinges, and gentle declines alike. docs/critical.md explains the method and shows how often it is right.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

NAN = float("nan")
Array = NDArray[np.float64]
Verdict = Literal["bracket", "beyond the range measured", "not reached", "undecided", "too few runs"]

TOLERANCES = (0.01, 0.02, 0.05, 0.10)  # shares of the reference score that may be lost
MIN_SEEDS = 2  # of a level and of the reference: one does not show how much seeds differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critical:
    """Critical sparsity of an architecture and mechanism at a tolerance. `dataclasses.asdict` gives a row of the table.

    Sparsities are shares of zeros, 0 to 1. At least the share `level` of intervals [low, high] hold the truth. An end
    that is missing (nan) is open. The verdicts:

    - "bracket": both ends are known.
    - "beyond the range measured": every level keeps the score, so the critical sparsity is above the highest.
    - "not reached": every level loses more than tolerated. `low` is the sparsity of the reference, if that is lower.
    - "undecided": at least one end is unknown, because the runs differ too much to tell. `reason` names the levels.
    - "too few runs": the reference, or every level, has fewer than two seeds, or the reference has no positive score.
    """

    architecture: str
    mechanism: str
    tolerance: float
    verdict: Verdict = "too few runs"
    sparsity: float = NAN  # estimate, between the ends
    low: float = NAN
    high: float = NAN
    level: float
    n_levels: int  # with at least two seeds
    n_seeds: int  # fewest of these levels
    n_reference: int  # seeds of the reference
    sparsity_min: float = NAN  # of the levels
    sparsity_max: float = NAN
    reason: str


class Level(NamedTuple):
    """Scores at one level of sparsity, or of the reference."""

    sparsity: float  # measured, mean over seeds
    scores: Array  # (seeds,)
    examples: Array | None = None  # (examples,): score of each held-out example, mean over seeds; None: unknown


def bracket(
    levels: Sequence[Level], reference: Level, tolerance: float, level: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(safe, below), each (levels,): which levels are shown to keep the score, and which to lose more than tolerated.

    The tests are one-sided t tests at (1 - level) / 2 of the difference level - (1 - tolerance) · reference. Each
    direction goes through the levels in their order and stops at its first failure, so that no correction for
    multiplicity is needed (Hsu and Berger 1999, JASA 94, 468).
    """
    t, freedom = _tests(levels, reference, 1 - tolerance)
    least = stats.t.ppf(0.5 + level / 2, freedom)
    safe = np.logical_and.accumulate(t > least)
    below = np.logical_and.accumulate((t < -least)[::-1])[::-1]
    return safe, below


def _tests(levels: Sequence[Level], reference: Level, kept: float) -> tuple[Array, float]:
    """(t, degrees of freedom) of the difference level - kept · reference, (levels,).

    The variance between seeds is pooled over the levels and the reference, because a level has few seeds.
    """
    groups = [*levels, reference]
    own = np.array([part.scores.var(ddof=1) for part in groups])
    seeds = np.array([len(part.scores) for part in groups])
    freedom = float((seeds - 1).sum())
    variance = ((seeds - 1) * own).sum() / freedom / seeds
    sampled = np.array([_sampling(part.examples, reference.examples, kept) for part in levels])
    error = np.sqrt(variance[:-1] + kept**2 * variance[-1] + sampled)
    differences = np.array([part.scores.mean() for part in levels]) - kept * reference.scores.mean()
    return differences / np.maximum(error, 1e-9), freedom


def _sampling(level: Array | None, reference: Array | None, kept: float) -> float:
    """Variance of a difference that is due to the sample of held-out examples; 0 if their scores are unknown.

    Both networks are judged on the same examples, so it is the variance of the paired differences.
    """
    if level is None or reference is None:
        return 0.0
    differences = level - kept * reference
    return float(differences.var(ddof=1) / len(differences))


def _estimate(levels: Sequence[Level], reference: Level, tolerance: float) -> float:
    """Where the curve through the reference and the levels has lost the tolerance; missing if it never has.

    The curve is the least-squares fit that never rises (isotonic regression), linear between levels.
    """
    parts = sorted([reference, *levels], key=lambda part: part.sparsity)
    weights = [len(part.scores) for part in parts]
    fitted = optimize.isotonic_regression([part.scores.mean() for part in parts], weights=weights, increasing=False).x
    least = (1 - tolerance) * float(reference.scores.mean())
    lost = np.flatnonzero(fitted < least)
    if not len(lost):
        return NAN
    if not lost[0]:
        return parts[0].sparsity
    before, after = parts[lost[0] - 1].sparsity, parts[lost[0]].sparsity
    high, low = fitted[lost[0] - 1], fitted[lost[0]]
    return float(before + (after - before) * (high - least) / (high - low))


class Found(NamedTuple):
    """A part of `Critical`, which explains it."""

    verdict: Verdict
    sparsity: float
    low: float
    high: float
    reason: str


def locate(levels: Sequence[Level], reference: Level, tolerance: float, *, level: float = 0.95) -> Found:
    """The critical sparsity of one curve at one tolerance.

    levels: in any order, each with at least two seeds, as has the reference.
    """
    levels = sorted(levels, key=lambda part: part.sparsity)
    x = np.array([part.sparsity for part in levels])
    safe, below = bracket(levels, reference, tolerance, level)
    start = reference.sparsity if reference.sparsity < x[0] else NAN  # the reference keeps its own score
    low = float(x[safe][-1]) if safe.any() else start
    high = float(x[below][0]) if below.any() else NAN
    estimate = _estimate(levels, reference, tolerance)
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


def criticals(
    points: pd.DataFrame, *, baseline: str, tolerances: Sequence[float] = TOLERANCES, level: float = 0.95
) -> pd.DataFrame:
    """The table of `Critical`, one row per architecture, mechanism, and tolerance, in the order of the points.

    An architecture without a control of sparsity has the mechanism "none" and the verdict "too few runs".

    points: a row per finished seed with architecture, configuration, mechanism (missing for an activation that is no
    control of sparsity), seed, sparsity, and score. baseline: the configuration of the reference. Raises ValueError for
    a tolerance outside 0 to 1.
    """
    for tolerance in tolerances:
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance {tolerance} is not valid; valid: numbers between 0 and 1")
    rows = []
    for architecture, own in points.groupby("architecture", observed=True, sort=False):
        reference = _level(own[own["configuration"].astype(str) == baseline])
        mechanisms = list(own.groupby("mechanism", observed=True, sort=False)) or [("none", own.iloc[:0])]
        for mechanism, controlled in mechanisms:
            parts = [_level(part) for _, part in controlled.groupby("configuration", observed=True, sort=False)]
            levels = [part for part in parts if len(part.scores) >= MIN_SEEDS]
            x = [part.sparsity for part in levels]
            for tolerance in tolerances:
                row = Critical(
                    architecture=str(architecture),
                    mechanism=str(mechanism),
                    tolerance=tolerance,
                    level=level,
                    n_levels=len(levels),
                    n_seeds=min((len(part.scores) for part in levels), default=0),
                    n_reference=len(reference.scores),
                    sparsity_min=min(x, default=NAN),
                    sparsity_max=max(x, default=NAN),
                    reason=f"{len(levels)} levels with {MIN_SEEDS} or more seeds, and {len(reference.scores)} seeds of "
                    f"{baseline}; at least 1 and {MIN_SEEDS} are needed, and a mean score of {baseline} above 0",
                )
                if levels and len(reference.scores) >= MIN_SEEDS and reference.scores.mean() > 0:
                    row = dataclasses.replace(row, **locate(levels, reference, tolerance, level=level)._asdict())
                rows.append(dataclasses.asdict(row))
    return pd.DataFrame(rows, columns=[field.name for field in dataclasses.fields(Critical)])


def _level(part: pd.DataFrame) -> Level:
    return Level(float(part["sparsity"].mean()), part["score"].to_numpy(np.float64))
