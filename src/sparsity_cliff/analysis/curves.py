"""Curves of score against sparsity: the levels that one mechanism reaches in one architecture, and their reference.

A mechanism is a way of making zeros at a chosen level, such as Top-K of one base. The reference is the same
architecture with the baseline activation, whose score is to be kept. The seeds are the units of all tests. Levels are
compared within seeds where seeds differ, because a seed gives all levels the same batches and initial weights.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from sparsity_cliff.analysis import mixed

Array = NDArray[np.float64]
Known = Mapping[tuple[str, int], NDArray[np.float32]]  # (run, seed) -> scores of the held-out examples

MIN_SEEDS = 2  # of a level and of the reference: one does not show how much seeds differ
#: Columns of `Curve.design`.
DESIGN = ["architecture", "mechanism", "n_levels", "n_seeds", "n_reference", "sparsity_min", "sparsity_max"]
NEAR = 3  # neighboring levels that share their variances
NONE = "none"  # the mechanism of an architecture without a control of sparsity


class Level(NamedTuple):
    """Scores at one level of sparsity, or of the reference."""

    sparsity: float  # measured, mean over seeds
    scores: Array  # (seeds,)
    examples: Array | None = None  # (examples,): score of each, mean over seeds; nan or None: unknown
    configuration: str = ""
    seeds: Array | None = None  # (seeds,): their numbers; None: shared with no other level


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
    sparsity = float(part["sparsity"].mean()) if len(part) else np.nan
    return Level(sparsity, scores, examples, configuration, part["seed"].to_numpy(np.float64))


# --------------------------------------------------------------------------------- tests


class Fitted(NamedTuple):
    """The levels of a curve by sparsity, their reference, and the models that `mixed.fit` finds for them."""

    levels: list[Level]
    reference: Level
    model: mixed.Fit  # of all levels in their order, then of the reference
    near: list[mixed.Fit]  # of the levels i to i + span - 1 and the reference, at place i
    span: int

    @property
    def means(self) -> Array:
        """Mean scores of the levels (levels,), adjusted for seeds that a level lacks."""
        return self.model.means[:-1]

    @property
    def scale(self) -> float:
        """Mean score of the reference."""
        return float(self.model.means[-1])


class Differences(NamedTuple):
    """Differences level - kept · reference, each (levels,)."""

    estimates: Array
    errors: Array  # standard errors
    freedom: Array  # degrees of freedom of t

    @property
    def t(self) -> Array:
        """Estimates in standard errors."""
        return self.estimates / np.maximum(self.errors, 1e-9)


def fit(levels: Sequence[Level], reference: Level, span: int = NEAR) -> Fitted:
    """Means of levels and their reference, which share a variance between seeds and one of errors.

    A level has few seeds, so its errors are judged with those of its neighbors: the variances of a difference are of
    `span` levels around it and the reference. They are not of all levels, because where the score collapses, runs
    differ many times as much as elsewhere.
    """
    levels = sorted(levels, key=lambda part: part.sparsity)
    span = min(span, len(levels))
    model = _model([*levels, reference])
    starts = range(len(levels) - span + 1)
    near = [model] if len(starts) == 1 else [_model([*levels[i : i + span], reference]) for i in starts]
    return Fitted(levels, reference, model, near, span)


def _model(parts: Sequence[Level]) -> mixed.Fit:
    seeds = [
        [(place, i) for i in range(len(part.scores))] if part.seeds is None else list(part.seeds)
        for place, part in enumerate(parts)
    ]
    return mixed.fit([part.scores for part in parts], seeds)


def differences(fitted: Fitted, kept: float | Array, weights: Array | None = None) -> Differences:
    """Differences level - kept · reference. kept: a number, or one per level.

    weights (differences, levels): means of up to `fitted.span` neighboring levels in place of each level; the rows sum
    to 1. The variance due to the sample of held-out examples is added to that between seeds, with the degrees of
    freedom of Satterthwaite (1946).
    """
    weights = np.eye(len(fitted.levels)) if weights is None else weights
    kept = np.broadcast_to(kept, len(weights))
    rows = [_difference(fitted, share, row) for share, row in zip(kept, weights, strict=True)]
    return Differences(*np.array(rows, np.float64).reshape(-1, 3).T)


def _difference(fitted: Fitted, kept: float, weights: Array) -> tuple[float, float, float]:
    """The fields of `Differences` for one difference."""
    used = np.flatnonzero(weights)
    middle = (used[0] + used[-1]) // 2
    start = int(np.clip(middle - fitted.span // 2, 0, len(fitted.near) - 1))
    contrast = np.append(weights[start : start + fitted.span], -kept)
    estimate, between, freedom = (part.item() for part in fitted.near[start].contrasts(contrast[None]))
    sampled, examples = _sampling(_examples(fitted.levels, weights), fitted.reference.examples, kept)
    squares = between**2 / freedom + sampled**2 / max(examples - 1, 1)
    combined = (between + sampled) ** 2 / max(squares, 1e-300)
    return estimate, (between + sampled) ** 0.5, max(combined, 1.0)


def _examples(levels: Sequence[Level], weights: Array) -> Array | None:
    """Scores of the held-out examples, mean over levels; None if a level with a weight has none."""
    some = [(part.examples, weight) for part, weight in zip(levels, weights, strict=True) if weight]
    known = [(examples, weight) for examples, weight in some if examples is not None]
    if not known or len(known) < len(some):
        return None
    shared = min(len(examples) for examples, _ in known)  # the last examples may have no score
    return np.asarray(sum(weight * examples[:shared] for examples, weight in known))


def _sampling(level: Array | None, reference: Array | None, kept: float) -> tuple[float, int]:
    """Variance of a difference that is due to the sample of held-out examples, and their number.

    Both networks are judged on the same examples, so it is the variance of the paired differences. It is 0 if fewer
    than two examples have a known score of both.
    """
    if level is None or reference is None:
        return 0.0, 0
    shared = min(len(level), len(reference))
    paired = level[:shared] - kept * reference[:shared]
    paired = paired[np.isfinite(paired)]
    return (float(paired.var(ddof=1) / len(paired)), len(paired)) if len(paired) > 1 else (0.0, 0)


def monotone(fitted: Fitted) -> tuple[list[Level], Array, Array]:
    """(the reference and the levels, by sparsity; their means; the least-squares fit to these that never rises)."""
    every = [*zip(fitted.levels, fitted.means, strict=True), (fitted.reference, fitted.scale)]
    every.sort(key=lambda one: one[0].sparsity)
    parts, means = [part for part, _ in every], np.array([mean for _, mean in every])
    weights = [len(part.scores) for part in parts]
    return parts, means, optimize.isotonic_regression(means, weights=weights, increasing=False).x


# --------------------------------------------------------------------------------- table


def levels(curves: Sequence[Curve], level: float) -> pd.DataFrame:
    """A row per curve and level, and one for its reference: the mean score relative to that of the reference.

    Columns: architecture, mechanism, configuration, sparsity (mean over seeds), relative (mean score ÷ mean score of
    the reference, both from `fit`; 1 for the reference), low and high (t interval at `level`, from `differences`;
    missing for the reference), fitted (`monotone`, relative; missing for the mechanism NONE, whose activations are no
    curve), and n (seeds). Curves whose reference has no positive score or fewer than MIN_SEEDS seeds have no rows.
    """
    rows = []
    for curve in curves:
        reference = curve.reference
        if len(reference.scores) < MIN_SEEDS or not reference.scores.mean() > 0:
            continue
        fitted = fit(curve.levels, reference, len(curve.levels) if curve.mechanism == NONE else NEAR)
        parts, means, heights = monotone(fitted)
        half = dict.fromkeys([reference.configuration], np.nan)
        if curve.levels:
            found = differences(fitted, fitted.means / fitted.scale)
            widths = stats.t.ppf(0.5 + level / 2, found.freedom) * found.errors / fitted.scale
            half |= {part.configuration: width for part, width in zip(fitted.levels, widths, strict=True)}
        for part, mean, height in zip(parts, means, heights, strict=True):
            value, width = mean / fitted.scale, half[part.configuration]
            row: dict[str, str | float] = {"architecture": curve.architecture, "mechanism": curve.mechanism}
            row |= {"configuration": part.configuration, "sparsity": part.sparsity, "relative": value}
            row |= {"low": value - width, "high": value + width, "n": len(part.scores)}
            rows.append(row | {"fitted": np.nan if curve.mechanism == NONE else height / fitted.scale})
    columns = ["architecture", "mechanism", "configuration", "sparsity", "relative", "low", "high", "fitted", "n"]
    return pd.DataFrame(rows, columns=columns)
