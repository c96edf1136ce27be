"""Read the trace of a run and check it: page checksums, the digest of rows and metadata, and the expected run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparsity_cliff.traces.schema import KEY, SCHEMA, TraceError, digest

REMEDY = "delete it and run again"


def read(
    path: str | Path, run: str | None = None, spec: str | None = None, code: str | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the metadata of a trace.

    Raises TraceError if the file is missing, torn, altered, or of another schema. If `run`, `spec`, or `code` (both
    canonical JSON) are given, also if the trace belongs to another one.
    """
    try:
        # read into memory, so that a torn file is an error here and not a crash of a memory map later
        # use one thread, because pyarrow's thread pool can abort a busy process's exit
        # use ParquetFile, because pq.read_table imports pandas
        content = pa.BufferReader(Path(path).read_bytes())
        table = pq.ParquetFile(content, page_checksum_verification=True).read(use_threads=False)
        table.validate(full=True)  # page headers have no checksum, so codes may exceed their dictionary
        payload = json.loads(table.schema.metadata[KEY])
        text = payload["about"]
        about = json.loads(text)
    except FileNotFoundError as error:
        raise TraceError(f"{path}: trace missing") from error
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TraceError(f"{path}: not a readable trace ({reason}); {REMEDY}") from error
    if not table.schema.equals(SCHEMA):
        raise TraceError(f"{path}: columns are not those of a trace; {REMEDY}")
    if digest(table, text) != payload.get("sha256"):
        raise TraceError(f"{path}: contents do not match the checksum; {REMEDY}")
    if run is not None and about["run"] != run:
        raise TraceError(f"{path}: this is the trace of {about['run']}, not of {run}; {REMEDY}")
    if spec is not None and about["spec"] != spec:
        raise TraceError(f"{path}: made with another spec ({difference(about['spec'], spec)}); {REMEDY}")
    if code is not None and (changed := changed_modules(about["code"], json.loads(code))):
        raise TraceError(f"{path}: made with different code of {', '.join(changed)}; {REMEDY}")
    return table, about


def digest_of(path: str | Path) -> str | None:
    """The digest of its contents that a trace carries, without a check; None for any other Parquet file."""
    metadata = pq.read_metadata(path).metadata or {}
    found = json.loads(metadata.get(KEY, b"{}")).get("sha256")
    return found if isinstance(found, str) else None


def difference(old: str, new: str) -> str:
    """The differences between two canonical specs, sorted by key, such as `a.b.c changed from x to y`."""
    before, after = _flat(json.loads(old)), _flat(json.loads(new))
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            changes.append(f"{key} is new: {after[key]}")
        elif key not in after:
            changes.append(f"{key} is gone: was {before[key]}")
        elif before[key] != after[key]:
            changes.append(f"{key} changed from {before[key]} to {after[key]}")
    return "; ".join(changes)


def changed_modules(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Modules whose digests differ, or that only one of the two has."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: json.dumps(value)}
    return {
        key: text for name in value for key, text in _flat(value[name], f"{prefix}.{name}" if prefix else name).items()
    }
