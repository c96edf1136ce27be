"""Cliff or gradual decline: stretches where the truth is known, every verdict, and how often verdicts are wrong."""

import numpy as np
import pandas as pd
import pytest
from invented import X, curve, points, reference
from scipy import stats

from sparsity_cliff.analysis import cliff, critical
from sparsity_cliff.analysis.cliff import cliffs, fall
from sparsity_cliff.analysis.curves import Level, curves, fit


def logistic(width: float, at: float = 0.8) -> np.ndarray:
    found: np.ndarray = 0.7 * (1 - 0.5 / (1 + np.exp(-(X - at) / width)))
    return found


@pytest.mark.parametrize("start", cliff.STARTS)
@pytest.mark.parametrize("means", [np.where(X < 0.8, 0.7, 0.55), logistic(0.01)], ids=["step", "steep logistic"])
def test_steps_and_steep_curves_are_cliffs(means: np.ndarray, start: float) -> None:
    found = fall(fit(curve(means, sd=1e-4), reference(sd=1e-4)), start)
    assert found.verdict == "cliff"
    assert 0 <= found.low <= found.stretch <= found.high <= cliff.ABRUPT


@pytest.mark.parametrize("start", cliff.STARTS)
def test_a_straight_fall_is_gradual_and_its_stretch_is_known(start: float) -> None:
    means = 0.7 * (1 - 0.3 * (X - 0.5))
    found = fall(fit(curve(means, sd=1e-5), reference(sd=1e-5)), start)
    true = (cliff.END - start) / 0.3
    assert found.verdict == "gradual decline"
    assert found.low <= true <= found.high
    assert found.stretch == pytest.approx(true, abs=0.005)


def test_a_score_that_does_not_fall_to_90_percent_has_no_cliff_in_the_range() -> None:
    found = fall(fit(curve(np.full(11, 0.7), sd=1e-3), reference(sd=1e-3)), 0.02)
    assert found.verdict == "no fall in the range measured"
    assert found.reason == "all levels lose less than 10 % of the score"
    assert np.isnan(found.stretch)
    assert np.isnan(found.high)
    assert found.low == 0


def test_a_slow_loss_is_gradual_even_if_it_does_not_reach_90_percent() -> None:
    means = 0.7 * (1 - 0.15 * (X - 0.5))  # 2 % lost at 63 % zeros, 7 % at 98 %
    found = fall(fit(curve(means, sd=1e-4), reference(sd=1e-4)), 0.02)
    assert (found.verdict, found.high) == ("gradual decline", pytest.approx(np.nan, nan_ok=True))


def test_noise_leaves_it_underpowered() -> None:
    found = fall(fit(curve(np.where(X < 0.8, 0.7, 0.55), sd=0.03), reference(sd=0.03)), 0.01)
    assert found.verdict == "underpowered"
    assert found.low <= cliff.ABRUPT
    assert not found.high <= cliff.ABRUPT
    assert "cannot tell whether the way from 99 to 90 % of the score takes more than 10 points" in found.reason


def test_one_outlying_level_decides_nothing() -> None:
    means = np.where(X < 0.8, 0.7, 0.55)
    quiet = fall(fit(curve(means, sd=1e-3), reference(sd=1e-3)), 0.02)
    for i in range(len(X)):
        changed = means.copy()
        changed[i] += 0.2 * (-1 if means[i] == 0.7 else 1)
        assert fall(fit(curve(changed, sd=1e-3), reference(sd=1e-3)), 0.02).verdict in (quiet.verdict, "underpowered")
    line = 0.7 * (1 - 0.3 * (X - 0.5))
    line[4] = 0.4
    assert fall(fit(curve(line, sd=1e-4), reference(sd=1e-4)), 0.02).verdict in ("gradual decline", "underpowered")


@pytest.mark.parametrize(("width", "wrong"), [(0.02, "gradual decline"), (0.12, "cliff")])
def test_wrong_verdicts_are_rarer_than_their_level(width: float, wrong: str) -> None:
    """From 98 to 90 %, the stretch is 1.8 widths: 3.6 and 21 points."""
    random, draws = np.random.default_rng(3), 200
    verdicts = []
    for _ in range(draws):
        means = logistic(width, random.uniform(0.65, 0.85))
        plateau = 0.7
        levels = [Level(float(x), random.normal(mean, 0.005, 4)) for x, mean in zip(X, means, strict=True)]
        verdicts.append(fall(fit(levels, Level(0.3, random.normal(plateau, 0.005, 12))), 0.02).verdict)
    assert verdicts.count(wrong) <= stats.binom.ppf(0.999, draws, 0.05)  # type: ignore[arg-type]


def test_the_interval_is_that_of_its_two_ends() -> None:
    levels, dense = curve(logistic(0.05), sd=0.004), reference(sd=0.004)
    first, last = (critical.locate(fit(levels, dense), share) for share in (0.02, cliff.END))
    found = fall(fit(levels, dense), 0.02)
    assert found.low == max(0, last.low - first.high)
    assert found.high == last.high - first.low


def test_the_table_has_a_row_per_curve_and_start() -> None:
    table = cliffs(curves(points(), None, "relu"), level=0.95)
    cells = [(a, m, s) for a in ("mlp", "vit") for m in ("topk", "quantile") for s in cliff.STARTS]
    assert list(zip(table["architecture"], table["mechanism"], table["start"], strict=True)) == cells
    own = table[(table["architecture"] == "mlp") & (table["mechanism"] == "topk")].iloc[1]
    assert own["verdict"] == "cliff"  # 98.6 % at 80 % zeros and 71 % at 90 %
    assert (own["n_levels"], own["n_seeds"], own["n_reference"], own["level"]) == (2, 5, 5, 0.95)


def test_too_few_runs_are_a_verdict() -> None:
    frame = points()
    table = cliffs(curves(frame[frame["configuration"] != "relu"], None, "relu"), level=0.95)
    assert set(table["verdict"]) == {"too few runs"}
    assert table["reason"].str.contains("0 seeds of the baseline").all()
    assert table[["stretch", "low", "high"]].isna().all(axis=None)


def test_without_points_the_table_is_empty_and_has_its_columns() -> None:
    table = cliffs(curves(points().iloc[:0], None, "relu"), level=0.95)
    assert table.empty
    assert "verdict" in table
    assert isinstance(table, pd.DataFrame)
