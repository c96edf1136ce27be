"""Seconds of `snakemake -n` on a study of 5,000 runs, none of them trained. Target: at most 8 s.

python benchmarks/dry_run.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[1]
RUNS = 5000

config = yaml.safe_load((PROJECT / "workflow" / "studies" / "smoke.yaml").read_text())
config["activations"] |= {f"topk_{i}": {"function": "topk", "sparsity": i / 1000} for i in range(1, 500)}
names = list(config["activations"])[: RUNS // 10]
config["grid"] = [{"architectures": ["mlp"], "activations": names, "losses": ["cross_entropy"], "seeds": list(range(10))}]
with tempfile.TemporaryDirectory() as folder:
    study = Path(folder) / "study.yaml"
    study.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--directory", folder]
    for _ in range(3):
        start = time.perf_counter()
        output = subprocess.run([*command, "-n", "--configfile", str(study), "--quiet", "rules"], capture_output=True, text=True)
        print(f"{time.perf_counter() - start:.1f} s", output.stdout.count("train"), output.returncode)
print(output.stdout[-600:], output.stderr[-300:])
