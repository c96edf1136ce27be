"""Write the trace of a run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparsity_cliff.traces.files import whole
from sparsity_cliff.traces.schema import KEY, LABELS, SCHEMA, Fact, digest


def write(path: str | Path, labels: dict[str, str], facts: Iterable[Fact], about: dict[str, Any]) -> None:
    """Write a trace atomically.

    labels: the values of LABELS. about: JSON-compatible metadata, which must hold `spec` (canonical JSON).
    """
    facts = list(facts)
    columns: dict[str, list[Any]] = {name: [labels[name]] * len(facts) for name in LABELS}
    columns |= {name: [getattr(fact, name) for fact in facts] for name in SCHEMA.names if name not in LABELS}
    write_rows(path, pa.table(columns, schema=SCHEMA), about)


def write_rows(path: str | Path, table: pa.Table, about: dict[str, Any]) -> None:
    """Write the rows of a trace, a table of the schema, atomically. about: as for `write`."""
    text = json.dumps(about, sort_keys=True)
    payload = json.dumps({"about": text, "sha256": digest(table, text)})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata({KEY: payload}), temporary, compression="zstd", write_page_checksum=True
        )
