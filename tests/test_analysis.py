"""From collected traces to the tables of the figures: numbers against SciPy's and against arithmetic done here."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_collect import Traces

from sparsity_cliff import analysis
from sparsity_cliff.traces import HISTOGRAM_EDGES, Fact

LEVEL = 0.9
Tables = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture
def study(tmp_path: Path) -> Traces:
    return Traces(tmp_path)


def value(*key: object) -> float:
    """A number of one's own for each key, the same whenever asked."""
    return float(np.random.default_rng(list(repr(key).encode())).normal())


# ------------------------------------------------------------------------------------------ means over seeds


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_intervals_over_seeds_are_those_of_the_t_distribution(n: int, level: float) -> None:
    values = {group: [value(group, i) for i in range(n)] for group in "ab"}
    frame = pd.DataFrame([{"cell": g, "value": v} for i in range(n) for g, v in ((g, values[g][i]) for g in "ab")])
    table = analysis.over_seeds(frame, ["cell"], level).set_index("cell")
    for group, numbers in values.items():
        low, high = stats.t.interval(level, n - 1, loc=np.mean(numbers), scale=stats.sem(numbers))
        row = table.loc[group]
        assert row[["mean", "low", "high"]].tolist() == pytest.approx([np.mean(numbers), low, high], rel=1e-12)
        assert (row["n"], row["level"]) == (n, level)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    table = analysis.over_seeds(pd.DataFrame({"cell": ["a"], "value": [3.0]}), ["cell"], LEVEL)
    assert table.loc[0, ["mean", "n"]].tolist() == [3.0, 1]
    assert table[["low", "high"]].isna().all(axis=None)


# ------------------------------------------------------------------------------------------ accuracy


def outcome(activation: str) -> object:
    """Facts of a seed whose final accuracy and sparsity are its own."""

    def rows(seed: int) -> Iterator[Fact]:
        for step in (0, 4):
            yield Fact(seed, step, "test", None, None, "activation_sparsity", 0.1 * seed + step)
            yield Fact(seed, step, "test", None, None, "accuracy", value(activation, seed, step))
            yield Fact(seed, step, "test", None, None, "near_zero_share", 0.3)
            yield Fact(seed, step, "test", "stem.act", 0, "activation_sparsity", 99.0)
        yield Fact(seed, 4, "train", None, None, "loss", 1.0)

    return rows


def add(study: Traces, activation: str = "relu", **spec: object) -> str:
    return study.add(outcome(activation), activation=spec.pop("entry", activation), **spec)  # type: ignore[arg-type]


def test_points_are_the_last_step_of_finished_seeds(study: Traces) -> None:
    run = add(study, diverged={1: 3})
    table = analysis.points(*study.tables(), "cross_entropy", [])
    assert table["seed"].tolist() == [0, 2]
    assert table["sparsity"].tolist() == [4.0, 4.2]
    assert table["accuracy"].tolist() == [value("relu", seed, 4) for seed in (0, 2)]
    assert table["near_zero_share"].tolist() == [0.3, 0.3]
    assert set(table["run"]) == {run}


def test_points_leave_out_other_losses_and_random_data_and_mark_the_excluded(study: Traces) -> None:
    add(study, "relu")
    add(study, "gelu")
    add(study, "tanh")
    add(study, "gelu", loss="mse")
    add(study, "relu", data="random")
    tables = study.tables()
    table = analysis.points(*tables, "cross_entropy", ["tanh"])
    assert table["configuration"].tolist() == ["relu"] * 3 + ["gelu"] * 3 + ["tanh"] * 3  # the order of the study
    assert table["fitted"].tolist() == [True] * 6 + [False] * 3
    assert analysis.points(*tables, "mse", [])["configuration"].tolist() == ["gelu"] * 3


def test_a_configuration_names_the_normalization_that_is_not_the_architectures_own(study: Traces) -> None:
    add(study, "relu")
    add(study, "relu", normalization="plain")
    table = analysis.points(*study.tables(), "cross_entropy", [])
    assert table["configuration"].unique().tolist() == ["relu", "relu · plain"]


