"""From collected traces to the tables of the figures: numbers against SciPy's and against arithmetic done here."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_collect import Traces
from torch import nn

from sparsity_cliff.analysis import drift, gradients, means, sparsity, spikes, weights
from sparsity_cliff.analysis.flops import flops
from sparsity_cliff.analysis.points import points
from sparsity_cliff.analysis.spikes import loss_and_spikes
from sparsity_cliff.networks.activations import Site
from sparsity_cliff.probes import activation_stats
from sparsity_cliff.traces.metrics import HISTOGRAM_EDGES
from sparsity_cliff.traces.schema import Fact

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
    rows = [{"cell": group, "seed": i, "value": values[group][i]} for i in range(n) for group in "ab"]
    frame = pd.DataFrame(rows)
    table = means.over_seeds(frame, ["cell"], level).set_index("cell")
    for group, numbers in values.items():
        low, high = stats.t.interval(level, n - 1, loc=np.mean(numbers), scale=stats.sem(numbers))
        row = table.loc[group]
        assert row[["mean", "low", "high"]].tolist() == pytest.approx([np.mean(numbers), low, high], rel=1e-12)
        assert (row["n"], row["level"]) == (n, level)
        assert (row["seeds"], row["values"]) == (list(range(n)), numbers)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    table = means.over_seeds(pd.DataFrame({"cell": ["a"], "seed": [0], "value": [3.0]}), ["cell"], LEVEL)
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
    table = points(*study.tables(), ["cross_entropy"], "relu")
    assert table["seed"].tolist() == [0, 2]
    assert table["sparsity"].tolist() == [4.0, 4.2]
    assert table["score"].tolist() == [value("relu", seed, 4) for seed in (0, 2)]
    assert table["near_zero_share"].tolist() == [0.3, 0.3]
    assert set(table["run"]) == {run}


def test_points_leave_out_other_losses_and_random_data(study: Traces) -> None:
    add(study, "relu")
    add(study, "gelu")
    add(study, "tanh")
    add(study, "gelu", loss="mse")
    add(study, "relu", data="random")
    tables = study.tables()
    table = points(*tables, ["cross_entropy"], "relu")
    assert table["configuration"].tolist() == ["gelu"] * 3 + ["relu"] * 3 + ["tanh"] * 3  # the order of run ids
    assert points(*tables, ["mse"], "relu")["configuration"].tolist() == ["gelu"] * 3


def test_a_configuration_names_the_normalization_that_is_not_the_architectures_own(study: Traces) -> None:
    add(study, "relu")
    add(study, "relu", normalization="plain")
    table = points(*study.tables(), ["cross_entropy"], "relu")
    assert table["configuration"].unique().tolist() == ["relu", "relu · plain"]


def test_points_carry_the_target_of_a_control(study: Traces) -> None:
    add(study, "relu")
    add(study, "topk_80", entry={"name": "topk_80", "sparsity": 0.8})
    table = points(*study.tables(), ["cross_entropy"], "relu")
    assert table.groupby("configuration")["target_sparsity"].first().fillna(-1).to_dict() == {
        "relu": -1,
        "topk_80": 0.8,
    }
    assert set(table.loc[table["mechanism"].notna(), "configuration"]) == {"topk_80"}


def test_points_of_one_cell_in_two_blocks_of_seeds_stand_together(study: Traces) -> None:
    add(study, seeds=[0, 1])
    add(study, seeds=[2])
    table = points(*study.tables(), ["cross_entropy"], "relu")
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["score"].tolist() == [value("relu", seed, 4) for seed in range(3)]


def scored(**scores: float) -> object:
    def rows(seed: int) -> Iterator[Fact]:
        for metric, score in {"activation_sparsity": 0.5, "loss": 9.0, **scores}.items():
            if not np.isnan(score):
                yield Fact(seed, 4, "test", None, None, metric, score + seed)

    return rows


def test_a_relative_score_is_over_the_mean_of_the_architectures_own_baseline(study: Traces) -> None:
    study.add(scored(accuracy=1.0))  # type: ignore[arg-type]
    study.add(scored(accuracy=2.0), activation="gelu")  # type: ignore[arg-type]
    study.add(scored(accuracy=2.0), activation="gelu", architecture="vit")  # type: ignore[arg-type]
    study.add(scored(accuracy=-5.0), architecture="cnn")  # type: ignore[arg-type]
    table = points(*study.tables(), ["cross_entropy"], "relu")
    found = table.groupby(["architecture", "configuration"])["relative_score"].agg(list)
    assert found["mlp"].to_dict() == {"gelu": [1, 1.5, 2], "relu": [0.5, 1, 1.5]}  # the baseline scores 1, 2, 3
    assert table.loc[table["architecture"] != "mlp", "relative_score"].isna().all()


def test_a_score_is_the_accuracy_or_else_pesq_or_else_stoi(study: Traces) -> None:
    study.add(scored(accuracy=1.0, stoi=3.0), architecture="gpt")  # type: ignore[arg-type]
    study.add(scored(pesq=2.0, stoi=3.0), architecture="mpsenet")  # type: ignore[arg-type]
    study.add(scored(stoi=3.0), architecture="other")  # type: ignore[arg-type]
    table = points(*study.tables(), ["cross_entropy"], "relu")
    found = table.groupby("architecture", sort=False)[["metric", "score"]].agg(list)
    assert found["metric"].to_dict() == {"gpt": ["accuracy"] * 3, "mpsenet": ["pesq"] * 3, "other": ["stoi"] * 3}
    assert found["score"].to_dict() == {"gpt": [1, 2, 3], "mpsenet": [2, 3, 4], "other": [3, 4, 5]}


def test_all_points_of_an_architecture_have_the_same_score(study: Traces) -> None:
    """Where PESQ fails for one run, all are judged by STOI: no curve mixes two scales."""
    study.add(scored(pesq=2.0, stoi=0.5), activation="relu")  # type: ignore[arg-type]
    study.add(scored(pesq=float("nan"), stoi=0.6), activation="gelu")  # type: ignore[arg-type]
    table = points(*study.tables(), ["cross_entropy"], "relu")
    assert set(table["metric"]) == {"stoi"}
    assert table["score"].tolist() == pytest.approx([0.6, 1.6, 2.6, 0.5, 1.5, 2.5])  # GELU, ReLU


def test_each_architecture_is_judged_with_the_first_of_the_losses_that_it_has(study: Traces) -> None:
    for architecture, loss, data in [
        ("mlp", "mse", "real"),
        ("mlp", "cross_entropy", "real"),
        ("vit", "mse", "real"),
        ("vit", "cross_entropy", "random"),
        ("mpsenet", "speech", "real"),
        ("cnn", "other", "real"),
    ]:
        study.add(outcome("relu"), architecture=architecture, loss=loss, data=data)  # type: ignore[arg-type]
    table = points(*study.tables(), ["cross_entropy", "mse", "speech"], "relu")
    found = table.groupby("architecture")["loss"].unique().map(list).to_dict()
    assert found == {"mlp": ["cross_entropy"], "vit": ["mse"], "mpsenet": ["speech"]}


# ------------------------------------------------------------------------------------------ gradients


def test_gradient_signs_are_tested_over_seeds(study: Traces) -> None:
    def rows(seed: int) -> Iterator[Fact]:
        for step, layer, metric in product((0, 1), ("a", "b"), ("gradient_all", "gradient_positive")):
            yield Fact(seed, step, "train", layer, 0, metric, value(seed, step, layer, metric))
        yield Fact(seed, 0, "train", "a", 0, "gradient_nonpositive", 0.0)

    study.add(rows, seeds=range(5), diverged={4: 2})
    table = gradients.gradient_signs(*study.tables(), LEVEL).set_index("metric")
    assert set(table.index) == {"gradient_all", "gradient_positive", "gradient_nonpositive"}
    for metric in ("gradient_all", "gradient_positive"):
        numbers = [np.mean([value(seed, 0, layer, metric) for layer in "ab"]) for seed in range(4)]
        test = stats.ttest_1samp(numbers, 0)
        interval = test.confidence_interval(LEVEL)
        found = table.loc[metric, ["mean", "low", "high", "t", "p", "n"]].tolist()
        assert found == pytest.approx([np.mean(numbers), *interval, test.statistic, test.pvalue, 4])
    assert table.loc["gradient_nonpositive", ["mean", "low", "high"]].tolist() == [0, 0, 0]
    assert table.loc["gradient_nonpositive", ["t", "p"]].isna().all()  # ReLU passes nothing back: 0 for every seed


# ------------------------------------------------------------------------------------------ spikes


def spiking(factor: float, steps: tuple[int, ...] = (0, 4), dead: bool = False) -> object:
    """Spikes factor x 2^seed at site a; site b, twice that. dead: site b is 0."""

    def rows(seed: int) -> Iterator[Fact]:
        for step in steps:
            for depth, layer in enumerate("ab"):
                spike = factor * 2.0**seed * (1 + depth) * (1 - dead * depth)
                yield Fact(seed, step, "test", layer, depth, "spike", spike)
                yield Fact(seed, step, "test", layer, depth, "spike_ratio", 3.0 if spike else float("nan"))
            yield Fact(seed, step, "test", None, None, "spike", factor * 2.0**seed * (2 - dead))

    return rows


def test_spikes_are_geometric_means_over_seeds(study: Traces) -> None:
    study.add(spiking(3.0))  # type: ignore[arg-type]
    table = spikes.spikes(*study.tables(), "relu", LEVEL).set_index(["metric", "layer", "step"])
    assert table.loc[("spike", "a", 4), "mean"].item() == pytest.approx(3 * (1 * 2 * 4) ** (1 / 3))
    logs = np.log([3.0, 6.0, 12.0])
    interval = np.exp(stats.t.interval(LEVEL, 2, logs.mean(), stats.sem(logs)))
    assert table.loc[("spike", "a", 4), ["low", "high"]].to_numpy().ravel() == pytest.approx(interval)
    assert table.loc[("spike_ratio", "b", 0), "mean"].item() == pytest.approx(3)
    whole = table[table.index.get_level_values("layer").isna()]["mean"]
    assert whole["spike"].tolist() == pytest.approx([12.0, 12.0])
    assert whole["spike_ratio"].tolist() == pytest.approx([3.0, 3.0])
    assert table.loc[("spike", "a", 4), "values"] == pytest.approx([3.0, 6.0, 12.0])


def test_amplification_is_over_relu_at_the_same_site_step_and_seed(study: Traces) -> None:
    study.add(spiking(2.0))  # type: ignore[arg-type]
    study.add(spiking(50.0), activation="relu2", seeds=[1, 2, 5])  # type: ignore[arg-type]
    study.add(spiking(7.0), activation="relu2", loss="mse")  # type: ignore[arg-type]  # has no ReLU to compare with
    table = spikes.spikes(*study.tables(), "relu", LEVEL)
    table = table[table["metric"] == "amplification"]
    assert len(table) == 2 * 3  # steps x two sites and the whole model
    assert set(table["activation"]) == {"relu2"}
    assert table[["mean", "low", "high"]].to_numpy() == pytest.approx(25)  # for each seed, so that nothing varies
    assert set(table["n"]) == {2}  # seeds 1 and 2
    assert spikes.spikes(*study.tables(), None, LEVEL)["metric"].isin(["spike", "spike_ratio"]).all()


def test_a_dead_site_has_no_spike_and_amplifies_nothing(study: Traces) -> None:
    study.add(spiking(2.0, dead=True))  # type: ignore[arg-type]
    study.add(spiking(50.0), activation="relu2")  # type: ignore[arg-type]
    table = spikes.spikes(*study.tables(), "relu", LEVEL)
    relu = table[(table["activation"] == "relu") & table["layer"].notna()]
    assert set(relu["layer"]) == {"a"}
    assert set(table.loc[(table["metric"] == "amplification") & table["layer"].notna(), "layer"]) == {"a"}


def test_places_of_spikes_stand_beside_what_uniform_placement_gives(study: Traces) -> None:
    def rows(seed: int) -> Iterator[Fact]:
        yield from spiking(1.0, (4,))(seed)  # type: ignore[operator]
        yield Fact(seed, 4, "test", "a", 0, "spike_first_token_share", 0.1 * seed)
        yield Fact(seed, 4, "test", "a", 0, "spike_delimiter_share", 0.3)
        yield Fact(seed, 4, "test", None, None, "first_token_share", 1 / 64)
        yield Fact(seed, 4, "test", None, None, "delimiter_share", 0.2)

    study.add(rows)
    table = spikes.spikes(*study.tables(), "relu", LEVEL).set_index("metric")
    interval = stats.t.interval(LEVEL, 2, 0.1, stats.sem([0.0, 0.1, 0.2]))
    columns = ["mean", "low", "high", "expected", "n"]
    assert table.loc["spike_first_token_share", columns].tolist() == pytest.approx([0.1, *interval, 1 / 64, 3])
    assert table.loc["spike_delimiter_share", ["mean", "expected"]].tolist() == pytest.approx([0.3, 0.2])
    assert table.loc["spike", "expected"].isna().all()


T, DELIMITERS = 8, (0, 3)


def placed(tokens: torch.Tensor, a: torch.Tensor, sizes: list[int], delimiters: Any = DELIMITERS) -> dict[Any, float]:
    """What the probe finds where the activations (N, T, features) are `a`, in batches of these sizes."""
    model = nn.Sequential(Site(nn.Identity()))
    model.register_parameter("place", nn.Parameter(torch.zeros(1)))  # says where the model is
    parts = zip(tokens.split(sizes), a.split(sizes), strict=True)
    rows = activation_stats.activation_stats(model, lambda batch: model(batch[1]), list(parts), delimiters)
    return {(layer, metric): value for _, layer, _, metric, value in rows}


@pytest.mark.parametrize("sizes", [[6], [4, 2], [1] * 6])
def test_the_probe_finds_spikes_at_known_tokens(sizes: list[int]) -> None:
    tokens = torch.full((6, T), 7)
    tokens[:, 2], tokens[:, 5] = 0, 3  # 2 of 8 tokens are delimiters
    a = 0.1 * torch.randn(6, T, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for window, (token, spike) in enumerate([(0, 9.0), (0, -9.0), (5, -20.0), (2, 5.0), (1, 5.0)]):
        a[window, token, window % 4] = spike
    a[5] = 0  # has no spike
    found = placed(tokens, a, sizes)
    assert found["0", "spike_first_token_share"] == pytest.approx(2 / 5)
    assert found["0", "spike_delimiter_share"] == pytest.approx(2 / 5)
    assert found[None, "first_token_share"] == 1 / T
    assert found[None, "delimiter_share"] == 2 / T
    assert (found["0", "spike"], found[None, "spike"]) == (20, 20)


def test_equal_spikes_share_a_window() -> None:
    """A clipped activation has its largest value at many tokens: the first of them is not where the spike is."""
    tokens = torch.tensor([[1, 0, 1, 3]] * 2)
    a = torch.zeros(2, 4, 3)
    a[0, :, 1] = 50  # all four tokens
    a[1, 1:3] = 50  # a delimiter and another token
    found = placed(tokens, a, [2])
    assert found["0", "spike_first_token_share"] == pytest.approx((1 / 4 + 0) / 2)
    assert found["0", "spike_delimiter_share"] == pytest.approx((2 / 4 + 1 / 2) / 2)


def test_random_activations_spike_at_tokens_as_often_as_placement_at_random() -> None:
    random = torch.Generator().manual_seed(0)
    n = 4000
    tokens = torch.randint(10, (n, T), generator=random)
    found = placed(tokens, torch.randn(n, T, 3, generator=random), [n])
    for metric in ("first_token_share", "delimiter_share"):
        share = found[None, metric]
        assert abs(found["0", f"spike_{metric}"] - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_places_are_measured_only_where_there_are_tokens_delimiters_and_spikes() -> None:
    tokens, a = torch.zeros(2, T, dtype=torch.int64), torch.ones(2, T, 3)
    metrics = [{metric for _, metric in placed(tokens, a, [2], known)} for known in (None, (), (0,))]
    assert not any("token" in metric or "delimiter" in metric for metric in metrics[0])
    assert metrics[1] - metrics[0] == {"first_token_share", "spike_first_token_share"}
    assert metrics[2] - metrics[1] == {"delimiter_share", "spike_delimiter_share"}
    silent = placed(tokens, 0 * a, [2])
    assert ("0", "spike_first_token_share") not in silent
    assert silent[None, "first_token_share"] == 1 / T


# ------------------------------------------------------------------------------------------ sparsity


def test_sparsity_over_steps_is_the_models(study: Traces) -> None:
    add(study)
    table = sparsity.sparsity_over_steps(*study.tables(), LEVEL).set_index(["metric", "step"])
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
    table = sparsity.sparsity_by_depth(*study.tables(), LEVEL)
    assert table["depth"].tolist() == [0, 1, 2]
    assert table["mean"].tolist() == pytest.approx([0.4, 1.4, 2.4])
    assert table["n"].tolist() == [3, 3, 3]


# ------------------------------------------------------------------------------------------ drift

FED = ("blocks.0.weight", "blocks.1.weight")
STD = 0.25  # of every matrix at initialization


def drifting(activation: str, data: str = "real", fed: tuple[str, ...] = FED) -> object:
    def rows(seed: int) -> Iterator[Fact]:
        for depth, matrix in enumerate(["stem.weight", *FED, "head.weight"]):
            if matrix in (*fed, "head.weight"):
                yield Fact(seed, 0, None, matrix, depth, "fed_by_activation", 1.0)
            if matrix == "head.weight":
                yield Fact(seed, 0, None, matrix, depth, "head_weight", 1.0)
            yield Fact(seed, 0, None, matrix, depth, "weight_std", STD)
            for step in (0, 1, 4):
                mean = value(activation, data, seed, matrix, step)
                yield Fact(seed, step, None, matrix, depth, "weight_mean", mean)
        for depth, site in enumerate(("stem.act", "blocks.0.act")):
            yield Fact(seed, 0, "test", site, depth, "preactivation_std", 2.0)
            for step in (0, 1, 4):
                yield Fact(seed, step, "test", site, depth, "preactivation_mean", 2.0 * (1 + depth) * step + seed)

    return rows


def expected(activation: str, data: str = "real", seeds: range = range(3), step: int = 4) -> np.ndarray:
    def d(seed: int, matrix: str) -> float:
        return (value(activation, data, seed, matrix, step) - value(activation, data, seed, matrix, 0)) / STD

    return np.array([np.mean([d(seed, matrix) for matrix in FED]) for seed in seeds])


@pytest.fixture
def drifted(study: Traces) -> Tables:
    for activation in ("relu", "tanh"):
        for data in ("real", "random"):
            study.add(drifting(activation, data), activation=activation, data=data)  # type: ignore[arg-type]
    return study.tables()


def test_drift_is_the_mean_over_fed_matrices_without_the_head(drifted: Tables) -> None:
    table = drift.drift(*drifted, LEVEL)
    table = table[table["quantity"] == "weights"].set_index(["activation", "data", "step"])
    assert len(table) == 2 * 2 * 3
    for (activation, data, step), row in table.iterrows():  # type: ignore[misc]
        numbers = expected(activation, data, step=step)
        error = stats.sem(numbers)  # 0 at step 0
        interval = stats.t.interval(LEVEL, 2, numbers.mean(), error) if step else (0, 0)
        assert row[["mean", "low", "high"]].tolist() == pytest.approx([numbers.mean(), *interval])


def test_the_drift_of_preactivations_is_the_mean_over_sites(drifted: Tables) -> None:
    table = drift.drift(*drifted, LEVEL)
    own = table[(table["quantity"] == "pre-activations") & (table["activation"] == "relu") & (table["data"] == "real")]
    assert own["step"].tolist() == [0, 1, 4]
    assert own["mean"].tolist() == pytest.approx([0, 1.5, 6])  # the seed's offset is there from the start
    assert own["low"].tolist() == pytest.approx(own["high"].tolist())


def test_a_site_without_spread_at_the_start_has_no_drift(study: Traces) -> None:
    def rows(seed: int) -> Iterator[Fact]:
        for site, std in (("a", 0.0), ("b", 2.0)):
            yield Fact(seed, 0, "test", site, 0, "preactivation_std", std)
            for step in (0, 4):
                yield Fact(seed, step, "test", site, 0, "preactivation_mean", float(step))

    study.add(rows)
    assert drift.drift(*study.tables(), LEVEL)["mean"].tolist() == [0, 2]


def contrasts(tables: Tables, control: str) -> pd.DataFrame:
    table = drift.drift_contrasts(*tables, [control], LEVEL)
    return table[table["quantity"] == "weights"]


def test_contrasts_are_paired_by_seed(drifted: Tables) -> None:
    table = contrasts(drifted, "tanh").set_index(["activation", "data", "against"])
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
    table = contrasts(study.tables(), "tanh").set_index(["activation", "against"])
    seeds = range(1, 3)
    difference = expected("relu", seeds=seeds) - expected("tanh", seeds=seeds)
    assert table.loc[("relu", "tanh"), ["mean", "n"]].tolist() == pytest.approx([difference.mean(), 2])
    assert table.loc[("relu", "nothing"), "n"] == 3


def test_equal_differences_have_no_p_value(study: Traces) -> None:
    study.add(drifting("relu"))  # type: ignore[arg-type]
    study.add(drifting("relu"), activation="copy")  # type: ignore[arg-type]
    table = contrasts(study.tables(), "copy").set_index(["activation", "against"])
    assert table.loc[("relu", "copy"), ["mean", "low", "high"]].tolist() == [0, 0, 0]
    assert np.isnan(table.loc[("relu", "copy"), "p"])


def test_matrices_that_no_activation_feeds_do_not_count(study: Traces) -> None:
    study.add(drifting("relu", fed=FED[:1]))  # type: ignore[arg-type]
    table = drift.drift(*study.tables(), LEVEL)
    row = table[(table["quantity"] == "weights") & (table["step"] == 4)].iloc[0]
    before, after = (np.mean([value("relu", "real", s, FED[0], step) for s in range(3)]) for step in (0, 4))
    assert row["mean"] == pytest.approx((after - before) / STD)


# ------------------------------------------------------------------------------------------ weights


def weights_of(seed: int, matrix: str, step: int) -> np.ndarray:
    spread = 3.0 if matrix == FED[1] and step else 0.8  # the wider one reaches into the open bins
    return np.random.default_rng([seed, len(matrix), int(matrix == FED[1]), step]).normal(0, spread, 500)


def histogrammed(seed: int) -> Iterator[Fact]:
    edges = [-np.inf, *HISTOGRAM_EDGES, np.inf]
    for depth, matrix in enumerate([*FED, "head.weight", "stem.weight"]):
        if matrix != "stem.weight":
            yield Fact(seed, 0, None, matrix, depth, "fed_by_activation", 1.0)
        if matrix == "head.weight":
            yield Fact(seed, 0, None, matrix, depth, "head_weight", 1.0)
        for step in (0, 4):
            counts, _ = np.histogram(weights_of(seed, matrix, step), edges)
            for i, count in enumerate(counts):
                yield Fact(seed, step, None, matrix, depth, f"weight_histogram.{i:02d}", count / 500)


def test_histograms_are_the_densities_of_the_fed_hidden_weights(study: Traces) -> None:
    study.add(histogrammed)
    table = weights.histograms(*study.tables())
    for moment, step in (("start", 0), ("end", 4)):
        rows = table[table["moment"] == moment].sort_values("left")
        assert rows["left"].tolist() == HISTOGRAM_EDGES[:-1]
        assert rows["right"].tolist() == HISTOGRAM_EDGES[1:]
        every = np.concatenate([weights_of(seed, matrix, step) for seed in range(3) for matrix in FED])
        shares = np.histogram(every, HISTOGRAM_EDGES)[0] / every.size
        assert (rows["density"] * 0.25).to_numpy() == pytest.approx(shares)
        assert (rows["density"] * (rows["right"] - rows["left"])).sum() == pytest.approx(np.mean(np.abs(every) <= 6))
        assert set(rows["n"]) == {3}
        assert rows["outside"].to_numpy() == pytest.approx(np.mean(np.abs(every) > 6))
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
        "score",
        "metric",
        "loss",
        "near_zero_share",
        "target_sparsity",
        "mechanism",
        "relative_score",
    },
    "drift": {*means.CELL, "quantity", "step", "mean", "low", "high", "n", "level"},
    "drift_contrasts": {*means.CELL, "quantity", "against", "mean", "low", "high", "n", "level", "p"},
    "sparsity_over_steps": {*means.CELL, "metric", "step", "mean", "low", "high", "n", "level", "dense"},
    "sparsity_by_depth": {*means.CELL, "metric", "layer", "depth", "mean", "low", "high", "n", "level", "dense"},
    "histograms": {*means.CELL, "moment", "left", "right", "density", "outside", "n"},
    "gradient_signs": {*means.CELL, "metric", "mean", "low", "high", "n", "level", "t", "p"},
    "spikes": {*means.CELL, "metric", "layer", "depth", "step", "mean", "low", "high", "n", "level", "expected"},
}


def everything(seed: int) -> Iterator[Fact]:
    yield from outcome("relu")(seed)  # type: ignore[operator]
    yield from drifting("relu")(seed)  # type: ignore[operator]
    yield Fact(seed, 0, "train", "a", 0, "gradient_all", 1.0)
    yield from spiking(2.0)(seed)  # type: ignore[operator]
    yield from (fact for fact in histogrammed(seed) if fact.metric != "fed_by_activation")


def all_tables(facts: pd.DataFrame, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "points": points(facts, runs, ["cross_entropy"], "relu"),
        "drift": drift.drift(facts, runs, LEVEL),
        "drift_contrasts": drift.drift_contrasts(facts, runs, ["relu"], LEVEL),
        "sparsity_over_steps": sparsity.sparsity_over_steps(facts, runs, LEVEL),
        "sparsity_by_depth": sparsity.sparsity_by_depth(facts, runs, LEVEL),
        "histograms": weights.histograms(facts, runs),
        "gradient_signs": gradients.gradient_signs(facts, runs, LEVEL),
        "spikes": spikes.spikes(facts, runs, "relu", LEVEL),
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
    assert points["score"].tolist() == [0.5] * 3
    assert points["sparsity"].isna().all()
    for name, table in tables.items():
        assert COLUMNS[name] <= set(table.columns), name
        assert table.empty, name


def test_one_seed_gives_every_table_without_intervals_and_without_warnings(study: Traces) -> None:
    study.add(everything, seeds=[7])  # warnings are errors here
    for name, table in all_tables(*study.tables()).items():
        assert not table.empty, name
        assert table.filter(["low", "high", "p"]).isna().all(axis=None), name


# ------------------------------------------------------------------------------------------ FLOPs


def test_flops_are_the_share_that_remains_beside_the_score() -> None:
    rows, names = [], {"r0": "relu", "r1": "topk_90", "r2": "silent"}
    for run, potential, dense in (("r0", 50.0, 100.0), ("r1", 8.0, 100.0), ("r2", 0.0, 0.0)):
        for seed in (0, 1):
            for step, factor in ((0, 2.0), (4, 1.0)):  # the last step counts
                about = {"run": run, "seed": seed, "step": step, "layer": None}
                rows.append({**about, "metric": "potential_flops", "value": factor * potential + seed * (step > 0)})
                rows.append({**about, "metric": "dense_flops", "value": dense})
            rows.append({"run": run, "seed": seed, "step": 4, "layer": "site", "metric": "dense_flops", "value": 7.0})
    about_runs = pd.DataFrame(
        [
            {"run": run, "seed": seed, "architecture": "mlp", "configuration": names[run]}
            for run in names
            for seed in (0, 1)
        ]
    )
    levels = pd.DataFrame([{"architecture": "mlp", "configuration": name, "relative": 1.0} for name in names.values()])
    table = flops(pd.DataFrame(rows), about_runs, levels, 0.9)
    assert dict(zip(table["configuration"], table["flops"], strict=True)) == pytest.approx(
        {"relu": 0.505, "topk_90": 0.085}
    )
    assert (table["level"] == 0.9).all()
    nothing = flops(pd.DataFrame(rows).assign(metric="loss"), about_runs, levels, 0.9)
    assert nothing.empty
    assert {"flops", "relative", "level"} <= set(nothing.columns)


# ------------------------------------------------------------------------------------------ loss and spikes


def test_loss_and_spikes_are_means_of_seeds_over_intermediate_sites() -> None:
    cell = {"architecture": "gpt", "activation": "relu", "normalization": "default", "loss": "cross_entropy"}
    rows = []
    for seed, (loss, ratios) in enumerate([(2.0, (1, 4, 9, 100)), (3.0, (1, 16, 1, 100)), (4.0, (1, 0, 64, 100))]):
        for data in ("real", "random"):
            about = {**cell, "data": data, "run": data, "seed": seed, "split": "test", "step": 4}
            rows.append({**about, "layer": None, "depth": None, "metric": "loss", "value": loss})
            rows.append({**about, "layer": None, "depth": None, "metric": "loss", "value": 9.0, "step": 0})
            for depth, ratio in enumerate(ratios):
                rows.append(
                    {**about, "layer": f"b{depth}", "depth": depth, "metric": "spike_ratio", "value": float(ratio)}
                )
    runs = pd.DataFrame(
        [{"run": data, "seed": seed, "status": "finished"} for data in ("real", "random") for seed in range(3)]
    )
    (row,) = loss_and_spikes(pd.DataFrame(rows), runs, 0.95).itertuples()
    assert row.data == "real"
    assert (row.held_out_loss, row.n, list(row.losses), list(row.seeds)) == (3.0, 3, [2.0, 3.0, 4.0], [0, 1, 2])
    assert list(row.ratios) == pytest.approx([6, 4, 64])  # a site without a spike does not count
    assert row.spike_ratio == pytest.approx((6 * 4 * 64) ** (1 / 3))
    assert row.ratio_low < row.spike_ratio < row.ratio_high
    assert (row.loss_low + row.loss_high) / 2 == pytest.approx(3.0)


def test_two_sites_are_both_intermediate() -> None:
    about = {"architecture": "mlp", "activation": "relu", "normalization": "default", "loss": "mse", "data": "real"}
    about |= {"run": "r", "seed": 0, "split": "test", "step": 4}
    rows = [{**about, "layer": None, "depth": None, "metric": "loss", "value": 1.0}]
    rows += [
        {**about, "layer": f"b{i}", "depth": i, "metric": "spike_ratio", "value": r} for i, r in enumerate((2.0, 8.0))
    ]
    runs = pd.DataFrame([{"run": "r", "seed": 0, "status": "finished"}])
    (row,) = loss_and_spikes(pd.DataFrame(rows), runs, 0.95).itertuples()
    assert row.spike_ratio == pytest.approx(4.0)
