"""Measures the seconds of `snakemake -n` on a study of 5,000 untrained runs. Target: at most 5 s.

Usage: python benchmarks/dry_run.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[1]
TIMES = 3

config = yaml.safe_load((PROJECT / "workflow" / "studies" / "smoke.yaml").read_text())
levels = {f"topk_{i}": {"function": "topk", "sparsity": i / 1000} for i in range(1, 500)}
block = {"architectures": ["mlp"], "activations": ["relu", *levels], "losses": ["cross_entropy"]}
config["activations"] |= levels
config["grid"] = [{**block, "seeds": list(range(10))}]
config["cliff"]["losses"] = ["cross_entropy"]
config["drift"]["controls"] = []
with tempfile.TemporaryDirectory() as folder:
    study = Path(folder) / "study.yaml"
    study.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--directory", folder]
    command += ["--configfile", str(study), "--dry-run", "--quiet", "rules"]
    for _ in range(TIMES):
        start = time.perf_counter()
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds = time.perf_counter() - start
        trained = next(line.split()[1] for line in output.splitlines() if line.startswith("train "))
        print(f"{seconds:.1f} s for {trained} runs to train")