def test_points_carry_the_target_of_a_control(study: Traces) -> None:
    add(study, "relu")
    add(study, "topk_80", entry={"name": "topk_80", "sparsity": 0.8})
    table = analysis.points(*study.tables(), "cross_entropy", [])
    assert table.groupby("configuration")["target_sparsity"].first().fillna(-1).to_dict() == {
        "relu": -1,
        "topk_80": 0.8,
    }


def test_points_of_one_cell_in_two_blocks_of_seeds_stand_together(study: Traces) -> None:
    add(study, seeds=[0, 1])
    add(study, seeds=[2])
    table = analysis.points(*study.tables(), "cross_entropy", [])
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["accuracy"].tolist() == [value("relu", seed, 4) for seed in range(3)]


# ------------------------------------------------------------------------------------------ sparsity


def test_sparsity_over_steps_is_the_models(study: Traces) -> None:
    add(study)
    table = analysis.sparsity_over_steps(*study.tables(), LEVEL).set_index(["metric", "step"])
    assert set(table.index) == {(m, s) for m in ("activation_sparsity", "near_zero_share") for s in (0, 4)}
    found = table.loc[("activation_sparsity", 4), ["mean", "low", "high"]].tolist()
    numbers = [4.0, 4.1, 4.2]
    assert found == pytest.approx([4.1, *stats.t.interval(LEVEL, 2, 4.1, stats.sem(numbers))])


def test_sparsity_by_depth_is_each_sites_at_the_last_step(study: Traces) -> None:
    def rows(seed: int) -> Iterator[Fact]:
        for step in (0, 4):
            yield Fact(seed, step, "test", None, None, "activation_sparsity", 9.0)
            for depth in range(3):
                yield Fact(seed, step, "test", f"site{depth}", depth, "activation_sparsity", depth + 0.1 * step * seed)

    study.add(rows)
    table = analysis.sparsity_by_depth(*study.tables(), LEVEL)
    assert table["depth"].tolist() == [0, 1, 2]
    assert table["mean"].tolist() == pytest.approx([0.4, 1.4, 2.4])
    assert table["n"].tolist() == [3, 3, 3]


# ------------------------------------------------------------------------------------------ drift

FED = ("blocks.0.weight", "blocks.1.weight")


def drifting(activation: str, data: str = "real", fed: tuple[str, ...] = FED) -> object:
    def rows(seed: int) -> Iterator[Fact]:
        for depth, matrix in enumerate(["stem.weight", *FED, "head.weight"]):
            if matrix in (*fed, "head.weight"):
                yield Fact(seed, 0, None, matrix, depth, "fed_by_activation", 1.0)
            for step in (0, 1, 4):
                yield Fact(seed, step, None, matrix, depth, "drift_z", value(activation, data, seed, matrix, step))

    return rows


def expected(activation: str, data: str = "real", seeds: range = range(3), step: int = 4) -> np.ndarray:
    return np.array([np.mean([value(activation, data, seed, matrix, step) for matrix in FED]) for seed in seeds])


@pytest.fixture
def drifted(study: Traces) -> Tables:
    for activation in ("relu", "tanh"):
        for data in ("real", "random"):
            study.add(drifting(activation, data), activation=activation, data=data)  # type: ignore[arg-type]
    return study.tables()


def test_drift_is_the_mean_over_fed_matrices_without_the_head(drifted: Tables) -> None:
    table = analysis.drift(*drifted, LEVEL).set_index(["activation", "data", "step"])
    assert len(table) == 2 * 2 * 3
    for (activation, data, step), row in table.iterrows():  # type: ignore[misc]
        numbers = expected(activation, data, step=step)
        interval = stats.t.interval(LEVEL, 2, numbers.mean(), stats.sem(numbers))
        assert row[["mean", "low", "high"]].tolist() == pytest.approx([numbers.mean(), *interval])


