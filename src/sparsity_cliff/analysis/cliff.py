"""The cliff: where the score starts to fall as activation sparsity grows, with an interval and a verdict.

Input: one row per trained model, with `architecture`, `configuration`, `seed`, `sparsity` (measured share of exact
zeros, 0 to 1), and `score` (accuracy or another score). Output: a `Cliff` per architecture, and one pooled on the
relative score. All functions are pure.

The unit of evidence is the configuration. Its seeds are averaged, because they do not show how far a configuration is
from the curve. Every interval and p value comes from a wild bootstrap over configurations. docs/cliff.md explains the
method and its alternatives, and shows how often it is right on curves whose truth is known.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

NAN = float("nan")
Array = NDArray[np.float64]
Verdict = Literal["cliff", "no cliff in the range measured", "smooth decline", "too few runs"]

# AICc of the five-parameter models needs n > 6; at 7, its correction exceeds any fit. Coverage is measured from 8 on.
MIN_CONFIGURATIONS = 8
MIN_SEEDS = 2  # a single seed cannot show whether training is repeatable
MIN_LEVELS = 6  # distinct sparsities, rounded to 0.01: EDGE_LEVELS on each side of a break, and two next to it
EDGE_LEVELS = 2  # levels strictly beyond a break, because one level cannot distinguish a fall from an outlier
STEP = 0.005  # maximum distance of candidate breaks; every second one is a hypothesis of the interval
# Among called cliffs alone, intervals cover less than their level, because lucky curves are called more often. The
# correction (Benjamini and Yekutieli 2005) multiplies 1 - level by the share of called curves, 0.4 in the benchmark.
SELECTED = 0.4
FLOOR = 1e-18  # mean square of a perfect fit: 1e-9 of the score, above float noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cliff:
    """A verdict and the numbers behind it. `dataclasses.asdict` gives a row of the table.

    With the verdict "cliff", the score starts to fall at `break_at`, and `low` to `high` is the interval. With other
    verdicts, these numbers describe the best broken line and are evidence, not a finding; they are nan if nothing could
    be fitted. Slopes are in units of `value` per unit of sparsity.
    """

    architecture: str  # its name, or "pooled"
    value: str  # the column that was fitted
    verdict: Verdict = "too few runs"
    bends: bool = False  # whether a broken line is significantly better than a straight one and bends down
    reason: str  # a sentence with the deciding numbers
    break_at: float = NAN
    low: float = NAN
    high: float = NAN
    level: float  # of the interval and the tests
    slope_before: float = NAN
    slope_after: float = NAN
    p_break: float = NAN  # a broken line against a straight one
    p_fall: float = NAN  # a straight line against a flat one, two-sided
    slope: float = NAN  # of the straight line
    smooth: str = "none"  # best smooth curve by AICc: quadratic, power, or logistic
    aicc_line: float = NAN
    aicc_smooth: float = NAN
    aicc_broken: float = NAN
    bic_line: float = NAN
    bic_smooth: float = NAN
    bic_broken: float = NAN
    model: str = "none"  # drawn by `curve`: broken, line, quadratic, power, or logistic
    n_points: int
    n_configurations: int  # pairs of configuration and architecture
    n_seeds: int
    n_architectures: int
    sparsity_min: float  # over configurations
    sparsity_max: float
    search_min: float = NAN  # breaks are located strictly between search_min and search_max
    search_max: float = NAN


# --------------------------------------------------------------------------------- the five curves
#
# Each curve is a level (and a slope, if `lines` is 2) plus a height times one column that depends on a shape:
# value = level (+ slope x) + height column(x; shape). For a given shape, the fit is linear least squares. Shapes are
# searched on a grid, so that a thousand bootstrap fits are one matrix product. The point fit is then refined.


class _Model(NamedTuple):
    name: str
    lines: int  # columns without a shape: 1 for a level, 2 for a level and a slope
    column: Callable[[Array, Array], Array]  # x (n,), shapes (g, d) -> (n, g)
    shapes: Array  # (g, d)

    @property
    def parameters(self) -> int:
        """Number of parameters: those of the mean, plus the variance."""
        return self.lines + 1 + len(self.shapes[0]) + 1


class _Fit(NamedTuple):
    model: _Model
    shape: Array  # (1, d)
    coefficients: Array  # (lines + 1,): level, slope if any, height
    fitted: Array  # (n,)
    rss: float

    def at(self, x: Array) -> Array:
        return _design(self.model, x, self.shape) @ self.coefficients


def _hinge(x: Array, shapes: Array) -> Array:
    return np.maximum(x[:, None] - shapes[:, 0], 0.0)


def _logistic(x: Array, shapes: Array) -> Array:
    middle, width = shapes.T
    return np.asarray(special.expit((x[:, None] - middle) / width))


_NO_SHAPE = np.empty((1, 0))
_LINE = _Model("line", 1, lambda x, _: x[:, None], _NO_SHAPE)
# Exponents above 30, and logistic widths below 0.05 (10 % to 90 % of the fall within 0.22 of sparsity), would in effect
# be cliffs. The middle may be above 1, if only the beginning of a fall is seen.
_SMOOTH = (
    _Model("quadratic", 2, lambda x, _: x[:, None] ** 2, _NO_SHAPE),
    _Model("power", 1, lambda x, shapes: x[:, None] ** shapes[:, 0], np.geomspace(1.05, 30, 60)[:, None]),
    _Model(
        "logistic",
        1,
        _logistic,
        np.array([(m, w) for m in np.linspace(0, 1.4, 57) for w in np.geomspace(0.05, 0.5, 8)]),
    ),
)


def _broken(search_min: float, search_max: float) -> _Model:
    """The broken line, with an odd number of evenly spaced breaks, so that every second one covers both ends."""
    halves = int(np.ceil((search_max - search_min) / (2 * STEP)))
    return _Model("broken", 2, _hinge, np.linspace(search_min, search_max, 2 * halves + 1)[:, None])


def _design(model: _Model, x: Array, shape: Array) -> Array:
    return np.column_stack([x[:, None] ** np.arange(model.lines), model.column(x, shape)])


def _project(model: _Model, x: Array) -> tuple[Array, Array]:
    """(basis, columns) for least squares.

    basis (n, lines): orthonormal basis of the columns without a shape. columns (n, g): the shaped columns, orthogonal
    to the basis and of length 1, or 0 if the data cannot distinguish them from the basis.
    """
    basis = np.linalg.qr(x[:, None] ** np.arange(model.lines))[0]
    columns = model.column(x, model.shapes)
    columns = columns - basis @ (basis.T @ columns)
    length = np.linalg.norm(columns, axis=0)
    return basis, np.divide(columns, length, out=np.zeros_like(columns), where=length > 1e-9)


def _leverage(basis: Array, column: Array) -> Array:
    """Leverage of each point on its own fitted value, (n,). Capped below 1 for a point that alone fixes a parameter."""
    return np.asarray(np.minimum((basis**2).sum(axis=1) + column**2, 1 - 1e-6))


def _least_squares(model: _Model, x: Array, y: Array, shape: Array) -> _Fit:
    design = _design(model, x, shape)
    coefficients = np.asarray(np.linalg.lstsq(design, y, rcond=None)[0], np.float64)
    fitted = design @ coefficients
    return _Fit(model, shape, coefficients, fitted, float(((y - fitted) ** 2).sum()))


def _fit(model: _Model, x: Array, y: Array) -> _Fit:
    basis, columns = _project(model, x)
    best = int(np.argmax((columns.T @ (y - basis @ (basis.T @ y))) ** 2))
    coarse = _least_squares(model, x, y, model.shapes[[best]])
    if not coarse.shape.size:
        return coarse

    def rss(shape: Array) -> float:
        return _least_squares(model, x, y, shape[None, :]).rss

    bounds = optimize.Bounds(model.shapes.min(axis=0), model.shapes.max(axis=0))
    polished = optimize.minimize(
        rss, coarse.shape[0], method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-6, "fatol": 1e-12}
    )
    fine = _least_squares(model, x, y, np.asarray(polished.x)[None, :])
    return fine if fine.rss < coarse.rss else coarse


def _aicc(fit: _Fit) -> float:
    n, k = len(fit.fitted), fit.model.parameters
    return n * float(np.log(max(fit.rss / n, FLOOR))) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _bic(fit: _Fit) -> float:
    n, k = len(fit.fitted), fit.model.parameters
    return n * float(np.log(max(fit.rss / n, FLOOR))) + k * float(np.log(n))


# --------------------------------------------------------------------------------- tests and interval


def _signs(n: int, resamples: int, seed: int) -> Array:
    """Rademacher multipliers (n, resamples). Each resample flips the residuals of a random half of the clusters."""
    return np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(n, resamples))


def _gain(columns: Array, remainder: Array, null: int | None = None) -> Array:
    """Improvement of the best column over no column, or over column `null`: F without its constants, (b,).

    remainder (n, b): residuals of the basis.
    """
    explained = (columns.T @ remainder) ** 2
    best = explained.max(axis=0)
    unexplained = np.maximum((remainder**2).sum(axis=0) - best, FLOOR * len(remainder))
    return np.asarray((best - (0 if null is None else explained[null])) / unexplained)


def _p_value(observed: float, drawn: Array) -> float:
    """Share of draws that are at least as large, including the observed one. Rounding differences count as equal."""
    return float((1 + np.sum(drawn >= observed * (1 - 1e-9) - 1e-9)) / (1 + len(drawn)))


def _p_column(model: _Model, x: Array, y: Array, signs: Array) -> float:
    """p value of the model's column, with its best shape, against its basis alone (Hansen 1996)."""
    basis, columns = _project(model, x)
    remainder = y - basis @ (basis.T @ y)
    residual = remainder / np.sqrt(1 - _leverage(basis, np.zeros(len(x))))
    drawn = signs * residual[:, None]
    drawn -= basis @ (basis.T @ drawn)
    return _p_value(float(_gain(columns, remainder[:, None])[0]), _gain(columns, drawn))


