import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pwlf
import pytest
from scipy import stats

from sparsity_cliff.analysis import cliff

Truth = Callable[[np.ndarray], np.ndarray]
EVEN = np.linspace(0, 0.98, 25)


def hinge(at: float, before: float = -0.02, after: float = -0.62) -> Truth:
    return lambda x: 0.65 + before * x + (after - before) * np.maximum(x - at, 0)


def runs(
    truth: Truth,
    x: np.ndarray = EVEN,
    *,
    seeds: int = 3,
    noise: float = 0.0,
    configuration: float = 0.0,
    architecture: str = "mlp",
    rng: int = 0,
) -> pd.DataFrame:
    """noise, configuration: standard deviations of a run and of a configuration around the truth."""
    generator = np.random.default_rng(rng)
    accuracy = truth(x)[:, None] + configuration * generator.standard_normal((len(x), 1))
    accuracy = accuracy + noise * generator.standard_normal((len(x), seeds))
    index = pd.MultiIndex.from_product(
        [[architecture], [f"c{i:02d}" for i in range(len(x))], range(seeds)],
        names=["architecture", "configuration", "seed"],
    )
    table = pd.DataFrame({"sparsity": np.repeat(x, seeds), "score": accuracy.ravel()}, index=index)
    return table.reset_index()


def fast(points: pd.DataFrame, **options: object) -> cliff.Cliff:
    return cliff.locate(points, **{"resamples": 299, **options})  # type: ignore[arg-type]


# --------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize("at", [0.2, 0.35, 0.5, 0.7, 0.7123, 0.85])
def test_a_break_without_noise_is_recovered(at: float) -> None:
    found = fast(runs(hinge(at)))
    assert found.verdict == "cliff"
    assert found.break_at == pytest.approx(at, abs=1e-5)
    assert found.slope_before == pytest.approx(-0.02, abs=1e-5)
    assert found.slope_after == pytest.approx(-0.62, abs=1e-5)
    assert found.low <= at <= found.high
    assert found.high - found.low < 8 * cliff.STEP  # the outermost accepted candidate is next to the break


@pytest.mark.parametrize("rng", range(8))
def test_the_fit_agrees_with_pwlf(rng: int) -> None:
    points = runs(hinge(0.7), np.r_[0, 0, np.linspace(0.4, 0.98, 18)], noise=0.01, rng=rng)
    found = fast(points)
    means = points.groupby("configuration")[["sparsity", "score"]].mean()
    other = pwlf.PiecewiseLinFit(means["sparsity"].to_numpy(), means["score"].to_numpy(), seed=0)
    breaks = other.fit(2)
    assert found.break_at == pytest.approx(breaks[1], abs=1e-3)
    assert [found.slope_before, found.slope_after] == pytest.approx(other.slopes, abs=1e-3)
    n, k = len(means), 5
    assert found.bic_broken <= n * np.log(other.ssr / n) + k * np.log(n) + 1e-6  # at least as small a sum of squares


def test_information_criteria_are_those_of_polynomial_fits() -> None:
    points = runs(lambda x: 0.65 - 0.2 * x**2, noise=0.01)
    means = points.groupby("configuration")[["sparsity", "score"]].mean()
    x, y, n = means["sparsity"], means["score"], len(means)

    def criteria(degree: int) -> tuple[float, float]:
        rss, k = np.square(y - np.polyval(np.polyfit(x, y, degree), x)).sum(), degree + 2  # Gaussian: variance too
        deviance = n * np.log(rss / n)
        return deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1), deviance + k * np.log(n)

    found = fast(points)
    assert (found.aicc_line, found.bic_line) == pytest.approx(criteria(1))
    assert found.smooth == "quadratic"
    assert (found.aicc_smooth, found.bic_smooth) == pytest.approx(criteria(2))
    assert found.slope == pytest.approx(stats.linregress(x, y).slope)


@pytest.mark.parametrize("rng", range(3))
def test_the_test_of_a_fall_agrees_with_the_t_test_where_noise_is_even(rng: int) -> None:
    points = runs(lambda x: 0.65 - 0.005 * x, np.linspace(0, 0.98, 300), noise=0.02, rng=rng)
    means = points.groupby("configuration")[["sparsity", "score"]].mean()
    exact = stats.linregress(means["sparsity"], means["score"]).pvalue
    assert cliff.locate(points, resamples=2000).p_fall == pytest.approx(exact, abs=0.06)


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = np.array([0.61, 0.7, 0.72, 0.85])
    half = cliff._jackknife(lambda keep: values[keep].mean(keepdims=True), np.array(list("abcd"), object), 0.9)
    assert half == pytest.approx(stats.t.ppf(0.95, 3) * stats.sem(values))