def test_contrasts_are_paired_by_seed(drifted: Tables) -> None:
    table = analysis.drift_contrasts(*drifted, ["tanh"], LEVEL).set_index(["activation", "data", "against"])
    assert set(table.index) == {
        *((a, d, "nothing") for a in ("relu", "tanh") for d in ("real", "random")),
        ("relu", "real", "tanh"),
        ("relu", "random", "tanh"),
        ("relu", "real", "random data"),
        ("tanh", "real", "random data"),
    }
    relu, tanh = expected("relu"), expected("tanh")
    pairs = {
        ("relu", "real", "nothing"): (relu, np.zeros(3)),
        ("relu", "real", "tanh"): (relu, tanh),
        ("relu", "random", "tanh"): (expected("relu", "random"), expected("tanh", "random")),
        ("relu", "real", "random data"): (relu, expected("relu", "random")),
    }
    for key, (one, other) in pairs.items():
        test = stats.ttest_rel(one, other)
        interval = test.confidence_interval(LEVEL)
        found = table.loc[key, ["mean", "low", "high", "p", "n"]].tolist()
        assert found == pytest.approx([(one - other).mean(), interval.low, interval.high, test.pvalue, 3])


def test_only_seeds_that_both_have_are_paired(study: Traces) -> None:
    study.add(drifting("relu"), seeds=range(4), diverged={0: 1})  # type: ignore[arg-type]
    study.add(drifting("tanh"), seeds=range(4), diverged={3: 1}, activation="tanh")  # type: ignore[arg-type]
    table = analysis.drift_contrasts(*study.tables(), ["tanh"], LEVEL).set_index(["activation", "against"])
    seeds = range(1, 3)
    difference = expected("relu", seeds=seeds) - expected("tanh", seeds=seeds)
    assert table.loc[("relu", "tanh"), ["mean", "n"]].tolist() == pytest.approx([difference.mean(), 2])
    assert table.loc[("relu", "nothing"), "n"] == 3


def test_equal_differences_have_no_p_value(study: Traces) -> None:
    study.add(drifting("relu"))  # type: ignore[arg-type]
    study.add(drifting("relu"), activation="copy")  # type: ignore[arg-type]
    table = analysis.drift_contrasts(*study.tables(), ["copy"], LEVEL).set_index(["activation", "against"])
    assert table.loc[("relu", "copy"), ["mean", "low", "high"]].tolist() == [0, 0, 0]
    assert np.isnan(table.loc[("relu", "copy"), "p"])


def test_matrices_that_no_activation_feeds_do_not_count(study: Traces) -> None:
    study.add(drifting("relu", fed=FED[:1]))  # type: ignore[arg-type]
    table = analysis.drift(*study.tables(), LEVEL).set_index("step")
    assert table.loc[4, "mean"] == pytest.approx(np.mean([value("relu", "real", seed, FED[0], 4) for seed in range(3)]))


# ------------------------------------------------------------------------------------------ weights


def weights_of(seed: int, matrix: str, step: int) -> np.ndarray:
    spread = 3.0 if matrix == FED[1] and step else 0.8  # the wider one reaches into the open bins
    return np.random.default_rng([seed, len(matrix), int(matrix == FED[1]), step]).normal(0, spread, 500)


def histogrammed(seed: int) -> Iterator[Fact]:
    edges = [-np.inf, *HISTOGRAM_EDGES, np.inf]
    for depth, matrix in enumerate([*FED, "head.weight", "stem.weight"]):
        if matrix != "stem.weight":
            yield Fact(seed, 0, None, matrix, depth, "fed_by_activation", 1.0)
        for step in (0, 4):
            counts, _ = np.histogram(weights_of(seed, matrix, step), edges)
            for i, count in enumerate(counts):
                yield Fact(seed, step, None, matrix, depth, f"weight_histogram.{i:02d}", count / 500)


