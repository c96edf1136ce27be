"""Measures how collecting, analyzing, and drawing grow with the number of runs, from 100 to 10,000, on 2 cores.

Usage: python benchmarks/scale.py [--runs 100 1000 10000]

A run is a job with two seeds. Two runs of the smoke study, an MLP and a ResNet, are trained. All other traces are
copies of these two with the ids, specs, and seeds of their own runs and with other values, so that they are traces of
the studied size and kind to every check. Snakemake then makes all tables and figures from them, as in a sweep that has
trained its last run. The results are written between the markers of docs/benchmarks.md.

Targets for 10,000 runs: at most 2 minutes and 4 GB, and no more time per run than for 100.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray
from pages import machine, publish

from sparsity_cliff.study import table
from sparsity_cliff.study.spec import Run, Study
from sparsity_cliff.traces import reader, writer

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- scale: begin -->", "<!-- scale: end -->"
ARCHITECTURES = ("mlp", "resnet")
BLOCKS = [f"{first}-{first + 1}" for first in range(0, 20, 2)]  # ten runs of two seeds per configuration
CORES = 2
PLAIN = ("relu", "tanh")  # activations that are no controls of sparsity
#: Ways of making zeros, each at as many levels as the study has room for.
MECHANISMS = (
    {"function": "topk"},
    {"function": "topk", "over": "example"},
    {"function": "topk", "base": "gelu"},
    {"function": "quantile_relu"},
)


def config_of(runs: int) -> dict[str, Any]:
    """A study with so many runs: two architectures, ten blocks of seeds, and as many levels of sparsity as needed."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "workflow" / "studies" / "smoke.yaml").read_text())
    count = runs // len(ARCHITECTURES) // len(BLOCKS) - len(PLAIN)
    activations: dict[str, dict[str, Any]] = {name: {"function": name} for name in PLAIN}
    for number in range(count):
        mechanism = MECHANISMS[number % len(MECHANISMS)]
        level = "q" if mechanism["function"] == "quantile_relu" else "sparsity"
        activations[f"control_{number}"] = {**mechanism, level: round(0.5 + 0.49 * number / count, 4)}
    config["study"] = {"name": "scale", "seeds": BLOCKS}
    config["activations"] = activations
    block = {"architectures": list(ARCHITECTURES), "activations": list(activations), "losses": ["cross_entropy"]}
    return config | {
        "grid": [block],
        "cliff": {"baseline": "relu", "losses": ["cross_entropy"]},
        "drift": {"controls": ["tanh"]},
    }


def snakemake(folder: Path, *arguments: str) -> list[str]:
    """The command that runs the workflow on the study in a folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--quiet", "all"]
    return [*command, f"--cores={CORES}", f"--directory={folder}", f"--configfile={folder}/study.yaml", *arguments]


# ------------------------------------------------------------------------------------------ traces


def trained(folder: Path) -> dict[str, tuple[pa.Table, dict[str, Any]]]:
    """Architecture -> rows and metadata of its first run with ReLU, trained here."""
    study = _write_study(folder, config_of(100))
    first = {run.architecture: run for run in study.runs.values() if run.activation == "relu" and 0 in run.seeds}
    paths = {name: f"results/scale/traces/{run.id}.parquet" for name, run in first.items()}
    subprocess.run(snakemake(folder, *paths.values()), check=True, capture_output=True)
    return {name: reader.read(folder / path) for name, path in paths.items()}


def copies(study: Study, originals: dict[str, tuple[pa.Table, dict[str, Any]]], folder: Path) -> None:
    """Write the traces of all runs of the study, none of which is trained."""
    random, folder = np.random.default_rng(0), folder / "results" / "scale" / "traces"
    masks = {name: _masks(rows) for name, (rows, _) in originals.items()}
    for run in study.runs.values():
        rows, about = originals[run.architecture]
        for name, text in {"run": run.id, "activation": run.activation}.items():
            value = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows), np.int32)), [text])
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), value)
        seeds = np.array(run.seeds, np.int32)[rows["seed"].to_numpy()]  # the originals have the seeds 0 and 1
        rows = rows.set_column(rows.schema.get_field_index("seed"), "seed", pa.array(seeds))
        values = pa.array(_values(rows["value"].to_numpy(), masks[run.architecture], _level(run), random))
        rows = rows.set_column(rows.schema.get_field_index("value"), "value", values)
        status = dict.fromkeys(map(str, run.seeds), "finished")
        own = {"run": run.id, "spec": run.spec, "code": json.loads(run.code), "status": status}
        writer.write_rows(folder / f"{run.id}.parquet", rows, about | own)


def _level(run: Run) -> float:
    """The share of zeros that a run is to have."""
    activation = json.loads(run.spec)["activation"]
    return float(activation.get("sparsity", activation.get("q", 0.0 if run.activation == "tanh" else 0.5)))


def _masks(rows: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """The rows of zeros, scores, scores of single examples, and all others, each (rows,)."""
    metric, single = rows["metric"].to_numpy(), pc.is_valid(rows["example"]).to_numpy()
    zeros, score = np.isin(metric, ["activation_sparsity", "near_zero_share"]), metric == "accuracy"
    return {"zeros": zeros, "score": score & ~single, "examples": score & single, "others": ~zeros & ~score}


def _values(
    values: NDArray[np.float64], masks: dict[str, NDArray[np.bool_]], level: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Values of another run: a score that falls above 80 % of zeros, and 5 % of noise on everything else."""
    score = 0.9 - 2 * max(0.0, level - 0.8) + 0.01 * random.standard_normal()
    new = values * (1 + 0.05 * random.standard_normal(len(values)))
    new[masks["zeros"]] = np.clip(level + 0.005 * random.standard_normal(masks["zeros"].sum()), 0, 1)
    new[masks["score"]] = score + 0.01 * random.standard_normal(masks["score"].sum())
    new[masks["examples"]] = random.random(masks["examples"].sum()) < score
    marks = (values == 0) | (values == 1)
    new[marks & masks["others"]] = values[marks & masks["others"]]
    return new


