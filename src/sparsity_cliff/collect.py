"""Many traces -> two tables: `facts`, all their rows, and `runs`, one row per run and seed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sparsity_cliff import traces


def collect(files: Mapping[str, str | Path], specs: Mapping[str, str], facts: str | Path, runs: str | Path) -> None:
    """Write the tables `facts` and `runs` from the traces `files`, run id -> path.

    specs: run id -> canonical spec that its trace must have. TraceError, naming the file, for any that is not it.
    """
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(facts, traces.SCHEMA, compression="zstd") as writer:
        for run, path in files.items():
            table, about = traces.read(path, run, specs[run])
            writer.write_table(table.replace_schema_metadata(None))
            rows += _seeds(about)
    pd.DataFrame(rows).to_parquet(runs, index=False)


def _seeds(about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per seed of a trace. target_sparsity: the nominal setting of a sparsity control, missing for others."""
    spec = json.loads(about["spec"])
    training, activation = spec["training"], spec["activation"]
    common = {"run": about["run"], "data": spec["data"]["axis"], "dataset": spec["data"]["name"]}
    common |= {key: spec[key]["name"] for key in ("architecture", "activation", "loss", "normalization")}
    common |= {"target_sparsity": activation.get("sparsity", activation.get("q")), "steps": training["steps"]}
    common |= {"device": about["device"], "threads": about["threads"], "torch": about["versions"]["torch"]}
    for key in ("processor", "instruction_set"):  # of a run that went on elsewhere, those of every place
        common[key] = " + ".join(dict.fromkeys(place[key] for place in about.get("environments", []))) or None
    common |= {f"{part}_seconds": seconds for part, seconds in about["seconds"].items()}
    rows = []
    for seed in spec["seeds"]:
        status, _, step = about["status"][str(seed)].partition(" at step ")
        rows.append({**common, "seed": seed, "status": status, "diverged_step": float(step) if step else None})
    return rows