# --------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize(
    ("truth", "verdict"),
    [
        (lambda x: np.full_like(x, 0.65), "no cliff in the range measured"),
        (lambda x: np.full_like(x, 1.0), "no cliff in the range measured"),
        (lambda x: 0.5 + 0.1 * x, "no cliff in the range measured"),
        (lambda x: 0.65 - 0.2 * x, "smooth decline"),
        (lambda x: 0.65 - 0.2 * x**2, "smooth decline"),
        (lambda x: 0.6 + 0.1 * x - 0.3 * x**2, "smooth decline"),
        (lambda x: 0.65 - 0.3 * x**6.3, "smooth decline"),
        (lambda x: 0.65 - 0.5 / (1 + np.exp(-(x - 0.83) / 0.085)), "smooth decline"),
        (hinge(0.4, -0.6, -0.1), "smooth decline"),  # bends, but upwards
        (hinge(0.4, -0.1, 0.2), "no cliff in the range measured"),
        (hinge(0.93), "no cliff in the range measured"),  # one level beyond the break
        (hinge(0.7), "cliff"),
        (hinge(0.7, 0.1), "cliff"),  # rises before it falls
    ],
)
def test_verdicts(truth: Truth, verdict: str, noise: float) -> None:
    points = runs(truth, noise=noise)
    found = cliff.locate(points)
    assert found.verdict == verdict, found.reason
    assert (found.model == "broken") == (verdict == "cliff")
    assert found.reason


def test_a_break_where_only_one_level_lies_before_it_is_not_located() -> None:
    found = fast(runs(hinge(0.3), np.r_[0, 0, 0, np.linspace(0.45, 0.98, 15)], noise=0.003))
    assert found.p_break < 0.05
    assert found.verdict != "cliff"
    assert found.low == found.search_min > 0.45


@pytest.mark.parametrize(
    ("x", "seeds"),
    [
        (np.linspace(0, 0.98, cliff.MIN_CONFIGURATIONS - 1), 3),
        (EVEN, cliff.MIN_SEEDS - 1),
        (np.repeat(np.linspace(0, 0.9, cliff.MIN_LEVELS - 1), 3), 3),
        (np.full(20, 0.7), 3),
        (np.zeros(20), 3),
        (0.7 + np.linspace(0, 0.004, 20), 3),  # one level, measured
    ],
)
def test_too_few_runs(x: np.ndarray, seeds: int) -> None:
    points = runs(hinge(0.7), x, seeds=seeds, noise=0.01)
    found = fast(points)
    assert found.verdict == "too few runs"
    assert np.isnan([found.break_at, found.low, found.high, found.p_break, found.aicc_broken]).all()
    assert (found.n_points, found.n_configurations, found.n_seeds) == (len(x) * seeds, len(x), seeds)
    assert (found.sparsity_min, found.sparsity_max) == pytest.approx((x.min(), x.max()))
    assert str(cliff.MIN_CONFIGURATIONS) in found.reason
    assert cliff.curve(points, found).empty


def test_the_smallest_study_that_is_enough() -> None:
    x = np.r_[0, 0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9]  # 8 configurations, 7 levels; a break can lie in 0.4 to 0.6
    found = fast(runs(hinge(0.5), x, seeds=cliff.MIN_SEEDS))
    assert found.verdict == "cliff"
    assert (found.search_min, found.search_max) == pytest.approx((0.4, 0.6))


# --------------------------------------------------------------------------------- interval


def test_coverage_and_false_cliffs() -> None:
    """Uneven noise and a configuration effect; 12 and 20 configurations; benchmarks/cliff_coverage.py is the study."""
    count, covered, false = 80, 0, 0
    for i in range(count):
        rng = np.random.default_rng(i)
        at = rng.uniform(0.45, 0.7)
        x = np.linspace(0, 0.98, 12 if i % 2 else 20)
        points = runs(hinge(at), x, noise=0.015, configuration=0.015, rng=i)
        points["score"] += 0.03 * np.maximum(points["sparsity"] - 0.5, 0) * rng.standard_normal(len(points))
        found = fast(points)
        covered += found.low <= at <= found.high
        straight = points.assign(score=points["score"] - hinge(at)(points["sparsity"].to_numpy()))
        false += fast(straight).verdict == "cliff"
    assert covered >= stats.binom.ppf(0.001, count, 0.95)
    assert false <= stats.binom.ppf(0.999, count, 0.05)