def test_histograms_are_the_densities_of_the_fed_hidden_weights(study: Traces) -> None:
    study.add(histogrammed)
    table = analysis.histograms(*study.tables())
    for moment, step in (("start", 0), ("end", 4)):
        rows = table[table["moment"] == moment].sort_values("left")
        assert rows["left"].tolist() == HISTOGRAM_EDGES[:-1]
        assert rows["right"].tolist() == HISTOGRAM_EDGES[1:]
        every = np.concatenate([weights_of(seed, matrix, step) for seed in range(3) for matrix in FED])
        shares = np.histogram(every, HISTOGRAM_EDGES)[0] / every.size
        assert (rows["density"] * 0.25).to_numpy() == pytest.approx(shares)
        assert (rows["density"] * (rows["right"] - rows["left"])).sum() == pytest.approx(np.mean(np.abs(every) <= 6))
        assert set(rows["n"]) == {3}
    whole = table.groupby("moment")["density"].sum() * 0.25
    assert whole["start"] == pytest.approx(1)
    assert whole["end"] < 1


# ------------------------------------------------------------------------------------------ little or nothing

COLUMNS = {
    "points": {
        "architecture",
        "configuration",
        "seed",
        "sparsity",
        "accuracy",
        "near_zero_share",
        "target_sparsity",
        "fitted",
    },
    "drift": {*analysis.CELL, "step", "mean", "low", "high", "n", "level"},
    "drift_contrasts": {*analysis.CELL, "against", "mean", "low", "high", "n", "level", "p"},
    "sparsity_over_steps": {*analysis.CELL, "metric", "step", "mean", "low", "high", "n", "level"},
    "sparsity_by_depth": {*analysis.CELL, "metric", "layer", "depth", "mean", "low", "high", "n", "level"},
    "histograms": {*analysis.CELL, "moment", "left", "right", "density", "n"},
}


def everything(seed: int) -> Iterator[Fact]:
    yield from outcome("relu")(seed)  # type: ignore[operator]
    yield from drifting("relu")(seed)  # type: ignore[operator]
    yield from (fact for fact in histogrammed(seed) if fact.metric != "fed_by_activation")


def all_tables(facts: pd.DataFrame, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "points": analysis.points(facts, runs, "cross_entropy", []),
        "drift": analysis.drift(facts, runs, LEVEL),
        "drift_contrasts": analysis.drift_contrasts(facts, runs, ["relu"], LEVEL),
        "sparsity_over_steps": analysis.sparsity_over_steps(facts, runs, LEVEL),
        "sparsity_by_depth": analysis.sparsity_by_depth(facts, runs, LEVEL),
        "histograms": analysis.histograms(facts, runs),
    }


def test_where_every_seed_diverged_the_tables_are_empty_and_have_their_columns(study: Traces, tmp_path: Path) -> None:
    study.add(everything, diverged={0: 1, 1: 1, 2: 1})
    for name, table in all_tables(*study.tables()).items():
        assert COLUMNS[name] <= set(table.columns), name
        assert table.empty, name
        table.to_parquet(tmp_path / "table.parquet", index=False)


def test_where_a_probe_was_not_measured_its_tables_are_empty_and_have_their_columns(study: Traces) -> None:
    study.add(lambda seed: [Fact(seed, 4, "test", None, None, "accuracy", 0.5)])
    tables = all_tables(*study.tables())
    points = tables.pop("points")
    assert points["accuracy"].tolist() == [0.5] * 3
    assert points["sparsity"].isna().all()
    for name, table in tables.items():
        assert COLUMNS[name] <= set(table.columns), name
        assert table.empty, name


def test_one_seed_gives_every_table_without_intervals_and_without_warnings(study: Traces) -> None:
    study.add(everything, seeds=[7])  # warnings are errors here
    for name, table in all_tables(*study.tables()).items():
        assert not table.empty, name
        assert table.filter(["low", "high", "p"]).isna().all(axis=None), name
