"""Collect all traces into three tables.

- `facts`: all rows but those of single held-out examples.
- `runs`: one row per run and seed, also of runs without a trace, whose status is "missing".
- `examples`: one row per run, seed, and score, with the scores of all held-out examples at the last step. `values` is a
  list of float32 (examples,) in their order in the data file, nan where the score is undefined.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sparsity_cliff.traces.files import whole
from sparsity_cliff.traces.origin import metadata, write_table
from sparsity_cliff.traces.reader import read
from sparsity_cliff.traces.schema import SCHEMA
from sparsity_cliff.traces.unfinished import MISSING

FACTS = pa.schema([field for field in SCHEMA if field.name != "example"])
EXAMPLES = pa.schema([*(SCHEMA.field(name) for name in ("run", "seed", "metric")), ("values", pa.list_(pa.float32()))])


def collect(
    files: Mapping[str, str | Path],
    specs: Mapping[str, str],
    codes: Mapping[str, str],
    facts: str | Path,
    runs: str | Path,
    examples: str | Path,
    origin: str,
) -> None:
    """Write the tables `facts`, `runs`, and `examples` from traces, sorted by run id.

    files: run id -> trace, at least one. specs, codes: run id -> canonical spec and code that its trace must have, for
    all runs of the study. origin: digest that the tables carry (traces/origin.py). Raises TraceError, which names the
    file, for a trace of another run, spec, or code.
    """
    rows: list[dict[str, Any]] = []
    scores: list[pa.Table] = []
    with whole(facts) as temporary:
        with pq.ParquetWriter(temporary, FACTS.with_metadata(metadata(origin)), compression="zstd") as writer:
            for run in sorted(specs):
                if run not in files:
                    rows += _seeds({"run": run, "spec": specs[run]})
                    continue
                table, about = read(files[run], run, specs[run], codes[run])
                single = pc.is_valid(table["example"])
                whole_set = table.filter(pc.invert(single)).drop_columns("example")
                writer.write_table(whole_set.replace_schema_metadata(metadata(origin)))
                scores.append(_examples(table.filter(single)))
                rows += _seeds(about)
        write_table(pd.DataFrame(rows), runs, origin)
        write_table(pa.concat_tables(scores), examples, origin)


def _examples(table: pa.Table) -> pa.Table:
    """The rows of `examples` for the rows of single examples of one trace."""
    frame = table.select(["run", "seed", "metric", "example", "value"]).to_pandas(use_threads=False)
    rows = []
    for (run, seed, metric), part in frame.groupby(["run", "seed", "metric"], observed=True, sort=False):
        values = np.full(part["example"].max() + 1, np.nan, dtype=np.float32)
        values[part["example"]] = part["value"]
        rows.append({"run": run, "seed": seed, "metric": metric, "values": values})
    return pa.Table.from_pylist(rows, schema=EXAMPLES)


def _seeds(about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per seed of a trace, or of a run without one. about: the metadata of the trace, or only run and spec.

    function, options: those of the activation, the latter as canonical JSON, by which claims recognize it whatever its
    name in the study is. target_sparsity: the nominal setting of a sparsity control, missing for other activations.
    *_seconds: the seed's equal share of the job's seconds, because a job trains its seeds one after another and
    measures their total time.
    """
    spec = json.loads(about["spec"])
    training, activation = spec["training"], spec["activation"]
    common = {"run": about["run"], "data": spec["data"]["axis"], "dataset": spec["data"]["name"]}
    common |= {key: spec[key]["name"] for key in ("architecture", "activation", "loss", "normalization")}
    options = {key: value for key, value in activation.items() if key not in ("name", "function")}
    common |= {"function": activation.get("function"), "options": json.dumps(options, sort_keys=True)}
    common |= {"target_sparsity": activation.get("sparsity", activation.get("q")), "mechanism": mechanism(spec)}
    common["steps"] = training["steps"]
    common |= {"device": about.get("device"), "threads": about.get("threads")}
    common["torch"] = about.get("versions", {}).get("torch")
    for key in ("processor", "instruction_set"):  # of every machine, for a run that moved
        common[key] = " + ".join(dict.fromkeys(place[key] for place in about.get("environments", []))) or None
    common |= {f"{part}_seconds": seconds / len(spec["seeds"]) for part, seconds in about.get("seconds", {}).items()}
    rows = []
    for seed in spec["seeds"]:
        status, _, step = about["status"][str(seed)].partition(" at step ") if "status" in about else (MISSING, "", "")
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