def test_more_noise_gives_a_wider_interval() -> None:
    widths = [fast(runs(hinge(0.6), noise=noise)) for noise in (0.002, 0.01, 0.05)]
    widths = [found.high - found.low for found in widths]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_copies_of_seeds_are_not_evidence() -> None:
    points = runs(hinge(0.6), noise=0.02)
    copies = pd.concat([points, points.assign(seed=points["seed"] + 3)])
    once, twice = fast(points), fast(copies)
    assert (twice.break_at, twice.low, twice.high) == pytest.approx((once.break_at, once.low, once.high))
    assert twice.p_break == once.p_break
    assert twice.n_seeds == 2 * once.n_seeds


def test_a_seed_effect_that_is_linear_in_sparsity_moves_nothing() -> None:
    points = runs(hinge(0.6), noise=0.02)
    effect = points["seed"].map({0: 0.05, 1: -0.02, 2: 0.0}) * (1 - 0.3 * points["sparsity"])
    once, again = fast(points), fast(points.assign(score=points["score"] + effect))
    assert (again.break_at, again.low, again.high) == pytest.approx((once.break_at, once.low, once.high), abs=1e-5)
    assert again.p_break == once.p_break


def test_the_unit_of_accuracy_does_not_matter() -> None:
    points = runs(hinge(0.6), noise=0.02)
    once, again = fast(points), fast(points.assign(score=100 * points["score"] - 7))
    assert (again.break_at, again.low, again.high) == pytest.approx((once.break_at, once.low, once.high), abs=1e-5)
    assert (again.p_break, again.verdict) == (once.p_break, once.verdict)
    assert again.slope_after == pytest.approx(100 * once.slope_after, abs=1e-2)
    assert again.aicc_broken - again.aicc_smooth == pytest.approx(once.aicc_broken - once.aicc_smooth, abs=1e-3)


def test_deterministic_in_the_seed_and_indifferent_to_order_and_types() -> None:
    points = runs(hinge(0.6), noise=0.03)
    shuffled = points.sample(frac=1, random_state=1).astype({"architecture": "category", "configuration": "category"})
    one, two = dataclasses.asdict(fast(points)), dataclasses.asdict(fast(shuffled))
    assert one == pytest.approx(two, abs=1e-9)
    assert dataclasses.asdict(fast(points)) == one
    assert dataclasses.asdict(fast(points, seed=1)) != one
    pd.testing.assert_frame_equal(cliff.curve(points, fast(points)), cliff.curve(points, fast(points)))


# --------------------------------------------------------------------------------- several architectures


def three(breaks: tuple[float, ...], noise: float = 0.004) -> pd.DataFrame:
    parts = [
        runs(hinge(at), np.linspace(0, 0.98, 16), noise=noise, architecture=name, rng=i)
        for i, (name, at) in enumerate(zip("abc", breaks, strict=False))
    ]
    return pd.concat(parts, ignore_index=True)


def test_relative_score_is_relative_to_the_mean_of_the_own_baseline() -> None:
    points = pd.DataFrame(
        [
            ("a", "relu", 0, 0.4, 0.5),
            ("a", "relu", 1, 0.4, 0.7),
            ("a", "topk", 0, 0.8, 0.3),
            ("b", "relu", 0, 0.5, 0.8),
            ("b", "topk", 0, 0.8, 0.4),
        ],
        columns=["architecture", "configuration", "seed", "sparsity", "score"],
    )
    relative = cliff.relative_score(points, "relu")["relative_score"]
    assert relative.to_list() == pytest.approx([0.5 / 0.6, 0.7 / 0.6, 0.5, 1, 0.5])
    # a baseline that diverged, or is never right, leaves nothing to compare with
    lost = cliff.relative_score(points.drop(index=3), "relu")["relative_score"]
    assert lost.isna().to_list() == [False, False, False, True]
    wrong = points.assign(score=[0.5, 0.7, 0.3, 0.0, 0.4])
    assert cliff.relative_score(wrong, "relu")["relative_score"].isna().to_list() == [False] * 3 + [True] * 2


