"""Curves of score against sparsity: the levels that one mechanism reaches in one architecture, and their reference.

A mechanism is a way of making zeros at a chosen level, such as Top-K of one base. The reference is the same
architecture with the baseline activation, whose score is to be kept. The seeds are the units of all tests.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]
Known = Mapping[tuple[str, int], NDArray[np.float32]]  # (run, seed) -> scores of the held-out examples

MIN_SEEDS = 2  # of a level and of the reference: one does not show how much seeds differ
#: Columns of `Curve.design`.
DESIGN = ["architecture", "mechanism", "n_levels", "n_seeds", "n_reference", "sparsity_min", "sparsity_max"]
NONE = "none"  # the mechanism of an architecture without a control of sparsity


class Level(NamedTuple):
    """Scores at one level of sparsity, or of the reference."""

    sparsity: float  # measured, mean over seeds
    scores: Array  # (seeds,)
    examples: Array | None = None  # (examples,): score of each, mean over seeds; nan or None: unknown
    configuration: str = ""


class Curve(NamedTuple):
    """The levels of one mechanism in one architecture, by sparsity, each with at least MIN_SEEDS seeds."""

    architecture: str
    mechanism: str
    reference: Level
    levels: list[Level]

    @property
    def lack(self) -> str:
        """Why the curve cannot be judged; "" if it can."""
        n, positive = len(self.reference.scores), len(self.reference.scores) and self.reference.scores.mean() > 0
        if self.levels and n >= MIN_SEEDS and positive:
            return ""
        return (
            f"{len(self.levels)} levels with {MIN_SEEDS} or more seeds, and {n} seeds of the baseline; at least 1 and "
            f"{MIN_SEEDS} are needed, and a mean score of the baseline above 0"
        )

    def design(self) -> dict[str, str | int | float]:
        """What the curve consists of, as columns of tables.

        n_levels: levels with at least MIN_SEEDS seeds. n_seeds: fewest of these levels. n_reference: seeds of the
        reference. sparsity_min, sparsity_max: of the levels.
        """
        x = [part.sparsity for part in self.levels]
        fewest = min((len(part.scores) for part in self.levels), default=0)
        counts = (len(self.levels), fewest, len(self.reference.scores))
        ends = (min(x, default=np.nan), max(x, default=np.nan))
        return dict(zip(DESIGN, (self.architecture, self.mechanism, *counts, *ends), strict=True))


def curves(points: pd.DataFrame, examples: pd.DataFrame | None, baseline: str) -> list[Curve]:
    """The curves of a study, in the order of the points.

    Each architecture has a curve per mechanism, or one with the mechanism NONE and no levels.

    points: a row per finished seed with architecture, configuration, mechanism (missing for an activation that is no
    control of sparsity), run, seed, sparsity, score, and metric, the name of the score. examples: the table of
    analysis/collect.py; without it, intervals hold for this set of held-out examples only. baseline: the configuration
    of the reference.
    """
    known = _known(points, examples)
    found = []
    for architecture, own in points.groupby("architecture", observed=True, sort=False):
        reference = _level(baseline, own[own["configuration"].astype(str) == baseline], known)
        mechanisms = list(own.groupby("mechanism", observed=True, sort=False)) or [(NONE, own.iloc[:0])]
        found += [Curve(str(architecture), str(name), reference, _levels(part, known)) for name, part in mechanisms]
    return found


def others(points: pd.DataFrame, examples: pd.DataFrame | None, baseline: str) -> list[Curve]:
    """Per architecture, the activations that are no controls of sparsity, as levels of the mechanism NONE."""
    known, free = _known(points, examples), points[points["mechanism"].isna()]
    found = []
    for architecture, own in free.groupby("architecture", observed=True, sort=False):
        is_reference = own["configuration"].astype(str) == baseline
        reference = _level(baseline, own[is_reference], known)
        found.append(Curve(str(architecture), NONE, reference, _levels(own[~is_reference], known)))
    return found


def _levels(points: pd.DataFrame, known: Known) -> list[Level]:
    """The configurations with at least MIN_SEEDS seeds, by sparsity."""
    groups = points.groupby("configuration", observed=True, sort=False)
    every = (_level(str(name), part, known) for name, part in groups)
    return sorted((one for one in every if len(one.scores) >= MIN_SEEDS), key=lambda one: one.sparsity)


def _known(points: pd.DataFrame, examples: pd.DataFrame | None) -> Known:
    if examples is None:
        return {}
    rows = points[["run", "seed", "metric"]].merge(examples, on=["run", "seed", "metric"])
    return dict(zip(zip(rows["run"], rows["seed"], strict=True), rows["values"], strict=True))


def _level(configuration: str, part: pd.DataFrame, known: Known) -> Level:
    scores = part["score"].to_numpy(np.float64)
    found = [known[key] for key in zip(part["run"], part["seed"], strict=True) if key in known] if known else []
    shared = min(map(len, found), default=0)
    all_known = shared > 0 and len(found) == len(part)
    examples: Array | None = None
    if all_known:
        examples = np.asarray(np.mean([values[:shared] for values in found], axis=0, dtype=np.float64))
    return Level(float(part["sparsity"].mean()) if len(part) else np.nan, scores, examples, configuration)


# --------------------------------------------------------------------------------- tests


class Differences(NamedTuple):
    """Differences level - kept · reference, each (levels,)."""

    estimates: Array
    errors: Array  # standard errors
    freedom: Array  # degrees of freedom of t

    @property
    def t(self) -> Array:
        """Estimates in standard errors."""
        return self.estimates / np.maximum(self.errors, 1e-9)


def spread(levels: Sequence[Level], reference: Level) -> tuple[float, float]:
    """(variance between seeds, degrees of freedom), pooled over the levels and the reference.

    It is pooled because a level has few seeds.
    """
    groups = [*levels, reference]
    freedom = float(sum(len(part.scores) - 1 for part in groups))
    return float(sum((len(part.scores) - 1) * part.scores.var(ddof=1) for part in groups)) / freedom, freedom


def joined(levels: Sequence[Level]) -> Level:
    """Neighboring levels as one, whose score is the mean over all their seeds."""
    if len(levels) == 1:
        return levels[0]
    seeds = [len(part.scores) for part in levels]
    known = [part.examples for part in levels if part.examples is not None]
    shared = min(map(len, known), default=0)
    examples = None
    if len(known) == len(levels):
        examples = np.average([part[:shared] for part in known], axis=0, weights=seeds)
    sparsity = float(np.average([part.sparsity for part in levels], weights=seeds))
    return Level(sparsity, np.concatenate([part.scores for part in levels]), examples)


def differences(
    levels: Sequence[Level], reference: Level, kept: float | Array, pooled: tuple[float, float] | None = None
) -> Differences:
    """Differences level - kept · reference. kept: a number, or one per level. pooled: `spread`, None: of these levels.

    The variance due to the sample of held-out examples is added to that between seeds, with the degrees of freedom of
    Satterthwaite (1946).
    """
    kept = np.broadcast_to(kept, len(levels))
    of_a_seed, freedom = pooled or spread(levels, reference)
    variance = of_a_seed / np.array([len(part.scores) for part in (*levels, reference)])
    between = variance[:-1] + kept**2 * variance[-1]
    pairs = [_sampling(part.examples, reference.examples, share) for part, share in zip(levels, kept, strict=True)]
    sampled, examples = np.array(pairs).reshape(-1, 2).T
    squares = between**2 / freedom + sampled**2 / np.maximum(examples - 1, 1)
    combined = (between + sampled) ** 2 / np.maximum(squares, 1e-300)
    estimates = np.array([part.scores.mean() for part in levels]) - kept * reference.scores.mean()
    return Differences(estimates, np.sqrt(between + sampled), np.maximum(combined, 1))


def _sampling(level: Array | None, reference: Array | None, kept: float) -> tuple[float, int]:
    """Variance of a difference that is due to the sample of held-out examples, and their number.

    Both networks are judged on the same examples, so it is the variance of the paired differences. It is 0 if fewer
    than two examples have a known score of both.
    """
    if level is None or reference is None:
        return 0.0, 0
    shared = min(len(level), len(reference))  # the last examples may have no score
    paired = level[:shared] - kept * reference[:shared]
    paired = paired[np.isfinite(paired)]
    return (float(paired.var(ddof=1) / len(paired)), len(paired)) if len(paired) > 1 else (0.0, 0)


def monotone(levels: Sequence[Level], reference: Level) -> tuple[list[Level], Array]:
    """The reference and the levels, by sparsity, and the least-squares fit to their scores that never rises."""
    parts = sorted([reference, *levels], key=lambda part: part.sparsity)
    means, weights = [part.scores.mean() for part in parts], [len(part.scores) for part in parts]
    return parts, optimize.isotonic_regression(means, weights=weights, increasing=False).x


# --------------------------------------------------------------------------------- table


def levels(curves: Sequence[Curve], level: float) -> pd.DataFrame:
    """A row per curve and level, and one for its reference: the mean score relative to that of the reference.

    Columns: architecture, mechanism, configuration, sparsity (mean over seeds), relative (mean score ÷ mean score of
    the reference, 1 for the reference), low and high (t interval at `level`, from `differences`; missing for the
    reference), fitted (`monotone`, relative; missing for the mechanism NONE, whose activations are no curve), and n
    (seeds). Curves whose reference has no positive score or fewer than MIN_SEEDS seeds have no rows.
    """
    rows = []
    for curve in curves:
        reference = curve.reference
        if len(reference.scores) < MIN_SEEDS or not reference.scores.mean() > 0:
            continue
        scale = reference.scores.mean()
        parts, fitted = monotone(curve.levels, reference)
        relative = np.array([part.scores.mean() for part in curve.levels]) / scale
        half = dict.fromkeys([reference.configuration], np.nan)
        if curve.levels:
            found = differences(curve.levels, reference, relative)
            widths = stats.t.ppf(0.5 + level / 2, found.freedom) * found.errors / scale
            half |= {part.configuration: width for part, width in zip(curve.levels, widths, strict=True)}
        for part, height in zip(parts, fitted, strict=True):
            value, width = part.scores.mean() / scale, half[part.configuration]
            row: dict[str, str | float] = {"architecture": curve.architecture, "mechanism": curve.mechanism}
            row |= {"configuration": part.configuration, "sparsity": part.sparsity, "relative": value}
            row |= {"low": value - width, "high": value + width, "n": len(part.scores)}
            rows.append(row | {"fitted": np.nan if curve.mechanism == NONE else height / scale})
    columns = ["architecture", "mechanism", "configuration", "sparsity", "relative", "low", "high", "fitted", "n"]
    return pd.DataFrame(rows, columns=columns)
