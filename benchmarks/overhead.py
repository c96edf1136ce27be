"""Measures the overhead of probes and orchestration, as ratios.

Usage: python benchmarks/overhead.py [STUDY]

1. Probes: training with the study's probes against training without, in pairs, for the first run of every architecture.
   Target: at most 5 %.
2. Orchestration: wall time x cores / sum of the jobs' training seconds, for a whole sweep in an empty folder. Target:
   at most 1.25 on 2 cores. A second sweep, which must run nothing, takes at most 5 s.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median, quantiles
from unittest import mock

import pandas as pd
import torch

from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.data.loading import load
from sparsity_cliff.data.prepare import prepare
from sparsity_cliff.study import table
from sparsity_cliff.study.spec import Spec, Study
from sparsity_cliff.traces import reader, schema, writer
from sparsity_cliff.training import loop
from sparsity_cliff.training.job import Job

PROJECT = Path(__file__).parents[1]


def probes(plan: Study, pairs: int) -> None:
    """Print the overhead of the probes for the first run of every architecture."""
    torch.set_num_threads(1)
    print(
        "| architecture | run | steps | training s | overhead, median | quartiles |\n"
        "| --- | --- | --: | --: | --: | --: |"
    )
    first = {run.architecture: run for run in reversed(plan.runs.values())}
    for run in reversed(first.values()):
        spec = Spec.of_text(run.spec)
        with tempfile.TemporaryDirectory() as folder:
            prepare(plan.datasets[run.dataset].spec, f"{folder}/data.npz", folder)
            dataset = load(f"{folder}/data.npz")
        bare, ratios = [], []
        for i in range(pairs + 1):
            seconds = {}
            for watched in (True, False) if i % 2 else (False, True):  # the order alternates
                with nullcontext() if watched else _unwatched(spec.training.steps):
                    seconds[watched] = _seconds(spec, dataset)
            bare.append(seconds[False])
            ratios.append(seconds[True] / seconds[False] - 1)
        low, middle, high = quantiles(ratios[1:], n=4)  # the first pair is a warm-up
        cells = (run.architecture, run.id, spec.training.steps, f"{median(bare[1:]):.2f}", f"{middle:.1%}")
        print("|", *(f"{cell} |" for cell in (*cells, f"{low:.1%} to {high:.1%}")), flush=True)


@contextmanager
def _unwatched(steps: int) -> Iterator[None]:
    """Within the context, nothing is measured."""
    with mock.patch.object(loop, "schedule", return_value=[steps]), mock.patch.object(loop, "measure", return_value=[]):
        yield


def _seconds(spec: Spec, dataset: Dataset) -> float:
    """CPU seconds to train the first seed."""
    job = Job(spec, Path("unused"), "", log=lambda text: None, save_every=float("inf"))
    start = time.process_time()
    loop.train_seed(spec, 0, dataset, torch.device("cpu"), job, None)
    return time.process_time() - start


def _writing(path: Path) -> float:
    """Seconds to write a trace, measured by writing it again."""
    table, about = reader.read(path)
    rows = table.to_pylist()
    start = time.perf_counter()
    facts = [schema.Fact(**{key: row[key] for key in row if key not in schema.LABELS}) for row in rows]
    writer.write(path.with_suffix(".again"), {key: rows[0][key] for key in schema.LABELS}, facts, about)
    return time.perf_counter() - start


def orchestration(file: Path, cores: int) -> None:
    """Print the overhead of a whole sweep, and the time of a second sweep."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("Snakefile", "workflow", "src", "envs"):
            source = PROJECT / part
            shutil.copytree(source, Path(folder) / part) if source.is_dir() else shutil.copy(source, folder)
        shutil.copy(file, Path(folder) / "config.yaml")
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--quiet", "all"]
        walls = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
            walls.append(time.perf_counter() - start)
        (table,) = Path(folder).glob("results/*/tables/runs.parquet")
        jobs = pd.read_parquet(table).drop_duplicates("run")
        writing = sum(_writing(path) for path in Path(folder).glob("results/*/traces/*.parquet"))
    total, training = walls[0] * cores, jobs["training_seconds"].sum()
    print(f"{len(jobs)} training jobs on {cores} cores: wall {walls[0]:.1f} s; second sweep: {walls[1]:.1f} s")
    print(f"wall x cores / training = {total / training:.3f}\n\n| part | core seconds | share |\n| --- | --: | --: |")
    parts = {name: jobs[f"{name}_seconds"].sum() for name in ("training", "probes", "import", "data", "saving")}
    parts["writing"] = writing
    parts["Snakemake, analysis, figures, idle cores"] = total - sum(parts.values())
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.1f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, default=PROJECT / "config.yaml")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--only", choices=["probes", "orchestration"])
    options = parser.parse_args()
    if options.only != "orchestration":
        probes(table.load(table.read(options.study)), options.pairs)
    if options.only != "probes":
        orchestration(options.study, options.cores)
