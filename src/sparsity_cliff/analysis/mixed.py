"""Means of groups that share blocks, such as the scores of levels of sparsity that share seeds.

The model is y = mean of the group + effect of the block + error. Effects and errors are normal, each with one variance.
The variances are estimated by restricted maximum likelihood (Patterson and Thompson 1971, Biometrika 58, 545), and
contrasts of means have the degrees of freedom of Satterthwaite (1946), as in R's lmerTest (Kuznetsova et al. 2017, J.
Stat. Softw. 82, 13). If the estimate of the variance between blocks is 0, the model is that of independent values with
a variance pooled over groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]


class Fit(NamedTuple):
    """Estimates for k groups."""

    means: Array  # (k,)
    covariance: Array  # (k, k), of the means
    error: float  # variance of the errors
    block: float  # variance of the effects of blocks
    slopes: Array  # (2, k, k): derivatives of the covariance by these two variances
    uncertainty: Array  # (2, 2): covariance of their estimates

    def contrasts(self, weights: Array) -> tuple[Array, Array, Array]:
        """(estimates, variances, degrees of freedom) of sums of the means with weights (contrasts, k)."""
        variances = np.einsum("ci,ij,cj->c", weights, self.covariance, weights)
        slopes = np.einsum("ci,vij,cj->cv", weights, self.slopes, weights)
        spread = np.einsum("cv,vw,cw->c", slopes, self.uncertainty, slopes)
        return weights @ self.means, variances, 2 * variances**2 / np.maximum(spread, 1e-300)


class _Sums(NamedTuple):
    """Of n values in k groups and m blocks, less the means of their groups. No block is in one group only."""

    n: int
    groups: Array  # (k,): values in each
    blocks: Array  # (m,): values in each
    cells: Array  # (k, m): values of each group in each block
    totals: Array  # (m,): sums of the values in each block
    squares: float  # sum of all squared values


def fit(values: Sequence[Array], blocks: Sequence[Sequence[object]]) -> Fit:
    """The model of groups with the values `values[i]` (values,) in the blocks `blocks[i]`.

    There must be more values than groups.
    """
    raw = np.array([group.mean() for group in values])
    names = [name for group in blocks for name in group]
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    row = np.repeat(np.arange(len(values)), [len(group) for group in values])
    column = np.array([number[name] for name in names])
    y = np.concatenate(values) - raw[row]
    cells = np.zeros((len(values), len(number)))
    np.add.at(cells, (row, column), 1)
    totals = np.bincount(column, y, len(number)).astype(np.float64)
    sums = _Sums(len(y), cells.sum(1), cells.sum(0), cells, totals, float(y @ y))
    ratio = _ratio(sums)
    shift, error = _solve(sums, ratio)[:2]
    return Fit(raw + shift, *_errors(sums, error, ratio))


def _solve(sums: _Sums, ratio: float) -> tuple[Array, float, float]:
    """(means, variance of the errors, -2 restricted log-likelihood less a constant), given block ÷ error variance."""
    shrunk = ratio / (1 + ratio * sums.blocks)
    weights = np.diag(sums.groups) - (sums.cells * shrunk) @ sums.cells.T
    right: Array = -(sums.cells * shrunk) @ sums.totals
    means = np.asarray(np.linalg.solve(weights, right), np.float64)
    freedom = sums.n - len(sums.groups)
    squares = float(sums.squares - shrunk @ sums.totals**2 - means @ right)
    error = max(squares / freedom, 1e-30)  # equal values have none
    depth = np.log1p(ratio * sums.blocks).sum() + np.linalg.slogdet(weights)[1]
    return means, error, float(freedom * np.log(error) + depth)


def _ratio(sums: _Sums) -> float:
    """The most likely ratio of the variance of blocks to that of errors."""
    if sums.squares < 1e-20 or (sums.blocks < 2).all():
        return 0.0

    def depth(logarithm: float) -> float:
        return _solve(sums, float(np.exp(logarithm)))[2]

    logarithms, none = np.arange(-4.0, 17.0, 2.0), _solve(sums, 0.0)[2]
    depths = [depth(one) for one in logarithms]
    best = int(np.argmin(depths))
    if depths[best] >= none:
        return 0.0
    around = logarithms[max(best - 1, 0)], logarithms[min(best + 1, len(logarithms) - 1)]
    return float(np.exp(optimize.minimize_scalar(depth, bounds=around, method="bounded").x))


def _errors(sums: _Sums, error: float, ratio: float) -> tuple[Array, float, float, Array, Array]:
    """The fields of `Fit` after the means. The information about the variances is the expected one."""
    block, freedom = ratio * error, sums.n - len(sums.groups)
    scale = 1 / (1 + ratio * sums.blocks)
    between = sums.cells * scale / error  # X' V⁻¹ Z, of groups X and blocks Z
    inner = (np.diag(sums.groups) - ratio * (sums.cells * scale) @ sums.cells.T) / error  # X' V⁻¹ X
    covariance = np.asarray(np.linalg.inv(inner), np.float64)
    by_block: Array = covariance @ between @ between.T @ covariance
    by_error: Array = (covariance - block * by_block) / error
    if not ratio:
        return covariance, error, block, np.stack([by_error, 0 * by_block]), np.diag([2 * error**2 / freedom, 0.0])
    known = np.diag(sums.blocks * scale / error) - between.T @ covariance @ between  # Z' P Z
    one, two = float(np.trace(known)), float((known**2).sum())
    mixed = (one - block * two) / error
    errors = ((freedom - block * one) / error - block * mixed) / error
    uncertainty: Array = 2 * np.linalg.inv(np.array([[errors, mixed], [mixed, two]]))
    return covariance, error, block, np.stack([by_error, by_block]), uncertainty
