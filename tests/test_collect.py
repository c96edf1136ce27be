"""Collecting: many traces become two tables, and none but the study's own traces gets in."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sparsity_cliff.analysis import collect as module
from sparsity_cliff.analysis import facts
from sparsity_cliff.analysis.collect import collect, mechanism
from sparsity_cliff.analysis.means import finished, named
from sparsity_cliff.traces import schema, writer
from sparsity_cliff.traces.schema import Fact, TraceError

Rows = Callable[[int], Iterable[Fact]]


class Traces:
    """Traces of an invented study in a folder, and the tables collected from them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.specs: dict[str, str] = {}
        self.codes: dict[str, str] = {}

    def add(
        self,
        rows: Rows,
        seeds: Iterable[int] = (0, 1, 2),
        diverged: dict[int, int] | None = None,
        processors: Iterable[str] = ("EPYC",),
        **spec: Any,
    ) -> str:
        """Write a run's trace; its id. rows: seed -> facts. diverged: seed -> step. processors: one after another.
        spec: names, or entries."""
        names = {"architecture": "mlp", "activation": "relu", "normalization": "default", "loss": "cross_entropy"}
        entries = {key: {"name": name} for key, name in names.items()}
        axis = spec.pop("data", "real")
        entries |= {key: value if isinstance(value, dict) else {"name": value} for key, value in spec.items()}
        labels = {key: entry["name"] for key, entry in entries.items()} | {"data": axis}
        seeds = list(seeds)
        labels["run"] = ".".join([*labels.values(), "s" + "-".join(map(str, seeds))])
        text = json.dumps(
            {**entries, "data": {"name": "digits", "axis": axis}, "training": {"steps": 4}, "seeds": seeds}
        )
        status = {str(s): f"diverged at step {diverged[s]}" if s in (diverged or {}) else "finished" for s in seeds}  # type: ignore[index]
        about = {"run": labels["run"], "spec": text, "status": status, "device": "cpu", "threads": 1}
        about |= {"versions": {"torch": "2.15.0"}, "seconds": {"wall": 2.0, "probes": 0.5}, "code": {"train": "a"}}
        about |= {"environments": [{"processor": name, "instruction_set": "AVX2"} for name in processors]}
        path = self.folder / f"{labels['run']}.parquet"
        writer.write(path, labels, [fact for seed in seeds for fact in rows(seed)], about)
        self.files[labels["run"]], self.specs[labels["run"]] = path, text
        self.codes[labels["run"]] = '{"train": "a"}'
        return labels["run"]

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The tables `facts` and `runs`, as the analysis reads them."""
        return self.collected()[:2]

    def collected(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The tables `facts`, `runs`, and `examples`."""
        paths = [self.folder / f"{name}.parquet" for name in ("facts", "runs", "examples")]
        collect(self.files, self.specs, self.codes, *paths, origin="f" * 64)
        facts, runs, examples = map(pd.read_parquet, paths)
        return facts, runs, examples


def rows(seed: int) -> list[Fact]:
    return [
        Fact(seed, 0, "test", None, None, "loss", 2.0 + seed),
        Fact(seed, 4, None, "stem.weight", 0, "drift_z", -1.0),
    ]