def _interval(model: _Model, x: Array, y: Array, signs: Array, level: float) -> tuple[float, float, bool]:
    """The interval of breaks that the data do not reject: low, high, and whether both ends of the search are rejected.

    Every second candidate is tested as if it were the true break: the residuals of the fit with this break, scaled for
    leverage and with random signs, are added to the fit. low and high are the rejected candidates next to the outermost
    accepted ones, so the spacing of candidates can only widen the interval.
    """
    basis, columns = _project(model, x)
    remainder = y - basis @ (basis.T @ y)
    heights = columns.T @ remainder
    best = int(np.argmax(heights**2))
    hypotheses = range(0, len(model.shapes), 2)
    accepted = np.zeros(len(hypotheses), dtype=bool)
    for i, null in enumerate(hypotheses):
        observed = float(_gain(columns, remainder[:, None], null)[0])
        fitted = columns[:, null] * heights[null]
        leverage = _leverage(basis, columns[:, null])
        drawn = fitted[:, None] + signs * ((remainder - fitted) / np.sqrt(1 - leverage))[:, None]
        drawn -= basis @ (basis.T @ drawn)
        accepted[i] = _p_value(observed, _gain(columns, drawn, null)) > 1 - level
    accepted[[best // 2, (best + 1) // 2]] = True  # the estimate, or its two neighbors
    inside = np.flatnonzero(accepted)
    breaks = model.shapes[::2, 0]
    low, high = breaks[max(inside[0] - 1, 0)], breaks[min(inside[-1] + 1, len(breaks) - 1)]
    return float(low), float(high), not (accepted[0] or accepted[-1])


def _jackknife(estimate: Callable[[NDArray[np.bool_]], Array], groups: NDArray[np.object_], level: float) -> Array:
    """Half-width of the t interval from leaving out one architecture at a time; 0 for a single architecture.

    It covers differences between the curves of architectures, which configurations cannot show.
    """
    names = np.unique(groups)
    if len(names) == 1:
        return np.zeros(1)
    left_out = np.array([estimate(groups != name) for name in names])
    squares = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0) * (len(names) - 1) / len(names)
    return np.asarray(stats.t.ppf(0.5 + level / 2, len(names) - 1) * np.sqrt(squares))


# --------------------------------------------------------------------------------- public


def relative_score(points: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Add `relative_score`: the score divided by the mean score of the architecture's dense configuration `baseline`.

    It is missing for an architecture if no baseline run finished, or if their mean score is 0.
    """
    dense = points[points["configuration"].astype(str) == baseline]
    means = dense.groupby(dense["architecture"].astype(str))["score"].mean()
    means = means.where(means > 0)
    return points.assign(relative_score=points["score"] / points["architecture"].astype(str).map(means).astype(float))


def _unlocated(points: pd.DataFrame, means: pd.DataFrame, levels: int, value: str, level: float) -> Cliff:
    """The result before any fit: the numbers of points, with the verdict "too few runs"."""
    names, seeds = means["architecture"].unique(), points["seed"].nunique()
    return Cliff(
        architecture=str(names[0]) if len(names) == 1 else "pooled",
        value=value,
        reason=f"{len(means)} configurations at {levels} levels of sparsity with {seeds} seeds; at least "
        f"{MIN_CONFIGURATIONS}, {MIN_LEVELS} and {MIN_SEEDS} are needed",
        level=level,
        n_points=len(points),
        n_configurations=len(means),
        n_seeds=seeds,
        n_architectures=len(names),
        sparsity_min=float(means["sparsity"].min()),
        sparsity_max=float(means["sparsity"].max()),
    )


def locate(
    points: pd.DataFrame, *, value: str = "score", level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Cliff:
    """The cliff in the points of one architecture, or of several architectures pooled.

    value: the column to fit. level: of the interval; 1 - level is that of the tests. Raises ValueError for a column
    that is missing, not finite, or out of range; drop diverged runs first.
    """
    _check(points, value)
    _check_options(level, resamples)
    means = _configurations(points, value)
    x, y = means["sparsity"].to_numpy(np.float64), means[value].to_numpy(np.float64)
    groups = means["architecture"].to_numpy(object)

    # too few?
    levels = np.unique(x.round(2))
    found = _unlocated(points, means, len(levels), value, level)
    if len(x) < MIN_CONFIGURATIONS or len(levels) < MIN_LEVELS or found.n_seeds < MIN_SEEDS:
        return found

    # fits
    search_min, search_max = float(levels[EDGE_LEVELS]), float(levels[-1 - EDGE_LEVELS])
    broken = _broken(search_min, search_max)
    line, best, smooth = _fit(_LINE, x, y), _fit(broken, x, y), [_fit(model, x, y) for model in _SMOOTH]
    smoothest = min(smooth, key=_aicc)
    before, kink = best.coefficients[1:]

    # interval: the breaks that the configurations do not reject, widened to the spread between architectures
    signs = _signs(len(x), resamples, seed)
    strict = 1 - SELECTED * (1 - level)
    break_at = float(best.shape[0, 0])
    low, high, located = _interval(broken, x, y, signs, strict)
    half = float(_jackknife(lambda keep: _fit(broken, x[keep], y[keep]).shape[0], groups, strict)[0])
    low, high = min(low, break_at - half), max(high, break_at + half)

    found = dataclasses.replace(
        found,
        break_at=break_at,
        low=max(low, search_min),
        high=min(high, search_max),
        slope_before=float(before),
        slope_after=float(before + kink),
        p_break=_p_column(broken, x, y, signs),
        p_fall=_p_column(_LINE, x, y, signs),
        slope=float(line.coefficients[1]),
        smooth=smoothest.model.name,
        aicc_line=_aicc(line),
        aicc_smooth=_aicc(smoothest),
        aicc_broken=_aicc(best),
        bic_line=_bic(line),
        bic_smooth=min(map(_bic, smooth)),
        bic_broken=_bic(best),
        search_min=search_min,
        search_max=search_max,
    )
    bends = found.p_break <= 1 - level and found.slope_after < min(found.slope_before, 0)
    found = dataclasses.replace(found, bends=bends)
    verdict, reason = _decide(found, located, common=search_min <= low and high <= search_max)
    drawn = best if verdict == "cliff" else min([line, *smooth], key=_aicc)
    return dataclasses.replace(found, verdict=verdict, reason=reason, model=drawn.model.name)


def curve(
    points: pd.DataFrame,
    cliff: Cliff,
    *,
    value: str = "score",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The curve to draw for a verdict that `locate` returned for the same points, with a pointwise bootstrap band.

    Columns: sparsity, fitted, low, high. It is the broken line for "cliff", and otherwise the best curve without a
    break. "too few runs" has no rows. Raises ValueError if `value` is not the column that was located.
    """
    _check(points, value)
    _check_options(cliff.level, resamples)
    if value != cliff.value:
        raise ValueError(f"the cliff was located on {cliff.value!r}, not on {value!r}")
    if cliff.model == "none":
        return pd.DataFrame(columns=["sparsity", "fitted", "low", "high"], dtype=np.float64)
    means = _configurations(points, value)
    x, y = means["sparsity"].to_numpy(np.float64), means[value].to_numpy(np.float64)
    models = {model.name: model for model in (_LINE, *_SMOOTH)}
    model = models.get(cliff.model) or _broken(cliff.search_min, cliff.search_max)
    fit = _fit(model, x, y)
    grid = np.linspace(x.min(), x.max(), 101)
    if model.name == "broken":
        grid = np.union1d(grid, fit.shape[0])
    off = _deviations(fit, x, y, grid, _signs(len(x), resamples, seed))
    half = np.quantile(np.abs(off), cliff.level, axis=1)
    tail, freedom = 0.5 + cliff.level / 2, len(x) - model.parameters + 1
    half *= stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)  # a t quantile, because configurations are few
    groups = means["architecture"].to_numpy(object)
    half = np.maximum(half, _jackknife(lambda keep: _fit(model, x[keep], y[keep]).at(grid), groups, cliff.level))
    fitted = fit.at(grid)
    return pd.DataFrame({"sparsity": grid, "fitted": fitted, "low": fitted - half, "high": fitted + half})


def cliffs(
    points: pd.DataFrame,
    *,
    baseline: str,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(verdicts, curves), with a verdict per architecture on the score, and one "pooled" on the relative score.

    baseline: the dense configuration to which scores are relative. An architecture without it is not pooled. The table
    of curves has the columns of `curve` after `architecture`, `value`, and `model`. Without points, both are empty.
    """
    points = relative_score(points, baseline)
    groups = points.groupby("architecture", observed=True, sort=False)
    parts = [(str(name), part, "score") for name, part in groups]
    relative = points[points["relative_score"].notna()]
    if len(relative):
        parts.append(("pooled", relative, "relative_score"))
    verdicts, curves = [], []
    for name, part, value in parts:
        found = locate(part, value=value, level=level, resamples=resamples, seed=seed)
        found = dataclasses.replace(found, architecture=name)
        drawn = curve(part, found, value=value, resamples=resamples, seed=seed)
        verdicts.append(dataclasses.asdict(found))
        curves.append(drawn.assign(architecture=name, value=value, model=found.model))
    columns = ["architecture", "value", "model", "sparsity", "fitted", "low", "high"]
    some = [frame for frame in curves if len(frame)] or curves[:1]  # an empty frame would change the others' types
    table = pd.DataFrame(verdicts, columns=[field.name for field in dataclasses.fields(Cliff)])
    return table, pd.concat(some, ignore_index=True)[columns] if some else pd.DataFrame(columns=columns)


# --------------------------------------------------------------------------------- details


def _decide(found: Cliff, located: bool, common: bool) -> tuple[Verdict, str]:
    """The verdict and its reason.

    located: whether the configurations reject a break at the edges of the search. common: whether the spread between
    architectures does.
    """
    alpha = 1 - found.level
    bends = found.bends
    lead = min(found.aicc_smooth - found.aicc_broken, found.bic_smooth - found.bic_broken)
    tests = f"break: p = {found.p_break:.2g}, fall: p = {found.p_fall:.2g}"
    ahead = f"{abs(lead):.1f} {'above' if lead < 0 else 'below'} a {found.smooth} curve's"
    edges = f"{found.search_min:.2f} to {found.search_max:.2f}"
    if bends and lead < 0:
        return "smooth decline", f"the score bends down, but the broken line's AICc or BIC is {ahead} ({tests})"
    if bends and not located:
        return "no cliff in the range measured", f"a break is not located inside {edges} ({tests})"
    if bends and not common:
        many = f"{found.n_architectures} architectures"
        return "too few runs", f"{many} are too few or too different to place a break inside {edges} ({tests})"
    if bends:
        return "cliff", f"the broken line's AICc and BIC are {ahead} or more ({tests})"
    if found.p_fall <= alpha and found.slope < 0:
        return "smooth decline", f"the score falls without a downward break ({tests})"
    return "no cliff in the range measured", f"neither a fall nor a downward break ({tests})"


def _deviations(fit: _Fit, x: Array, y: Array, grid: Array, signs: Array) -> Array:
    """Deviations of refits to wild resamples from the fit, (grid, resamples).

    Residuals are scaled by 1 / (1 - leverage), as in a jackknife, because a square root makes the band too narrow.
    """
    model = fit.model
    basis, columns = _project(model, x)
    column = _project(model._replace(shapes=fit.shape), x)[1][:, 0]
    leverage = _leverage(basis, column)
    drawn = fit.fitted[:, None] + signs * ((y - fit.fitted) / (1 - leverage))[:, None]
    remainder = drawn - basis @ (basis.T @ drawn)
    best = np.argmax((columns.T @ remainder) ** 2, axis=0)
    off = np.empty((len(grid), signs.shape[1]))
    for shape in np.unique(best):  # resamples with the same shape share a linear fit
        which = best == shape
        design = _design(model, x, model.shapes[[shape]])
        coefficients = np.linalg.lstsq(design, drawn[:, which], rcond=None)[0]
        off[:, which] = _design(model, grid, model.shapes[[shape]]) @ coefficients
    return off - fit.at(grid)[:, None]


def _configurations(points: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means over seeds, one row per architecture and configuration, sorted by name."""
    names = {name: points[name].astype(str) for name in ("architecture", "configuration")}
    groups = points.assign(**names).groupby(["architecture", "configuration"])
    return groups[["sparsity", value]].mean().reset_index()


def _check(points: pd.DataFrame, value: str) -> None:
    keys = ["architecture", "configuration", "seed"]
    for name in [*keys, "sparsity", value]:
        if name not in points.columns:
            raise ValueError(f"the points have no column {name!r}; they have {', '.join(map(str, points.columns))}")
    if points.empty:
        raise ValueError("there are no points")
    for name in keys:
        if points[name].isna().any():
            raise ValueError(f"the column {name!r} has missing values")
    for name in ("sparsity", value):
        bad = points[~np.isfinite(points[name].to_numpy(np.float64))]
        if len(bad):
            first = bad.iloc[0]
            raise ValueError(
                f"the column {name!r} is not finite in {len(bad)} rows (first: {first['architecture']}, "
                f"{first['configuration']}, seed {first['seed']}); drop diverged runs first"
            )
    if not points["sparsity"].between(0, 1).all():
        raise ValueError("the column 'sparsity' is a share of zeros: it must lie in 0..1")
    if points.duplicated(keys).any():
        first = points[points.duplicated(keys)].iloc[0]
        raise ValueError(f"two rows for {first['architecture']}, {first['configuration']}, seed {first['seed']}")


def _check_options(level: float, resamples: int) -> None:
    if not 0.5 <= level < 1:
        raise ValueError(f"level must lie in 0.5..1, not {level}")
    fewest = round(5 / (SELECTED * (1 - level)))  # 5 resamples beyond each end of the interval
    if resamples < fewest:
        raise ValueError(f"resamples = {resamples} are too few for level {level}: at least {fewest}")
