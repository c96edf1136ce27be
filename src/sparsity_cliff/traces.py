"""The trace of a run: one Parquet file in long form, one row per fact, with its provenance in the metadata.

Reading one back checks it: page checksums, a digest of rows and metadata, and the spec that the caller expects.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_NAME = pa.dictionary(pa.int32(), pa.string())

#: One row is: in this run and seed, at this step (number of optimizer steps done), this metric had this value.
SCHEMA = pa.schema(
    [
        ("run", _NAME),
        ("architecture", _NAME),
        ("activation", _NAME),
        ("loss", _NAME),
        ("normalization", _NAME),
        ("data", _NAME),  # real or random
        ("seed", pa.int32()),
        ("step", pa.int64()),
        ("split", _NAME),  # train, test; null where no data is involved (weights)
        ("layer", _NAME),  # activation site or weight matrix; null = whole model
        ("depth", pa.int16()),  # position of that site or matrix from the input, from 0; null = whole model
        ("metric", _NAME),
        ("value", pa.float64()),
    ]
)
#: Bin edges of the metrics `weight_histogram.NN`, in units of the matrix's standard deviation at initialization.
HISTOGRAM_EDGES = [-6 + 0.25 * i for i in range(49)]
LABELS = ("run", "architecture", "activation", "loss", "normalization", "data")
_KEY = b"sparsity_cliff"  # of the file's metadata


class TraceError(ValueError):
    """A trace that must not be used; the message names the file and says why."""


@dataclass(frozen=True)
class Fact:
    """One measured value: a trace row without the run's own labels."""

    seed: int
    step: int
    split: str | None
    layer: str | None
    depth: int | None
    metric: str
    value: float


def _digest(table: pa.Table, about: str) -> str:
    """SHA-256 of the rows' values and of the metadata, the same for any encoding of the same contents."""
    sha = hashlib.sha256(about.encode())
    for field in SCHEMA:
        column = table.column(field.name).combine_chunks()
        if pa.types.is_dictionary(field.type):
            column = column.cast(pa.string()).dictionary_encode()  # codes in order of appearance
            sha.update(json.dumps(column.dictionary.to_pylist()).encode())
            column = column.indices
        sha.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
        sha.update(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return sha.hexdigest()


def write(path: str | Path, labels: dict[str, str], facts: Iterable[Fact], about: dict[str, Any]) -> None:
    """Write a trace: to a temporary name in the same folder, then renamed, so that no reader sees half a file.

    labels: the values of LABELS. about: metadata, JSON-compatible; must hold `spec` (canonical JSON).
    """
    facts = list(facts)
    columns: dict[str, list[Any]] = {name: [labels[name]] * len(facts) for name in LABELS}
    columns |= {name: [getattr(fact, name) for fact in facts] for name in SCHEMA.names if name not in LABELS}
    table = pa.table(columns, schema=SCHEMA)
    text = json.dumps(about, sort_keys=True)
    payload = json.dumps({"about": text, "sha256": _digest(table, text)})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(
            table.replace_schema_metadata({_KEY: payload}),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(
    path: str | Path, run: str | None = None, spec: str | None = None, code: str | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the metadata of a trace.

    TraceError where the file is missing, torn, altered, of another schema, or (where given) not the trace of `run`
    with the canonical `spec` and `code`.
    """
    try:
        # a file in memory, so that a torn one is an error here and not a crash of a memory map later
        # by one thread: pyarrow's pool, once begun, can abort a busy process's exit; and pq.read_table imports pandas
        content = pa.BufferReader(Path(path).read_bytes())
        table = pq.ParquetFile(content, page_checksum_verification=True).read(use_threads=False)
        table.validate(full=True)  # page headers have no checksum: codes may point outside their dictionary
        payload = json.loads(table.schema.metadata[_KEY])
        text = payload["about"]
        about = json.loads(text)
    except FileNotFoundError as error:
        raise TraceError(f"{path}: trace missing") from error
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TraceError(f"{path}: not a readable trace ({reason}); {_REMEDY}") from error
    if not table.schema.equals(SCHEMA):
        raise TraceError(f"{path}: columns are not those of a trace; {_REMEDY}")
    if _digest(table, text) != payload.get("sha256"):
        raise TraceError(f"{path}: contents do not match their own checksum; {_REMEDY}")
    if run is not None and about["run"] != run:
        raise TraceError(f"{path}: this is the trace of {about['run']}, not of {run}; {_REMEDY}")
    if spec is not None and about["spec"] != spec:
        raise TraceError(f"{path}: made with another spec ({difference(about['spec'], spec)}); {_REMEDY}")
    if code is not None and (changed := changed_modules(about["code"], json.loads(code))):
        raise TraceError(f"{path}: made with other code of {', '.join(changed)}; {_REMEDY}")
    return table, about


def digest(path: str | Path) -> str | None:
    """The digest of its contents that a trace carries, unchecked; None for any other Parquet file."""
    metadata = pq.read_metadata(path).metadata or {}
    found = json.loads(metadata.get(_KEY, b"{}")).get("sha256")
    return found if isinstance(found, str) else None


_REMEDY = "delete it and run again"


def versions() -> dict[str, str]:
    """Versions of what can change a number: Python and the numerical packages."""
    packages = ("sparsity_cliff", "torch", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def processor() -> str:
    """The model of this machine's processor, or, where the system does not tell, its kind (`arm`, `aarch64`)."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine()


def difference(old: str, new: str) -> str:
    """What differs between two canonical specs, in words: `a.b.c changed from x to y`, first difference first."""
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
