"""Critical sparsity: brackets where the truth is known, and every verdict."""

import numpy as np
import pandas as pd
import pytest
from invented import X, curve, points, reference, scores
from scipy import stats

from sparsity_cliff.analysis import critical
from sparsity_cliff.analysis.critical import locate
from sparsity_cliff.analysis.curves import Curve, Level, curves, fit

NEEDED = " of the baseline; at least 1 and 2 are needed, and a mean score of the baseline above 0"


def criticals(frame: pd.DataFrame, *, level: float = 0.95, **options: object) -> pd.DataFrame:
    return critical.criticals(curves(frame, None, "relu"), level=level, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ brackets


def test_each_direction_stops_at_its_first_failure() -> None:
    means = np.full(11, 0.7)
    means[3] = 0.6  # one bad level among good ones
    means[8:] = 0.5
    safe, below = critical.bracket(fit(curve(means), reference()), 0.05, 0.95)
    assert safe.tolist() == [True] * 3 + [False] * 8
    assert below.tolist() == [False] * 8 + [True] * 3


@pytest.mark.parametrize("tolerance", critical.TOLERANCES)
def test_a_step_is_bracketed_by_the_levels_around_it(tolerance: float) -> None:
    found = locate(fit(curve(np.where(X < 0.8, 0.7, 0.55), sd=1e-3), reference(sd=1e-3)), tolerance)
    assert found.verdict == "bracket"
    assert (found.low, found.high) == (X[X < 0.8][-1], X[X > 0.8][0])
    assert found.low < found.sparsity < found.high


def test_a_line_is_bracketed_where_it_crosses_and_the_estimate_is_there() -> None:
    means = 0.7 - 0.5 * (X - 0.5)
    for tolerance in (0.1, 0.2, 0.3):
        crossing = 0.5 + 0.7 * tolerance / 0.5
        found = locate(fit(curve(means, sd=1e-4), reference(sd=1e-4)), tolerance)
        assert found.verdict == "bracket"
        assert found.low <= crossing <= found.high
        assert found.high - found.low < 0.08  # at most two gaps between levels
        assert found.sparsity == pytest.approx(crossing, abs=1e-3)


def test_the_order_of_levels_does_not_matter() -> None:
    levels = curve(0.7 - 0.5 * (X - 0.5))
    assert locate(fit(levels[::-1], reference()), 0.2) == locate(fit(levels, reference()), 0.2)


def test_more_noise_gives_a_wider_bracket() -> None:
    means = 0.7 - 0.8 * np.maximum(X - 0.75, 0)
    quiet, loud = (locate(fit(curve(means, sd), reference(sd)), 0.1) for sd in (0.001, 0.01))
    assert quiet.high - quiet.low < loud.high - loud.low


@pytest.mark.parametrize(
    ("means", "sd", "sparsity", "verdict", "low", "high", "reason"),
    [
        (np.full(11, 0.7), 0.001, 0.5, "beyond the range measured", X[-1], np.nan, "all levels lose less than 5 %"),
        (np.full(11, 0.5), 0.001, 0.5, "not reached", 0.5, X[0], "all levels lose more than 5 %"),
        (np.full(11, 0.5), 0.001, 0.7, "not reached", np.nan, X[0], "all levels lose more than 5 %"),
        (np.full(11, 0.665), 0.05, 0.5, "undecided", 0.5, np.nan, "no level is shown to lose more than 5 %"),
        (
            np.r_[np.full(6, 0.665), np.full(5, 0.3)],
            0.05,
            0.7,
            "undecided",
            np.nan,
            X[6],
            "shown to lose less than 5 %",
        ),
    ],
)
def test_verdicts(
    means: np.ndarray, sd: float, sparsity: float, verdict: str, low: float, high: float, reason: str
) -> None:
    found = locate(fit(curve(means, sd), reference(sd, sparsity=sparsity)), 0.05)
    assert found.verdict == verdict
    assert (found.low, found.high) == pytest.approx((low, high), nan_ok=True)
    assert reason in found.reason


def test_without_a_safe_level_the_reference_is_the_lower_end() -> None:
    means = np.r_[np.full(6, 0.665), np.full(5, 0.3)]
    found = locate(fit(curve(means, 0.05), reference(0.05, sparsity=0.5)), 0.05)
    assert (found.verdict, found.low, found.high) == ("bracket", 0.5, X[6])


def test_undecided_levels_are_named() -> None:
    found = locate(fit(curve(np.r_[np.full(4, 0.7), np.full(2, 0.665), np.full(5, 0.5)]), reference()), 0.05)
    assert found.verdict == "bracket"
    assert (
        found.reason == "71 % of zeros lose less than 5 % of the score, 83 % more; at 75 %, 79 %, the runs cannot tell"
    )


def test_levels_that_show_nothing_alone_show_it_together() -> None:
    """2 % of 0.7 is 0.014. The standard error is 0.60 sd for a level of four seeds, and 0.44 sd for three levels."""
    sd, x = 0.011, np.arange(11)
    alone = stats.t.sf(0.014 / (sd * np.sqrt(1 / 4 + 0.98**2 / 9)), 17)
    of_three, of_two = (stats.t.sf(0.014 / (sd * np.sqrt(1 / n + 0.98**2 / 9)), 17) for n in (12, 8))
    assert alone > 0.0125 > max(of_three, of_two)  # half of 2.5 %
    safe, _ = critical.bracket(fit(curve(np.full(11, 0.7), sd=sd), reference(sd=sd)), 0.02, 0.95)
    assert safe.tolist() == [*(x[:-1] >= 0), False]  # the last has no neighbor
    _, below = critical.bracket(fit(curve(np.full(11, 0.7 * 0.96), sd=sd), reference(sd=sd)), 0.02, 0.95)
    assert below.tolist() == [False, *(x[1:] > 0)]


def test_a_level_whose_runs_differ_much_leaves_the_others_as_they_are() -> None:
    """Where the score has collapsed, runs often differ many times as much as on the plateau."""
    means = np.where(X < 0.9, 0.7, 0.3)
    calm = curve(means, sd=0.003)
    wild = [*calm[:-1], Level(calm[-1].sparsity, scores(0.3, 4, 0.2, "wild"))]
    expected = locate(fit(calm, reference(sd=0.003)), 0.02)
    assert expected.verdict == "bracket"
    assert locate(fit(wild, reference(sd=0.003)), 0.02) == expected
    everything = locate(fit(wild, reference(sd=0.003), span=len(X)), 0.02)  # with one variance for all levels
    assert everything.high - everything.low > expected.high - expected.low or everything.verdict != "bracket"


# ------------------------------------------------------------------------------------------ error rates


@pytest.mark.parametrize("truth", ["step", "hinge", "line"])
def test_intervals_hold_the_truth_at_least_as_often_as_they_say(truth: str) -> None:
    """More often, in fact: benchmarks/critical_coverage.py has all cells."""
    random, wrong, draws, x = np.random.default_rng(1), 0, 300, X
    for _ in range(draws):
        at = random.uniform(0.65, 0.9)
        means, true = {
            "step": (np.where(x > at, 0.6, 0.7), at),
            "hinge": (0.7 - 1.4 * np.maximum(x - at, 0), at + 0.05 * 0.7 / 1.4),
            "line": (0.7 - 0.2 * (x - 0.5), 0.5 + 0.05 * 0.7 / 0.2),
        }[truth]
        levels = [Level(float(s), random.normal(mean, 0.01, 3)) for s, mean in zip(x, means, strict=True)]
        found = locate(fit(levels, Level(0.5, random.normal(0.7, 0.01, 9))), 0.05)
        wrong += found.low > true or found.high < true
    assert wrong <= stats.binom.ppf(0.999, draws, 0.05)


# ------------------------------------------------------------------------------------------ the table


def test_the_table_has_a_row_per_architecture_mechanism_and_tolerance() -> None:
    table = criticals(points())
    cells = [(a, m, t) for a in ("mlp", "vit") for m in ("topk", "quantile") for t in critical.TOLERANCES]
    assert list(zip(table["architecture"], table["mechanism"], table["tolerance"], strict=True)) == cells
    row = table[table["mechanism"] == "topk"].set_index(["architecture", "tolerance"]).loc[("mlp", 0.05)]
    assert (row["verdict"], row["low"], row["high"]) == ("bracket", pytest.approx(0.8), pytest.approx(0.9))
    assert (row["n_levels"], row["n_seeds"], row["n_reference"]) == (2, 5, 5)
    assert (row["sparsity_min"], row["sparsity_max"]) == pytest.approx((0.8, 0.9))


def test_another_level_of_confidence_is_a_wider_bracket_and_is_in_the_table() -> None:
    usual, strict = (criticals(points(), level=level) for level in (0.95, 1 - 1e-12))
    assert set(strict["level"]) == {1 - 1e-12}
    assert (strict["low"] <= usual["low"]).all()
    assert (strict["low"] < usual["low"]).any()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (points().query("configuration != 'relu'"), "2 levels with 2 or more seeds, and 0 seeds"),
        (points().query("configuration != 'relu' or seed == 0"), "2 levels with 2 or more seeds, and 1 seeds"),
        (points().query("configuration == 'relu' or seed == 0"), "0 levels with 2 or more seeds, and 5 seeds"),
    ],
    ids=["no reference", "one seed of it", "one seed of each level"],
)
def test_too_few_runs_are_a_verdict(frame: pd.DataFrame, reason: str) -> None:
    table = criticals(frame[frame["mechanism"] != "quantile"])
    assert set(table["verdict"]) == {"too few runs"}
    assert set(table["reason"]) == {f"{reason}{NEEDED}"}
    assert table[["sparsity", "low", "high"]].isna().all(axis=None)