def test_facts_are_all_rows_of_all_traces(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    names = [study.add(rows, activation=name) for name in ("gelu", "relu")]
    facts, _ = study.tables()
    assert facts.columns.tolist() == [name for name in schema.SCHEMA.names if name != "example"]
    assert facts["run"].tolist() == [name for name in names for _ in range(6)]
    assert facts["value"].tolist() == [2.0, -1.0, 3.0, -1.0, 4.0, -1.0] * 2
    assert facts["layer"].isna().tolist() == [True, False] * 6


def test_the_scores_of_held_out_examples_are_a_table_of_their_own(tmp_path: Path) -> None:
    def judged(seed: int) -> list[Fact]:
        scores = [Fact(seed, 4, "test", None, None, "accuracy", value, i) for i, value in enumerate([0.0, 1.0, 0.5])]
        return [*rows(seed), *scores, Fact(seed, 4, "test", None, None, "pesq", 2.5, 2)]  # 0 and 1 have none

    study = Traces(tmp_path)
    name = study.add(judged, seeds=[3, 5])
    study.add(rows, activation="silu")
    facts, _, examples = study.collected()
    assert "accuracy" not in set(facts["metric"])
    assert list(zip(examples["run"], examples["seed"], examples["metric"], strict=True)) == [
        (name, seed, metric) for seed in (3, 5) for metric in ("accuracy", "pesq")
    ]
    assert examples["values"].iloc[0].tolist() == [0.0, 1.0, 0.5]
    assert examples["values"].iloc[1] == pytest.approx([np.nan, np.nan, 2.5], nan_ok=True)


def test_runs_have_a_row_per_seed(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    study.add(rows, seeds=[3, 4], diverged={4: 2}, loss="mse", data="random")
    study.add(rows, seeds=[0], activation={"name": "topk_80", "sparsity": 0.8})
    study.add(rows, seeds=[0], activation={"name": "q70", "q": 0.7}, processors=["Xeon", "EPYC"])
    _, runs = study.tables()
    assert runs["activation"].tolist() == ["q70", "relu", "relu", "topk_80"]  # in the order of the ids
    assert runs["seed"].tolist() == [0, 3, 4, 0]
    assert runs["status"].tolist() == ["finished", "finished", "diverged", "finished"]
    assert runs["diverged_step"].fillna(-1).tolist() == [-1, -1, 2, -1]
    assert runs["target_sparsity"].fillna(-1).tolist() == [0.7, -1, -1, 0.8]
    assert runs["mechanism"].fillna("none").tolist() == ["activation()", "none", "none", "activation()"]
    assert runs.loc[1, ["data", "dataset", "loss", "steps"]].tolist() == ["random", "digits", "mse", 4]
    assert runs.loc[1, ["device", "threads", "torch"]].tolist() == ["cpu", 1, "2.15.0"]
    assert runs["processor"].tolist() == ["Xeon + EPYC", *["EPYC"] * 3]
    assert runs["instruction_set"].tolist() == ["AVX2"] * 4


def test_the_mechanism_is_all_of_a_control_but_its_level() -> None:
    own = {"name": "default", "function": None}
    relu = {"name": "relu", "function": "relu"}
    topk = {"name": "mine", "function": "topk", "base": "relu", "over": "example", "sparsity": 0.8}
    norm = {"name": "q70", "function": "quantile_layer_norm", "eps": 1e-5, "q": 0.7}
    assert mechanism({"activation": relu, "normalization": own}) is None
    for level in (0.8, 0.9):
        spec = {"activation": topk | {"name": f"topk_{level}", "sparsity": level}, "normalization": own}
        assert mechanism(spec) == "topk(base=relu, over=example)"
    plain = {"name": "plain", "function": "layer_norm"}
    found = mechanism({"activation": topk, "normalization": plain})
    assert found == "topk(base=relu, normalization=plain, over=example)"
    found = mechanism({"activation": relu, "normalization": norm})
    assert found == "quantile_layer_norm(activation=relu, eps=1e-05)"


def test_the_seconds_of_runs_add_up_to_those_of_their_jobs(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    study.add(rows, seeds=range(15))
    study.add(rows, seeds=[0, 1], activation="gelu")
    _, runs = study.tables()
    seconds = runs.groupby("activation")[["wall_seconds", "probes_seconds"]].sum()  # each job: 2.0 and 0.5
    assert seconds.to_numpy() == pytest.approx(np.array([[2.0, 0.5], [2.0, 0.5]]))


def test_the_order_in_which_runs_are_named_changes_no_table(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    for name in ("relu", "gelu", "tanh"):
        study.add(rows, activation=name)
    before = study.tables()
    study.files = dict(reversed(study.files.items()))
    for first, second in zip(before, study.tables(), strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_trace_of_other_code_is_refused_by_name(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    run = study.add(rows)
    study.codes[run] = '{"train": "b"}'
    with pytest.raises(TraceError, match=f"{run}.parquet: made with different code of train"):
        study.tables()


def test_a_trace_of_before_processors_were_recorded_has_none(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    study.add(rows, seeds=[0], processors=[])
    assert study.tables()[1]["processor"].isna().all()


def test_a_trace_of_another_spec_is_refused_by_name(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    run = study.add(rows)
    study.specs[run] = study.specs[run].replace('"steps": 4', '"steps": 5')
    with pytest.raises(TraceError) as caught:
        study.tables()
    assert str(study.files[run]) in str(caught.value)
    assert "training.steps changed from 4 to 5" in str(caught.value)


def test_a_trace_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    one, two = (study.add(rows, activation=name) for name in ("relu", "gelu"))
    study.files[one] = study.files[two]
    with pytest.raises(TraceError, match=f"this is the trace of {two}, not of {one}"):
        study.tables()


def test_a_missing_trace_is_refused_by_name(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    study.files[study.add(rows)].unlink()
    with pytest.raises(TraceError, match="trace missing"):
        study.tables()
    assert [path.name for path in tmp_path.iterdir()] == []  # and no half of a table


def test_a_run_without_a_trace_is_in_the_table_of_runs_only(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    lost = study.add(rows, seeds=[3, 4], activation={"name": "topk_80", "sparsity": 0.8})
    kept = study.add(rows, seeds=[0])
    del study.files[lost]
    facts, runs, examples = study.collected()
    assert set(facts["run"]) == {kept}
    assert len(examples) == 0
    runs = runs.set_index(["run", "seed"])
    assert runs["status"].to_dict() == {(kept, 0): "finished", (lost, 3): "missing", (lost, 4): "missing"}
    missing = runs.loc[lost]
    assert missing["activation"].tolist() == ["topk_80"] * 2
    assert missing["target_sparsity"].tolist() == [0.8] * 2
    assert missing[["device", "threads", "torch", "wall_seconds", "diverged_step"]].isna().all(axis=None)


def judged(seed: int) -> list[Fact]:
    """Facts with the scores of single examples, more of them in later seeds."""
    scores = [Fact(seed, 4, "test", None, None, "accuracy", float(i % 2), i) for i in range(seed + 1)]
    return [*rows(seed), *scores, Fact(seed, 0, None, "stem.weight", 0, "gradient_all", 0.5)]


@pytest.mark.parametrize("batch", [1, 2])
def test_the_size_of_a_batch_changes_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    study = Traces(tmp_path)
    for name in ("relu", "gelu", "tanh"):
        study.add(judged, activation=name)
    together = study.collected()
    monkeypatch.setattr(module, "BATCH", batch)
    alone = study.collected()
    assert pq.read_metadata(tmp_path / "facts.parquet").num_row_groups == -(-3 // batch)
    for first, second in zip(together, alone, strict=True):
        for column in first:
            assert list(map(str, first[column])) == list(map(str, second[column])), column
    assert [values.tolist() for values in alone[2]["values"]] == [[0], [0, 1], [0, 1, 0]] * 3


@pytest.mark.parametrize("metrics", [("loss",), ("gradient_*", "loss"), ("drift_z", "drift_z"), ("none",)])
def test_an_analysis_reads_the_facts_of_its_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: tuple[str, ...]
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    study = Traces(tmp_path)
    for name in ("relu", "gelu", "tanh"):
        study.add(judged, activation=name)
    every, _ = study.tables()
    names = {"gradient_all" if name == "gradient_*" else name for name in metrics}
    expected = every[every["metric"].isin(names)].reset_index(drop=True)
    found = named(facts.read(tmp_path / "facts.parquet", metrics))
    pd.testing.assert_frame_equal(found, named(expected), check_dtype=False)  # depths without a gap are integers


def test_finished_facts_are_those_of_a_merge(tmp_path: Path) -> None:
    study = Traces(tmp_path)
    study.add(rows, diverged={1: 2})
    study.add(rows, activation="gelu", diverged={0: 2, 1: 3, 2: 3})
    study.add(rows, activation="tanh", seeds=[5, 1])
    every, runs = study.tables()
    runs = runs[::-1]
    for table in (every, named(every)):
        good = runs.loc[runs["status"] == "finished", ["run", "seed"]]
        pd.testing.assert_frame_equal(named(finished(table, runs)), named(every).merge(good, on=["run", "seed"]))
