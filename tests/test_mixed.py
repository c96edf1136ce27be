"""The model of groups that share blocks: against SciPy's tests, a published analysis, and the plain formulas."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from sparsity_cliff.analysis.mixed import fit

Array = NDArray[np.float64]
DIFFERENCE = np.array([[1.0, -1.0]])


def drawn(seed: int, block_sd: float, shift: float = 0.0) -> tuple[list[Array], list[list[int]]]:
    """Three groups in some of nine blocks, with errors of sd 1."""
    random = np.random.default_rng(seed)
    blocks = [[*range(9)], [*range(4)], [1, 2, 5]]
    effects = shift + random.normal(0, block_sd, 9)
    return [effects[own] + place + random.normal(size=len(own)) for place, own in enumerate(blocks)], blocks


def test_two_groups_in_the_same_blocks_are_compared_in_pairs() -> None:
    values, _ = drawn(0, 3.0)
    one = values[0]
    two = one + np.random.default_rng(1).normal(0.4, 0.5, 9)
    estimate, variance, freedom = fit([one, two], [range(9)] * 2).contrasts(DIFFERENCE)
    paired = stats.ttest_rel(one, two)
    assert (estimate / np.sqrt(variance)).item() == pytest.approx(paired.statistic)
    assert freedom.item() == pytest.approx(paired.df)


def test_groups_without_a_common_block_are_independent_samples() -> None:
    one, two = drawn(0, 0.0)[0][:2]
    estimate, variance, freedom = fit([one, two], [range(9), range(9, 13)]).contrasts(DIFFERENCE)
    assert (estimate / np.sqrt(variance)).item() == pytest.approx(stats.ttest_ind(one, two).statistic)
    assert freedom.item() == pytest.approx(11)


def test_blocks_that_differ_less_than_errors_do_count_as_no_blocks() -> None:
    """The second group is high where the first is low, so the best variance between blocks is 0."""
    one, two = np.array([1.0, 2, 3, 4]), np.array([4.5, 3, 2, 1])
    found = fit([one, two], [range(4)] * 2)
    assert found.block == 0
    estimate, variance, freedom = found.contrasts(DIFFERENCE)
    assert (estimate / np.sqrt(variance)).item() == pytest.approx(stats.ttest_ind(one, two).statistic)
    assert freedom.item() == pytest.approx(6)


def test_it_is_the_published_analysis_of_the_dyestuff_data() -> None:
    """Yields of five preparations of each of six batches (Davies & Goldsmith 1972, table 6.1).

    R's lme4 has mean 1527.5 with standard error 19.38, and standard deviations 42.00 and 49.51 (Bates et al. 2015,
    documentation of the data set). In a balanced design, the mean has the degrees of freedom of the batches.
    """
    batches = [
        *([1545, 1440, 1440, 1520, 1580], [1540, 1555, 1490, 1560, 1495], [1595, 1550, 1605, 1510, 1560]),
        *([1445, 1440, 1595, 1465, 1545], [1595, 1630, 1515, 1635, 1625], [1520, 1455, 1450, 1480, 1445]),
    ]
    found = fit([np.ravel(batches).astype(float)], [np.repeat(range(6), 5)])
    mean, variance, freedom = found.contrasts(np.ones((1, 1)))
    assert mean.item() == pytest.approx(1527.5)
    assert np.sqrt([variance.item(), found.block, found.error]) == pytest.approx([19.38, 42.00, 49.51], abs=0.01)
    assert freedom.item() == pytest.approx(5)


@pytest.mark.parametrize("seed", range(3))
def test_unbalanced_groups_are_as_the_plain_formulas_have_them(seed: int) -> None:
    """With the covariance V of all values: likelihood, weighted least squares, and the expected information."""
    values, blocks = drawn(seed, 2.0)
    y = np.concatenate(values)
    groups = np.repeat(np.eye(3), [len(own) for own in values], axis=0)
    members = np.eye(9)[np.concatenate(blocks)]
    parts = [np.eye(len(y)), members @ members.T]

    def model(variances: Array) -> tuple[Array, Array, Array]:
        inverse = np.linalg.inv(variances[0] * parts[0] + variances[1] * parts[1])
        covariance = np.linalg.inv(groups.T @ inverse @ groups)
        projection = inverse - inverse @ groups @ covariance @ groups.T @ inverse
        return inverse, covariance, projection

    def depth(logarithms: Array) -> float:
        inverse, covariance, projection = model(np.exp(logarithms))
        return float(y @ projection @ y - np.linalg.slogdet(inverse)[1] - np.linalg.slogdet(covariance)[1])

    best = optimize.minimize(depth, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    found = fit(values, blocks)
    assert [found.error, found.block] == pytest.approx(np.exp(best.x), rel=1e-3)
    inverse, covariance, projection = model(np.array([found.error, found.block]))
    assert found.means == pytest.approx(covariance @ groups.T @ inverse @ y)
    assert found.covariance == pytest.approx(covariance)
    information = [[np.trace(projection @ one @ projection @ two) / 2 for one in parts] for two in parts]
    assert found.uncertainty == pytest.approx(np.linalg.inv(information))
    slopes = [covariance @ groups.T @ inverse @ part @ inverse @ groups @ covariance for part in parts]
    assert found.slopes == pytest.approx(np.array(slopes))


def test_a_group_is_adjusted_for_the_blocks_that_it_lacks() -> None:
    """Blocks differ by 10 and errors by 0.01, so the mean of the group in the two low blocks is not theirs."""
    blocks = np.array([0.0, 0.0, 10.0, 10.0])
    errors = np.array([0.01, -0.01, 0.01, -0.01])
    found = fit([blocks + errors, blocks[:2] + 1 - errors[:2]], [range(4), range(2)])
    assert found.means == pytest.approx([5, 6], abs=0.02)


def test_equal_values_have_no_error() -> None:
    found = fit([np.full(3, 0.7), np.full(2, 0.5)], [range(3), range(2)])
    assert found.means == pytest.approx([0.7, 0.5])
    assert found.block == 0
    assert found.contrasts(DIFFERENCE)[1].item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("block_sd", [0.0, 3.0])
def test_tests_at_5_percent_are_wrong_in_about_5_percent(block_sd: float) -> None:
    """A count of 300 is between 4 and 29 with probability 99.9 %."""
    random = np.random.default_rng(0)
    weights, wrong = np.array([[1, 0, 0, 0, 0, 0, -0.9]]), 0
    for _ in range(300):
        effects = 5 + random.normal(0, block_sd, 8)
        values = [effects[:3] + random.normal(size=3) for _ in range(6)] + [effects + random.normal(size=8)]
        estimate, variance, freedom = fit(values, [range(3)] * 6 + [range(8)]).contrasts(weights)
        wrong += abs(estimate.item() - 0.5) > stats.t.ppf(0.975, freedom.item()) * variance.item() ** 0.5
    assert 4 <= wrong <= 29


def test_the_variance_between_blocks_narrows_the_comparison_within_them() -> None:
    values, blocks = drawn(0, 10.0)
    weights = np.array([[1.0, -1.0, 0.0]])
    apart = [[(place, name) for name in own] for place, own in enumerate(blocks)]
    together, separate = (fit(values, names).contrasts(weights)[1].item() for names in (blocks, apart))
    assert together < separate / 10
