"""The data stage: from a source to the one file that training reads."""

import json
from pathlib import Path

import numpy as np

from sparsity_cliff import made, registry


def prepare(spec: str, output: str | Path, root: str | Path) -> None:
    """Call the source of a canonical data spec and write its arrays. root: where a source keeps what it fetches."""
    entry = json.loads(spec)
    source = registry.load("data", entry.pop("function"))
    arrays = source(Path(root), **entry)
    with made.whole(output) as temporary:
        np.savez(temporary, **arrays)
