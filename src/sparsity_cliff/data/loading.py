"""Turn the arrays of a data file into a data set of their layout."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.layouts import MARKS
from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.study import registry


def from_arrays(arrays: Mapping[str, Any]) -> Dataset:
    """The data set of a source's arrays. Raises ValueError or KeyError if they fit no layout."""
    for key, layout in MARKS.items():
        if key in arrays:
            found: Dataset = registry.load("layout", layout).of(arrays)
            return found
    raise ValueError(f"has none of the arrays {', '.join(MARKS)}")


def load(path: str | Path) -> Dataset:
    """Read a file of the data stage. Raises DataError if it is missing, torn, or of no layout."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            contents = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable data file ({error}); delete it and run again") from error
    try:
        return from_arrays(contents)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{path}: not a usable data file ({error})") from error