def test_an_architecture_without_a_baseline_is_not_pooled() -> None:
    one, other = runs(hinge(0.7)), runs(hinge(0.7)).assign(architecture="lost")
    both = pd.concat([one, other[other["configuration"] != "c00"]], ignore_index=True)
    verdicts, curves = cliff.cliffs(both, baseline="c00", resamples=300)
    assert verdicts["architecture"].to_list() == [one["architecture"].iloc[0], "lost", "pooled"]
    assert verdicts["n_architectures"].to_list() == [1, 1, 1]
    assert set(curves["architecture"]) == set(verdicts["architecture"])


def test_no_points_give_empty_tables() -> None:
    verdicts, curves = cliff.cliffs(runs(hinge(0.7)).iloc[:0], baseline="c00")
    assert len(verdicts) == len(curves) == 0
    assert "verdict" in verdicts
    assert "fitted" in curves


def test_architectures_that_differ_widen_the_pooled_interval() -> None:
    same, different = fast(three((0.7, 0.7, 0.7))), fast(three((0.64, 0.7, 0.76)))
    assert same.verdict == "cliff"
    assert same.low <= 0.7 <= same.high
    assert (same.architecture, same.n_architectures, same.n_configurations) == ("pooled", 3, 48)
    assert different.high - different.low > 3 * (same.high - same.low)
    assert different.low <= 0.7 <= different.high


def test_two_architectures_that_disagree_are_too_few() -> None:
    found = fast(three((0.7, 0.78)))
    assert found.verdict == "too few runs"
    assert found.reason.startswith("2 architectures are too few or too different")
    assert found.break_at == pytest.approx(0.74, abs=0.05)
    assert (found.low, found.high) == (found.search_min, found.search_max)  # it could be anywhere


def test_cliffs() -> None:
    points = three((0.6, 0.6, 0.6)).replace({"configuration": {"c00": "dense"}})
    verdicts, curves = cliff.cliffs(points, baseline="dense", resamples=299)
    assert verdicts["architecture"].to_list() == ["a", "b", "c", "pooled"]
    assert verdicts["value"].to_list() == 3 * ["score"] + ["relative_score"]
    assert verdicts["verdict"].to_list() == 4 * ["cliff"]
    assert (verdicts["low"] <= 0.6).all()
    assert (verdicts["high"] >= 0.6).all()
    assert list(verdicts) == [field.name for field in dataclasses.fields(cliff.Cliff)]
    assert verdicts.map(np.isscalar).all(axis=None)
    assert list(curves) == ["architecture", "value", "model", "sparsity", "fitted", "low", "high"]
    assert set(curves["architecture"]) == {"a", "b", "c", "pooled"}
    relative = curves[curves["architecture"] == "pooled"]
    assert relative["fitted"].iloc[0] == pytest.approx(1, abs=0.02)


def test_cliffs_of_one_architecture_and_of_too_few_runs() -> None:
    points = runs(hinge(0.6), architecture="vit").replace({"configuration": {"c00": "dense"}})
    verdicts, _ = cliff.cliffs(points, baseline="dense", resamples=299)
    assert verdicts["architecture"].to_list() == ["vit", "pooled"]
    assert verdicts["break_at"].to_list() == pytest.approx([0.6, 0.6], abs=1e-5)
    verdicts, curves = cliff.cliffs(points[points["sparsity"] < 0.2], baseline="dense", resamples=299)
    assert verdicts["verdict"].to_list() == 2 * ["too few runs"]
    assert curves.empty
    assert curves.dtypes[["sparsity", "fitted", "low", "high"]].to_list() == 4 * [np.dtype(float)]


# --------------------------------------------------------------------------------- the curve to draw


@pytest.mark.parametrize(
    "truth", [hinge(0.6), lambda x: 0.65 - 0.2 * x, lambda x: 0.65 - 0.2 * x**2, lambda x: 0.65 - 0.3 * x**6.3]
)
def test_the_curve_without_noise_is_the_truth(truth: Truth) -> None:
    points = runs(truth)
    drawn = cliff.curve(points, fast(points), resamples=299)
    assert list(drawn) == ["sparsity", "fitted", "low", "high"]
    assert (drawn["sparsity"].min(), drawn["sparsity"].max()) == (0, 0.98)
    true = truth(drawn["sparsity"].to_numpy())
    assert drawn["fitted"].to_numpy() == pytest.approx(true, abs=1e-4)
    for column in ("low", "high"):  # resamples take their shape from a grid
        assert drawn[column].to_numpy() == pytest.approx(true, abs=0.01)


