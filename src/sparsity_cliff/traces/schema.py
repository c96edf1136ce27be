"""What a trace is: one row per fact, in long form, with its provenance in the metadata."""

import hashlib
import json
from dataclasses import dataclass

import pyarrow as pa

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
LABELS = ("run", "architecture", "activation", "loss", "normalization", "data")
KEY = b"sparsity_cliff"  # of the file's metadata


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


def digest(table: pa.Table, about: str) -> str:
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
