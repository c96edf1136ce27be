"""Sweeps of ours on a real SLURM: the same numbers as on this machine, whatever happens on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from cluster import Cluster
from sweeps import Sweep

from sparsity_cliff.traces import reader

PROFILE = ("--workflow-profile", "workflow/profiles/slurm", "--seconds-between-status-checks", "1")
RUNS = [
    f"mlp.{cell}.s0-1"
    for cell in (
        "relu.cross_entropy.real",
        "tanh.cross_entropy.real",
        "topk_80.cross_entropy.real",
        "relu.cross_entropy.random",
        "relu.mse.real",
        "gelu.mse.real",
    )
]
TRACES = [f"results/smoke/traces/{run}.parquet" for run in RUNS]


class OnSlurm:
    """Starts sweeps of a copy of the project on a cluster."""

    def __init__(self, sweep: Sweep, cluster: Cluster):
        self.sweep, self.cluster = sweep, cluster

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", "study.yaml", *PROFILE]
        with open(self.sweep.folder / "snakemake.log", "a") as log:
            return subprocess.Popen(
                [*command, "--submitit-status-interval", "1"],
                cwd=self.sweep.folder,
                env=self.cluster.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str, check: bool = True) -> str:
        process = self.start(*arguments)
        try:
            process.wait(500)
        finally:
            if process.poll() is None:
                process.kill()
        log = (self.sweep.folder / "snakemake.log").read_text()
        assert (process.returncode == 0) == check, log
        return log

    def training(self, run: str) -> psutil.Process:
        """The process that trains a run, once it has begun to."""
        log = self.sweep.results("logs", "train", f"{run}.log")
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if log.exists() and "steps/s" in log.read_text():
                for process in psutil.process_iter():
                    with suppress(psutil.Error):
                        if any(Path(file.path) == log for file in process.open_files()):
                            return process
            time.sleep(0.1)
        raise AssertionError(f"{run} does not train: " + (self.sweep.folder / "snakemake.log").read_text())

    def job(self, run: str) -> str:
        """The id of the job that trains a run."""
        rows = (self.sweep.folder / ".snakemake/submitit/map.tsv").read_text().splitlines()
        return [row.split("\t")[2] for row in rows if row.split("\t")[4] == f"run={run}"][-1]


def tables(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """All tables of a study, without the seconds that they took."""
    found = {path.stem: pd.read_parquet(path) for path in sorted(sweep.results("tables").glob("*.parquet"))}
    runs = found["runs"]
    found["runs"] = runs.drop(columns=[column for column in runs if column.endswith("_seconds")])
    return found


def same(first: Sweep, second: Sweep, run: str) -> None:
    """Both have the same trace of a run, bit for bit."""
    traces = (reader.read(sweep.results("traces", f"{run}.parquet"))[0].to_pandas() for sweep in (first, second))
    pd.testing.assert_frame_equal(*traces, check_exact=True, obj=run)


def test_runs_have_the_same_traces_as_on_this_machine_bit_for_bit(
    finished: Sweep, fresh: Sweep, slurm_factory: Callable[..., Cluster]
) -> None:
    cluster = slurm_factory(nodes=2, cpus=4, memory_mb=64000)
    runs = [RUNS[0], "vit.topk_80.cross_entropy.real.s0-1"]
    OnSlurm(fresh, cluster).run(*(f"results/smoke/traces/{run}.parquet" for run in runs))
    for run in runs:
        same(finished, fresh, run)
    assert all(job.state == "COMPLETED" for job in cluster.jobs())
    assert len(cluster.jobs()) >= 2


@pytest.mark.large
def test_the_smoke_study_has_the_same_tables_as_on_this_machine_bit_for_bit(
    finished: Sweep, fresh: Sweep, slurm_factory: Callable[..., Cluster]
) -> None:
    cluster = slurm_factory(nodes=2, cpus=4, memory_mb=64000)
    OnSlurm(fresh, cluster).run()
    here, there = tables(finished), tables(fresh)
    assert here.keys() == there.keys()
    for name, table in here.items():
        pd.testing.assert_frame_equal(table, there[name], check_exact=True, obj=name)
    assert {path.name for path in fresh.results("figures").iterdir()} == {
        path.name for path in finished.results("figures").iterdir()
    }
    assert all(job.state == "COMPLETED" for job in cluster.jobs())
    assert len(cluster.jobs()) >= 16


@pytest.fixture
def long(fresh: Sweep) -> Sweep:
    """Six runs that train for some seconds each, and save their state every second."""
    fresh.edit("study.yaml", ("    steps: 20", "    steps: 2500"), ("every: 10", "every: 1000"))
    fresh.edit("study.yaml", ("drift:", "checkpoints: {every_seconds: 1}\ndrift:"))
    return fresh


def test_a_killed_job_and_a_killed_snakemake_change_no_number(
    long: Sweep, slurm_factory: Callable[..., Cluster], tmp_path: Path
) -> None:
    reference = Sweep(tmp_path / "reference")
    shutil.copytree(long.folder, reference.folder)
    reference.snakemake(*TRACES[:2])

    sweep = OnSlurm(long, slurm_factory(nodes=2, cpus=2, memory_mb=64000))
    controller = sweep.start(*TRACES[:2])
    sweep.training(RUNS[0]).kill()
    sweep.training(RUNS[1])
    controller.kill()
    controller.wait()
    sweep.run(*TRACES[:2])
    for run in RUNS[:2]:
        same(reference, long, run)
    assert "resuming at seed" in long.results("logs", "train", f"{RUNS[0]}.log").read_text()
    assert not long.results("checkpoints").exists()


@pytest.mark.large
def test_no_fault_loses_anything_or_changes_a_number(
    long: Sweep, slurm_factory: Callable[..., Cluster], tmp_path: Path
) -> None:
    reference = Sweep(tmp_path / "reference")
    shutil.copytree(long.folder, reference.folder)
    reference.snakemake(*TRACES)

    cluster = slurm_factory(nodes=3, cpus=2, memory_mb=64000)
    sweep = OnSlurm(long, cluster)
    controller = sweep.start(*TRACES)
    sweep.training(RUNS[0]).kill()  # the process alone
    os.killpg(os.getpgid(sweep.training(RUNS[1]).pid), signal.SIGKILL)  # with all between it and SLURM
    sweep.training(RUNS[2])
    cluster.run("scancel", "--signal=USR2", "--batch", sweep.job(RUNS[2]))  # as before the time limit
    sweep.training(RUNS[3])
    cluster.scancel(sweep.job(RUNS[3]))
    controller.kill()  # Snakemake itself
    controller.wait()
    controller = sweep.start(*TRACES)
    sweep.training(RUNS[4])
    node = next(job.node for job in cluster.jobs() if job.id == sweep.job(RUNS[4]))
    cluster.set_node(node, "down")
    controller.wait(500)
    sweep.run(*TRACES)

    resumed = 0
    for run in RUNS:
        same(reference, long, run)
        resumed += "resuming at seed" in long.results("logs", "train", f"{run}.log").read_text()
    assert resumed >= 4  # the log is of a run's last job
    assert not long.results("checkpoints").exists()
