"""Curves of score against sparsity: the tests of their levels against SciPy's, and the table of levels."""

import numpy as np
import pandas as pd
import pytest
from invented import points, reference, scores
from scipy import stats

from sparsity_cliff.analysis.curves import Level, curves, differences, fit, levels, monotone, others

# ------------------------------------------------------------------------------------------ the tests


@pytest.mark.parametrize("tolerance", [0.01, 0.05, 0.3])
def test_with_one_level_it_is_the_t_test_of_two_samples(tolerance: float) -> None:
    """With equal variances, as in SciPy's, because the reference's scores count with the factor that must be kept."""
    own, theirs = Level(0.8, scores(0.66, 5, 0.01, "a")), reference()
    kept = 1 - tolerance
    found = differences(fit([own], theirs), kept)
    pooled = (4 * own.scores.var(ddof=1) + 8 * theirs.scores.var(ddof=1)) / 12
    expected = (own.scores.mean() - kept * theirs.scores.mean()) / np.sqrt(pooled * (1 / 5 + kept**2 / 9))
    assert (found.t.item(), found.freedom.item()) == (pytest.approx(expected), pytest.approx(12))
    if tolerance == 0.01:  # nearly the same scale: SciPy's test of the scaled scores differs by its pooled variance
        scipys = stats.ttest_ind(own.scores, kept * theirs.scores).statistic
        assert found.t.item() == pytest.approx(scipys, rel=0.02)


def test_the_held_out_sample_widens_the_test_by_the_paired_differences() -> None:
    random = np.random.default_rng(0)
    right, worse = random.random(400), random.random(400)
    own, theirs = Level(0.8, scores(0.66, 5, 0.01, 1), worse), reference()._replace(examples=right)
    seeds_only = differences(fit([own._replace(examples=None)], theirs), 0.95)
    both = differences(fit([own], theirs), 0.95)
    sampled = stats.sem(worse - 0.95 * right)
    assert both.errors.item() ** 2 == pytest.approx(seeds_only.errors.item() ** 2 + sampled**2)
    assert both.estimates == seeds_only.estimates


def test_few_held_out_examples_leave_few_degrees_of_freedom() -> None:
    """With the variance of three examples only, the test is that of three paired differences."""
    own = Level(0.8, np.full(5, 0.6), np.array([0.5, 0.6, 0.7]))
    theirs = Level(0.5, np.full(9, 0.7), np.array([0.7, 0.6, 0.8]))
    found = differences(fit([own], theirs), 0.9)
    paired = own.examples - 0.9 * theirs.examples  # type: ignore[operator]
    assert found.freedom.item() == pytest.approx(2)
    assert found.t.item() == pytest.approx(stats.ttest_1samp(paired, 0).statistic)


def test_examples_without_a_score_are_left_out_and_others_paired_by_number() -> None:
    own, theirs = np.array([0.5, np.nan, 0.7, 0.9]), np.array([0.6, 0.8, 0.65, 0.7, 0.2])
    found = differences(fit([Level(0.8, np.full(3, 0.7), own)], Level(0.5, np.full(3, 0.7), theirs)), 1.0)
    assert found.errors.item() == pytest.approx(stats.sem([-0.1, 0.05, 0.2]))
    level = Level(0.8, scores(0.6, 3, 0.1))
    blind = differences(fit([level._replace(examples=own[1:3])], reference()._replace(examples=theirs[:2])), 1.0)
    alone = differences(fit([level], reference()), 1.0)
    assert blind.errors == alone.errors  # one pair shows no variance


def test_levels_can_be_compared_as_a_mean() -> None:
    """Of independent seeds: the mean over three and one; of examples, the same mean of those that both have."""
    one = Level(0.8, np.array([0.6, 0.7, 0.8]), np.array([0.0, 1.0, 0.5]))
    two = Level(0.9, np.array([0.5]), np.array([1.0, 0.5, 0.25, 0.3]))
    theirs = Level(0.5, np.full(9, 0.7), np.array([1.0, 1.0, 0.0, 1.0, 0.0]))
    weights = np.array([[0.75, 0.25]])
    found = differences(fit([one, two], theirs), 1.0, weights)
    assert found.estimates.item() == pytest.approx(0.65 - 0.7)
    between = (2 * 0.01 / 10) * (1 / 4 + 1 / 9)  # the variance 0.01 of the first level, pooled over 2 + 0 + 8 degrees
    sampled = stats.sem(np.array([0.25, 0.875, 0.4375]) - theirs.examples[:3])  # type: ignore[index]
    assert found.errors.item() == pytest.approx(np.sqrt(between + sampled**2))
    unknown = differences(fit([one, two._replace(examples=None)], theirs), 1.0, weights)
    assert unknown.errors.item() == pytest.approx(np.sqrt(between))


