"""Measures `snakemake -n` on studies of 5,000 untrained trainings, beside a workflow of 5,000 jobs that has only them.

Usage: python benchmarks/dry_run.py

Targets: at most 5 s for the study whose runs have ten seeds each; for one seed each, little more than the bare
workflow, because Snakemake's time per job is not ours to change. The results are written between the markers of
docs/benchmarks.md.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from pages import machine, publish

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- dry run: begin -->", "<!-- dry run: end -->"
TIMES = 5
TRAININGS, SEEDS = 5000, 10
LEVELS = TRAININGS // SEEDS - 1  # beside ReLU
BARE = f"""
FILES = [f"traces/{{i}}.parquet" for i in range({TRAININGS})]

rule all:
    input:
        FILES,

rule train:
    output:
        "traces/{{run}}.parquet",
    shell:
        "touch {{output}}"
"""


def study(seeds: list[int] | list[str]) -> str:
    """A study of 500 activations with these seeds, or blocks of seeds."""
    config = yaml.safe_load((PROJECT / "workflow" / "studies" / "smoke.yaml").read_text())
    levels = {f"topk_{i}": {"function": "topk", "sparsity": i / 1000} for i in range(1, LEVELS + 1)}
    block = {"architectures": ["mlp"], "activations": ["relu", *levels], "losses": ["cross_entropy"], "seeds": seeds}
    config["activations"] |= levels
    config["grid"] = [block]
    config["cliff"]["losses"] = ["cross_entropy"]
    config["drift"]["controls"] = []
    return yaml.safe_dump(config)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "bare").write_text(BARE)
        (folder / "one.yaml").write_text(study(list(range(SEEDS))))
        (folder / "ten.yaml").write_text(study([f"0-{SEEDS - 1}"]))
        ours = ["--snakefile", str(PROJECT / "Snakefile"), "--configfile"]
        cases = {
            f"{TRAININGS:,} jobs and nothing else": ["--snakefile", "bare"],
            f"{TRAININGS:,} runs of one seed": [*ours, "one.yaml"],
            f"{TRAININGS // SEEDS:,} runs of {SEEDS} seeds": [*ours, "ten.yaml"],
        }
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(TIMES):
            for case, arguments in cases.items():  # in turn, so that other work of the machine meets all of them
                command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--quiet", "rules"]
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, capture_output=True, check=True)
                seconds[case].append(time.perf_counter() - start)
                print(f"{seconds[case][-1]:.1f} s: {case}", flush=True)
    bare = statistics.median(next(iter(seconds.values())))
    lines = ["| workflow | median | ÷ the first | range |", "| --- | --: | --: | --: |"]
    for case, found in seconds.items():
        median = statistics.median(found)
        lines.append(f"| {case} | {median:.1f} s | {median / bare:.2f} | {min(found):.1f} to {max(found):.1f} s |")
    publish(PAGE, BEGIN, END, [f"{machine()}; {TIMES} dry runs of each, in turn.", "\n".join(lines)])


if __name__ == "__main__":
    main()