def test_the_broken_curve_has_its_knee_on_the_grid() -> None:
    points = runs(hinge(0.6), noise=0.005)
    found = fast(points)
    drawn = cliff.curve(points, found, resamples=299)
    assert np.abs(drawn["sparsity"] - found.break_at).min() == 0
    inner = drawn[1:-1]
    assert (inner["low"] < inner["fitted"]).all()
    assert (inner["fitted"] < inner["high"]).all()


def test_the_band_covers_the_truth() -> None:
    """Pointwise, of a line: the band of the mean at level 95 % has an exact counterpart, so it must be near 95 %."""
    shares = []
    for i in range(40):
        points = runs(lambda x: 0.65 - 0.2 * x, noise=0.02, rng=i)
        found = dataclasses.replace(fast(points), model="line")
        drawn = cliff.curve(points, found, resamples=299)
        true = 0.65 - 0.2 * drawn["sparsity"]
        shares.append(((drawn["low"] <= true) & (true <= drawn["high"])).mean())
    assert np.mean(shares) == pytest.approx(0.95, abs=0.04)


def test_the_band_of_several_architectures_is_wider_where_they_differ() -> None:
    same, different = three((0.7, 0.7, 0.7)), three((0.6, 0.7, 0.8))
    widths = []
    for points in (same, different):
        drawn = cliff.curve(points, dataclasses.replace(fast(points), model="broken"), resamples=299)
        widths.append((drawn["high"] - drawn["low"])[drawn["sparsity"] > 0.9].mean())
    assert widths[1] > 2 * widths[0]


# --------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("column", ["architecture", "configuration", "seed", "sparsity", "score"])
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        cliff.locate(runs(hinge(0.7)).drop(columns=column))


@pytest.mark.parametrize("column", ["sparsity", "score"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_run_is_named(column: str, bad: float) -> None:
    points = runs(hinge(0.7))
    points.loc[4, column] = bad
    with pytest.raises(ValueError, match=f"'{column}' is not finite in 1 rows .*mlp, c01, seed 1.*drop diverged runs"):
        cliff.locate(points)
    with pytest.raises(ValueError, match=f"'{column}' is not finite"):
        cliff.cliffs(points, baseline="c00")


def test_a_missing_name_is_refused() -> None:
    points = runs(hinge(0.7))
    points.loc[4, "configuration"] = None
    with pytest.raises(ValueError, match="'configuration' has missing values"):
        cliff.locate(points)


def test_no_points() -> None:
    with pytest.raises(ValueError, match="there are no points"):
        cliff.locate(runs(hinge(0.7)).iloc[:0])


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, 70.0])
def test_sparsity_is_a_share(sparsity: float) -> None:
    points = runs(hinge(0.7))
    points.loc[4, "sparsity"] = sparsity
    with pytest.raises(ValueError, match=r"'sparsity' is a share of zeros"):
        cliff.locate(points)


def test_a_run_counted_twice_is_refused() -> None:
    points = runs(hinge(0.7))
    with pytest.raises(ValueError, match="two rows for mlp, c00, seed 0"):
        cliff.locate(pd.concat([points, points[:1]]))


def test_level_and_resamples_must_fit() -> None:
    points = runs(hinge(0.7))
    with pytest.raises(ValueError, match=r"level must lie in 0\.5\.\.1, not 95"):
        cliff.locate(points, level=95)
    with pytest.raises(ValueError, match=r"resamples = 299 are too few for level 0\.99: at least 1250"):
        cliff.locate(points, level=0.99, resamples=299)
    with pytest.raises(ValueError, match="resamples = 10 are too few"):
        cliff.curve(points, fast(points), resamples=10)


def test_a_curve_of_another_column_is_refused() -> None:
    points = cliff.relative_score(runs(hinge(0.7)), "c00")
    with pytest.raises(ValueError, match="located on 'score', not on 'relative_score'"):
        cliff.curve(points, fast(points), value="relative_score")
