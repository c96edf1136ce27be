"""Collect all traces into two tables: `facts`, with all their rows, and `runs`, with one row per run and seed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from sparsity_cliff.traces.files import whole
from sparsity_cliff.traces.origin import metadata, write_table
from sparsity_cliff.traces.reader import read
from sparsity_cliff.traces.schema import SCHEMA


def collect(
    files: Mapping[str, str | Path],
    specs: Mapping[str, str],
    codes: Mapping[str, str],
    facts: str | Path,
    runs: str | Path,
    origin: str,
) -> None:
    """Write the tables `facts` and `runs` from traces, sorted by run id.

    files: run id -> trace. specs, codes: run id -> canonical spec and code that its trace must have. origin: digest
    that the tables carry (traces/origin.py). Raises TraceError, which names the file, for a trace of another run, spec,
    or code.
    """
    rows: list[dict[str, Any]] = []
    with whole(facts) as temporary:
        with pq.ParquetWriter(temporary, SCHEMA.with_metadata(metadata(origin)), compression="zstd") as writer:
            for run in sorted(files):
                table, about = read(files[run], run, specs[run], codes[run])
                writer.write_table(table.replace_schema_metadata(metadata(origin)))
                rows += _seeds(about)
        write_table(pd.DataFrame(rows), runs, origin)


def _seeds(about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per seed of a trace.

    target_sparsity: the nominal setting of a sparsity control, missing for other activations. *_seconds: the seed's
    equal share of the job's seconds, because a job trains its seeds one after another and measures their total time.
    """
    spec = json.loads(about["spec"])
    training, activation = spec["training"], spec["activation"]
    common = {"run": about["run"], "data": spec["data"]["axis"], "dataset": spec["data"]["name"]}
    common |= {key: spec[key]["name"] for key in ("architecture", "activation", "loss", "normalization")}
    common |= {"target_sparsity": activation.get("sparsity", activation.get("q")), "mechanism": mechanism(spec)}
    common["steps"] = training["steps"]
    common |= {"device": about["device"], "threads": about["threads"], "torch": about["versions"]["torch"]}
    for key in ("processor", "instruction_set"):  # of every machine, for a run that moved
        common[key] = " + ".join(dict.fromkeys(place[key] for place in about.get("environments", []))) or None
    common |= {f"{part}_seconds": seconds / len(spec["seeds"]) for part, seconds in about["seconds"].items()}
    rows = []
    for seed in spec["seeds"]:
        status, _, step = about["status"][str(seed)].partition(" at step ")
        rows.append({**common, "seed": seed, "status": status, "diverged_step": float(step) if step else None})
    return rows


def mechanism(spec: Mapping[str, Any]) -> str | None:
    """The way in which a run makes zeros, the same at all levels of sparsity; None for a run without a control.

    It is the control's function with all options but its level, and with the normalization before it, if that is not
    the architecture's own, or the activation behind it.
    """
    other = {"activation": "normalization", "normalization": "activation"}
    for kind in ("activation", "normalization"):
        options = {key: value for key, value in spec[kind].items() if key != "name"}
        if options.pop("sparsity", options.pop("q", None)) is not None:
            function = options.pop("function", kind)
            if spec[other[kind]]["name"] != "default":
                options[other[kind]] = spec[other[kind]]["name"]
            return f"{function}({', '.join(f'{key}={value}' for key, value in sorted(options.items()))})"
    return None