def _write_study(folder: Path, config: dict[str, Any]) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    return table.open_file(folder / "study.yaml")


# ------------------------------------------------------------------------------------------ measurement


class Step(NamedTuple):
    """seconds: wall time, summed over the step's processes. memory: of its largest process, in bytes."""

    seconds: float
    memory: int


class Measured(NamedTuple):
    """cpu: processor time of all processes. memory: largest sum over processes that run at the same time."""

    steps: dict[str, Step]
    wall: float
    cpu: float
    memory: int


def measure(command: list[str]) -> Measured:
    """Run Snakemake and watch its processes."""
    seen: dict[int, tuple[str, float, float, int]] = {}  # process -> step, first and last time, memory
    most, before, start = 0, resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    main = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while main.poll() is None:
        now, total = time.perf_counter() - start, 0
        for process, memory, step in _processes(main):
            total += memory
            _, first, _, peak = seen.get(process, ("", now, now, 0))
            seen[process] = step, first, now, max(peak, memory)
        most = max(most, total)
        time.sleep(0.05)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if main.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    steps: dict[str, Step] = {}
    for step, first, last, memory in seen.values():
        seconds, largest = steps.get(step, Step(0.0, 0))
        steps[step] = Step(seconds + last - first, max(largest, memory))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(steps, wall, cpu, most)


def _processes(main: psutil.Process) -> Iterator[tuple[int, int, str]]:
    """(id, resident bytes, step) of Snakemake and of the scripts that it runs now."""
    for process in (main, *main.children(recursive=True)):
        try:
            scripts = [word for word in process.cmdline() if "/.snakemake/scripts/" in word and word.endswith(".py")]
            step = scripts[0].split(".")[-2] if scripts else "snakemake"
            if scripts or process == main:
                yield process.pid, process.memory_info().rss, step
        except psutil.Error:  # it has ended
            continue


def report(results: dict[int, Measured], rows: int) -> list[str]:
    """The paragraphs of docs/benchmarks.md. rows: per run."""
    few, many = min(results), max(results)
    steps = sorted(results[many].steps, key=lambda step: -results[many].steps[step].seconds)
    lines = [
        f"| step | {' | '.join(f'{n:,} runs' for n in results)} | per run, {many:,} ÷ {few:,} | memory at {many:,} |",
        f"| --- | {'--: | ' * len(results)}--: | --: |",
    ]
    for step in steps:
        own = [results[n].steps.get(step, Step(0.0, 0)) for n in results]
        lines.append(_row(step, [one.seconds for one in own], few, many, own[-1].memory))
    every = list(results.values())
    lines.append(_row("processor time, all", [one.cpu for one in every], few, many, None))
    lines.append(_row("**wall time, all**", [one.wall for one in every], few, many, every[-1].memory))
    loads = ", ".join(f"{load:.1f}" for load in psutil.getloadavg())
    text = f"{machine()}; `--cores {CORES}`; {rows:,} rows per run. Load averages at the end: {loads}."
    return [text, "\n".join(lines)]


def _row(name: str, seconds: list[float], few: int, many: int, memory: int | None) -> str:
    ratio = f"{seconds[-1] / many / (seconds[0] / few):.2f}" if seconds[0] else "–"
    size = "" if memory is None else f"{memory / 1e9:.2f} GB"
    return f"| {name} | {' | '.join(f'{each:.1f} s' for each in seconds)} | {ratio} | {size} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10_000], help="multiples of 20")
    counts = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        originals = trained(folder / "trained")
        results = {}
        for count in sorted(counts):
            copies(_write_study(folder / str(count), config_of(count)), originals, folder / str(count))
            results[count] = measure(snakemake(folder / str(count)))
            print(f"{count}: {results[count]}", flush=True)
    publish(PAGE, BEGIN, END, report(results, sum(len(rows) for rows, _ in originals.values()) // len(originals)))


if __name__ == "__main__":
    main()