def test_an_architecture_without_controls_says_so() -> None:
    frame = points()
    frame.loc[frame["architecture"] == "vit", "mechanism"] = None
    table = criticals(frame).set_index("architecture").loc["vit"]
    assert table["mechanism"].tolist() == ["none"] * 4
    assert set(table["reason"]) == {f"0 levels with 2 or more seeds, and 5 seeds{NEEDED}"}


def test_a_baseline_whose_score_is_not_positive_has_no_share_to_lose() -> None:
    frame = points()
    assert set(criticals(frame.assign(score=frame["score"] - 0.7))["verdict"]) == {"too few runs"}


def test_without_points_the_table_is_empty_and_has_its_columns() -> None:
    table = criticals(points().iloc[:0])
    assert len(table) == 0
    assert "verdict" in table.columns


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, 5, float("nan")])
def test_a_tolerance_is_a_share(tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance {tolerance} is not valid; valid: numbers between 0 and 1"):
        criticals(points(), tolerances=[tolerance])


@pytest.mark.parametrize(
    ("step", "claimed"), [(0.65, "above"), (0.69, "inside"), (0.85, "below")], ids=["early", "at the claim", "late"]
)
def test_the_table_says_where_the_papers_70_percent_lies(step: float, claimed: str) -> None:
    one = Curve("mlp", "topk", reference(sd=1e-3), curve(np.where(step > X, 0.7, 0.55), sd=1e-3))
    assert set(critical.criticals([one], level=0.95)["claimed"]) == {claimed}


def test_over_architectures_it_is_a_range_and_the_worst_has_a_name() -> None:
    def architecture(name: str, means: np.ndarray) -> Curve:
        return Curve(name, "topk", reference(sd=1e-3), curve(means, sd=1e-3))

    table = critical.criticals(
        [
            architecture("mlp", np.where(X < 0.7, 0.7, 0.55)),
            architecture("vit", np.where(X < 0.9, 0.7, 0.55)),
            architecture("gpt", np.full(11, 0.7)),
            Curve("mpsenet", "none", reference(), []),
        ],
        tolerances=[0.05],
        level=0.95,
    )
    row = critical.worst(table).iloc[0]
    assert (row["mechanism"], row["architecture"], row["n"]) == ("topk", "mlp", 2)
    assert (row["beyond"], row["unknown"]) == ("gpt", "")
    assert row["low"] == X[X < 0.7][-1]
    assert row["lowest"] < 0.7 < 0.8 < row["highest"] < 0.93


def test_one_architecture_with_an_open_end_leaves_the_common_lower_end_open() -> None:
    hopeless = Curve("vit", "topk", reference(0.2, sparsity=0.7), curve(np.full(11, 0.66), sd=0.2))
    certain = Curve("mlp", "topk", reference(sd=1e-3), curve(np.where(X < 0.7, 0.7, 0.55), sd=1e-3))
    row = critical.worst(critical.criticals([certain, hopeless], tolerances=[0.05], level=0.95)).iloc[0]
    assert np.isnan(row["low"])
    assert critical.worst(critical.criticals([], level=0.95)).empty
