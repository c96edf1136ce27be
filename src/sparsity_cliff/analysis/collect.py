"""Collect all traces into three tables.

- `facts`: all rows but those of single held-out examples.
- `runs`: one row per run and seed, also of runs without a trace, whose status is "missing".
- `examples`: one row per run, seed, and score, with the scores of all held-out examples at the last step. `values` is a
  list of float32 (examples,) in their order in the data file, nan where the score is undefined.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
BATCH = 64  # traces in a row group: many small groups are slow to read, and one large one fills the memory


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
    order = sorted(files)
    abouts: dict[str, dict[str, Any]] = {run: {"run": run, "spec": specs[run]} for run in sorted(specs)}
    with _writing(facts, FACTS, origin) as write_facts, _writing(examples, EXAMPLES, origin) as write_examples:
        for start in range(0, len(order), BATCH):
            tables = []
            for run in order[start : start + BATCH]:
                table, abouts[run] = read(files[run], run, specs[run], codes[run])
                tables.append(table)
            batch = pa.concat_tables(tables).unify_dictionaries()
            single = pc.is_valid(batch["example"])
            write_facts(batch.filter(pc.invert(single)).drop_columns("example"))
            write_examples(_examples(batch.filter(single)))
        write_table(pd.DataFrame([row for about in abouts.values() for row in _seeds(about)]), runs, origin)


@contextmanager
def _writing(path: str | Path, schema: pa.Schema, origin: str) -> Iterator[Callable[[pa.Table], None]]:
    """A function that writes a table as the next row group of a file, which appears when all are written."""
    schema = schema.with_metadata(metadata(origin))
    with whole(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield lambda table: writer.write_table(table.cast(schema), row_group_size=max(1, len(table)))


def _examples(table: pa.Table) -> pa.Table:
    """The rows of `examples` for the rows of single examples of some traces, in the order of their first examples."""
    run, seed, metric = (table[name].combine_chunks() for name in ("run", "seed", "metric"))
    keys = pd.DataFrame({"run": run.indices, "seed": seed, "metric": metric.indices})
    group = keys.groupby(list(keys), sort=False).ngroup().to_numpy()
    number, value = table["example"].to_numpy(), table["value"].to_numpy()
    _, first = np.unique(group, return_index=True)
    sizes = np.zeros(len(first), np.int32)
    np.maximum.at(sizes, group, number + 1)
    ends = np.cumsum(sizes, dtype=np.int32)
    values = np.full(sizes.sum(), np.nan, np.float32)
    values[(ends - sizes)[group] + number] = value
    lists = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]).astype(np.int32)), pa.array(values))
    names = [key.take(pa.array(first)).cast(pa.string()).dictionary_encode() for key in (run, metric)]
    return pa.Table.from_arrays([names[0], seed.take(pa.array(first)), names[1], lists], schema=EXAMPLES)


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
