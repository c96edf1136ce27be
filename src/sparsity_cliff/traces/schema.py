"""The schema of a trace: one row per fact, in long form, with the provenance in the metadata."""

import hashlib
import json
from dataclasses import dataclass

import pyarrow as pa

_NAME = pa.dictionary(pa.int32(), pa.string())

#: A row says that in this run and seed, after `step` optimizer steps, this metric had this value.
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
        ("split", _NAME),  # train, test; null if no data is involved (weights)
        ("layer", _NAME),  # activation site or weight matrix; null: whole model
        ("depth", pa.int16()),  # position of the site or matrix, counted from the input (0); null: whole model
        ("metric", _NAME),
        ("value", pa.float64()),
        ("example", pa.int32()),  # number of the held-out example, from 0; null: mean or sum over all
    ]
)
LABELS = ("run", "architecture", "activation", "loss", "normalization", "data")
KEY = b"sparsity_cliff"  # in the file's metadata


class TraceError(ValueError):
    """A trace cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Fact:
    """A measured value: a row of a trace without the labels of the run."""

    seed: int
    step: int
    split: str | None
    layer: str | None
    depth: int | None
    metric: str
    value: float
    example: int | None = None


def digest(table: pa.Table, about: str) -> str:
    """SHA-256 of the rows and the metadata, which does not depend on the encoding of the contents."""
    sha = hashlib.sha256(about.encode())
    for field in SCHEMA:
        column = table.column(field.name).combine_chunks()
        if pa.types.is_dictionary(field.type):
            codes = column.indices.dictionary_encode()  # in order of appearance
            names = column.dictionary.take(codes.dictionary).to_pylist()
            if len(set(names)) < len(names):  # two codes of one name
                codes = column.cast(pa.string()).dictionary_encode()
                names = codes.dictionary.to_pylist()
            sha.update(json.dumps(names).encode())
            column = codes.indices
        if column.null_count:
            sha.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
            column = column.fill_null(0)
        else:
            sha.update(b"\1" * len(column))
        sha.update(column.to_numpy(zero_copy_only=False).tobytes())
    return sha.hexdigest()
