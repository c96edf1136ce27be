"""The data stage: call a source and write its arrays to the file that training reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.layouts import KINDS
from sparsity_cliff.study import registry, source
from sparsity_cliff.traces.files import whole


def prepare(spec: str, output: str | Path, root: str | Path, batches: Mapping[str, int] | None = None) -> None:
    """Call the source of a canonical data spec, check its arrays, and write them.

    root: folder for the source's downloads. batches: architecture -> its batch size, which must not exceed the number
    of training examples. Raises DataError, which names the source or the architecture, if a check fails.
    """
    entry = json.loads(spec)
    function = entry.pop("function")
    arrays = registry.load("data", function)(Path(root), **entry)
    check(function, arrays, batches or {})
    with whole(output) as temporary:
        np.savez(temporary, **arrays)


def check(function: str, arrays: Any, batches: Mapping[str, int]) -> None:
    """Raise DataError, which names the source, if its arrays cannot be used for training."""
    from sparsity_cliff.data.loading import from_arrays  # imports torch, which a source may not need

    if not isinstance(arrays, Mapping) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise DataError(f"{function}: does not return a dict of numpy arrays; valid: {LAYOUTS}")
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise DataError(f"{function}: {name} is an array of Python objects; valid: {LAYOUTS}")
    try:
        data = from_arrays({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except KeyError as error:
        raise DataError(f"{function}: array {error} is missing; valid: {LAYOUTS}") from error
    except (ValueError, TypeError, AttributeError, IndexError, OSError) as error:
        raise DataError(f"{function}: {error}; valid: {LAYOUTS}") from error
    module = source.locate("data", function)[0]
    kind, shape = source.constant(module, "KIND"), source.constant(module, "SHAPE")
    labeled = KINDS[kind] == "labeled"
    if not isinstance(data, registry.load("layout", KINDS[kind])) or (kind == "image" and len(data.shape) != 3):
        found = f"{type(data).__name__.lower()} examples of shape {data.shape}"
        raise DataError(f"{function}: {found}; its module defines KIND = {kind!r}")
    if labeled and shape is not None and tuple(shape) != data.shape:
        raise DataError(f"{function}: examples of shape {data.shape}; its module defines SHAPE = {shape}")
    for part in ("x_train", "x_test"):
        if labeled and not np.isfinite(arrays[part]).all():
            raise DataError(f"{function}: {part} has values that are not finite")
    for architecture, size in batches.items():
        if size > data.examples:
            where = f"architectures.{architecture}.batch_size"
            most = f"{data.examples} (training examples of {function})"
            raise DataError(f"{where}: {size} is not valid; valid: at most {most}")


LAYOUTS = (
    "x_train, x_test float32 (n, *shape) with y_train, y_test int64 (n,); tokens_train, tokens_test uint16 (n,) with "
    "block and vocabulary; or noisy_train, clean_train, noisy_test, clean_test int16 (n,) with ends_train, ends_test "
    "int64 and segment"
)
