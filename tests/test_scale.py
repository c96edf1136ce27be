"""The traces of benchmarks/scale.py are those of its study to every check, and its report says what was measured."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsity_cliff.analysis.collect import collect
from sparsity_cliff.study import table
from sparsity_cliff.traces import reader, stale, writer
from sparsity_cliff.traces.schema import Fact

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale() -> Iterator[Any]:
    """benchmarks/scale.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        yield importlib.import_module("scale")


def original(path: Path, architecture: str) -> Any:
    """A trace of two seeds, with a fact of each kind."""
    labels = {"architecture": architecture, "activation": "relu", "normalization": "default", "loss": "cross_entropy"}
    facts = [
        fact
        for seed in (0, 1)
        for fact in (
            Fact(seed, 20, "test", None, None, "activation_sparsity", 0.5),
            Fact(seed, 20, "test", None, None, "accuracy", 0.5),
            Fact(seed, 20, "test", None, None, "accuracy", 1.0, 0),
            Fact(seed, 20, None, "stem.weight", 0, "fed_by_activation", 1.0),
            Fact(seed, 20, None, "stem.weight", 0, "weight_mean", -0.3),
        )
    ]
    about = {"device": "cpu", "threads": 1, "versions": {"torch": "2.15.0"}, "seconds": {"wall": 1.0}, "spec": "{}"}
    writer.write(path, labels | {"data": "real", "run": "original"}, facts, about)
    return reader.read(path)


def test_copies_are_traces_of_the_runs_of_the_study(scale: Any, tmp_path: Path) -> None:
    study = table.load(scale.config_of(60))
    assert len(study.runs) == 60
    scale.copies(study, {name: original(tmp_path / f"{name}.parquet", name) for name in ("mlp", "resnet")}, tmp_path)
    results = tmp_path / "results" / "scale"
    assert {stale.why_run(run, results) for run in study.runs.values()} == {stale.UP_TO_DATE}
    run = study.runs["mlp.control_0.cross_entropy.real.s2-3"]
    rows, about = reader.read(results / "traces" / f"{run.id}.parquet", run.id, run.spec, run.code)
    assert about["status"] == {"2": "finished", "3": "finished"}
    assert rows["seed"].to_pylist() == [2] * 5 + [3] * 5
    assert {rows[name][0].as_py() for name in ("run", "activation")} == {run.id, "control_0"}
    values = rows["value"].to_pylist()[:5]
    assert values[0] == pytest.approx(json.loads(run.spec)["activation"]["sparsity"], abs=0.05)
    assert values[1] == pytest.approx(0.9, abs=0.1)
    assert values[2] in (0, 1)
    assert values[3] == 1  # a mark
    assert values[4] == pytest.approx(-0.3, abs=0.1)
    files = {name: results / "traces" / f"{name}.parquet" for name in study.runs}
    specs, codes = ({name: getattr(run, part) for name, run in study.runs.items()} for part in ("spec", "code"))
    collect(files, specs, codes, *(tmp_path / f"{name}.parquet" for name in ("a", "b", "c")), origin="f" * 64)


def test_a_study_of_ten_thousand_runs_is_within_the_limits(scale: Any) -> None:
    assert len(table.load(scale.config_of(10_000)).runs) == 10_000


def test_the_report_has_time_per_run_relative_to_the_fewest_runs(scale: Any) -> None:
    few = scale.Measured({"collect": scale.Step(1.0, 10**9)}, wall=2.0, cpu=3.0, memory=10**9)
    many = scale.Measured(
        {"collect": scale.Step(5.0, 2 * 10**9), "snakemake": scale.Step(40.0, 10**8)}, 40.0, 30.0, 3 * 10**9
    )
    head, lines = scale.report({100: few, 1000: many}, rows=7)
    assert "7 rows per run" in head
    assert lines.splitlines()[2:] == [
        "| snakemake | 0.0 s | 40.0 s | – | 0.10 GB |",
        "| collect | 1.0 s | 5.0 s | 0.50 | 2.00 GB |",
        "| processor time, all | 3.0 s | 30.0 s | 1.00 |  |",
        "| **wall time, all** | 2.0 s | 40.0 s | 2.00 | 3.00 GB |",
    ]


def test_processes_are_watched_until_the_command_ends(scale: Any, tmp_path: Path) -> None:
    script = tmp_path / ".snakemake" / "scripts" / "tmp1.collect.py"
    script.parent.mkdir(parents=True)
    script.write_text("import time; time.sleep(0.6)")
    call = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(script)!r}]))"
    found = scale.measure([sys.executable, "-c", call])
    assert set(found.steps) == {"snakemake", "collect"}
    assert found.memory >= found.steps["collect"].memory > 0
    with pytest.raises(SystemExit, match="failed"):
        scale.measure([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_measurement_says_when_and_where(scale: Any) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, commit [0-9a-f]*, .+ \(\d+ cores\), Python 3\.\d+\.\d+", scale.machine())