def test_levels_are_compared_within_seeds_that_differ() -> None:
    """Two of three seeds, which differ by 0.1, against all three: the difference is that of their pairs."""
    seeds, effects = np.arange(3.0), np.array([0.5, 0.6, 0.7])
    theirs = Level(0.5, effects + np.array([0.001, -0.001, 0]), seeds=seeds)
    own = Level(0.8, effects[:2] - 0.1 + np.array([0.001, 0]), seeds=seeds[:2])
    fitted = fit([own], theirs)
    found = differences(fitted, 1.0)
    assert found.estimates.item() == pytest.approx(-0.1, abs=0.002)
    assert found.errors.item() < 0.005  # of independent seeds: more than 0.08
    parts, means, fell = monotone(fitted)
    assert [part.sparsity for part in parts] == [0.5, 0.8]
    assert means == pytest.approx([0.6, 0.5], abs=0.002) == fell


# ------------------------------------------------------------------------------------------ curves


def test_the_monotone_curve_is_the_mean_of_what_rises() -> None:
    levels = [Level(0.7, np.array([0.6, 0.6])), Level(0.8, np.array([0.65, 0.65])), Level(0.9, np.array([0.5, 0.5]))]
    parts, means, fitted = monotone(fit(levels[::-1], reference(mean=0.8)))
    assert [part.sparsity for part in parts] == [0.5, 0.7, 0.8, 0.9]
    assert means == pytest.approx([0.8, 0.6, 0.65, 0.5])
    assert fitted == pytest.approx([0.8, 0.625, 0.625, 0.5])


def examples_of(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[["run", "seed", "metric"]].drop_duplicates()
    values = [np.array([seed, seed + 1, seed + 2], np.float32) for seed in rows["seed"]]
    return pd.concat([rows.assign(values=values), rows.assign(metric="stoi", values=[np.zeros(9)] * len(rows))])


def test_a_level_has_the_mean_score_of_each_held_out_example() -> None:
    frame = points()
    found = curves(frame, examples_of(frame), "relu")
    assert [(one.architecture, one.mechanism) for one in found] == [
        *(("mlp", "topk"), ("mlp", "quantile"), ("vit", "topk"), ("vit", "quantile"))
    ]
    for level in (found[0].reference, *found[0].levels):
        assert level.examples == pytest.approx([2, 3, 4])  # five seeds, 0 to 4


def test_a_level_with_a_seed_whose_examples_are_unknown_has_none() -> None:
    frame = points()
    some = examples_of(frame)
    first = curves(frame, some[(some["run"] != "mlp.topk_80") | (some["seed"] != 3)], "relu")[0]
    assert [level.examples is None for level in first.levels] == [True, False]
    assert curves(frame, None, "relu")[0].reference.examples is None


# ------------------------------------------------------------------------------------------ the table


def test_levels_are_relative_to_the_baseline_with_the_interval_of_their_test() -> None:
    frame = points()
    table = levels([*curves(frame, None, "relu"), *others(frame, None, "relu")], 0.9)
    own = table[table["architecture"] == "mlp"]
    assert list(zip(own["mechanism"], own["configuration"], strict=True)) == [
        *(("topk", "relu"), ("topk", "topk_80"), ("topk", "topk_90"), ("quantile", "relu"), ("quantile", "q_90")),
        *(("none", "gelu"), ("none", "relu")),
    ]
    assert own["relative"].tolist() == pytest.approx([1, 0.69 / 0.7, 0.5 / 0.7, 1, 1, 0.72 / 0.7, 1])
    assert own["n"].tolist() == [5] * 7
    assert own["fitted"].tolist() == pytest.approx([1, 0.69 / 0.7, 0.5 / 0.7, 1, 1, np.nan, np.nan], nan_ok=True)
    row = own[own["configuration"] == "topk_90"].iloc[0]
    error = 0.002 * np.sqrt(1 / 5 + (0.5 / 0.7) ** 2 / 5) / 0.7  # all standard deviations are 0.002
    assert row["high"] - row["relative"] == pytest.approx(stats.t.ppf(0.95, 12) * error)
    assert own.loc[own["configuration"] == "relu", ["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("frame", [points().query("configuration != 'relu'"), points(score=0.0), points().iloc[:0]])
def test_without_a_positive_score_to_compare_with_there_are_no_levels(frame: pd.DataFrame) -> None:
    table = levels([*curves(frame, None, "relu"), *others(frame, None, "relu")], 0.95)
    assert table.empty
    assert "relative" in table
