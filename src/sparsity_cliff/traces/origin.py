"""The origin of a table or figure: a digest of its settings, code, and inputs, written into the file itself.

With this digest, a file can be judged (stale.py) wherever and whenever it was written, without a separate record. The
digest of a trace covers its contents; that of a table or figure covers everything that it was made from.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsity_cliff.traces.files import whole

_KEY = b"sparsity_cliff.made"  # of a table's metadata
_TEXT = "sparsity-cliff made of "  # before the digest, in a figure


class UnknownOrigin(ValueError):
    """An input carries no digest; the message names it."""


def of(path: str | Path) -> str | None:
    """The digest that a trace, table, or figure carries; None if the file is missing, torn, or foreign."""
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            from sparsity_cliff.traces.reader import digest_of

            own = (pq.read_metadata(path).metadata or {}).get(_KEY)
            return own.decode() if own else digest_of(path)
        match = re.search(rf"{_TEXT}([0-9a-f]{{64}})".encode(), path.read_bytes())
        return match[1].decode() if match else None
    except (OSError, ValueError, AttributeError):  # pyarrow's errors are OSError and ValueError
        return None


def digest(own: str, inputs: Iterable[str | Path]) -> str:
    """The digest of a file that is made from `inputs`, in this order, with settings and code `own` (canonical JSON).

    Raises UnknownOrigin if an input carries no digest.
    """
    sha = hashlib.sha256(own.encode())
    for path in inputs:
        known = of(path)
        if known is None:
            raise UnknownOrigin(f"{path}: missing, torn, or not made by this workflow; delete it and run again")
        sha.update(f"\n{known}".encode())
    return sha.hexdigest()


def metadata(made: str) -> dict[bytes, bytes]:
    """The metadata of a table that carries the digest `made`."""
    return {_KEY: made.encode()}


def remark(made: str) -> str:
    """The metadata text of a figure that carries the digest `made`."""
    return f"{_TEXT}{made}"


def read_table(path: str | Path) -> Any:
    """A table as a pandas frame. Read by one thread, because pyarrow's thread pool can abort a busy process's exit."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read(use_threads=False).to_pandas(use_threads=False)


def write_text(text: str, path: str | Path, made: str) -> None:
    """Write a CSV or Markdown file whose last line, a comment, carries the digest `made`."""
    line = f"<!-- {remark(made)} -->" if Path(path).suffix == ".md" else f"# {remark(made)}"
    with whole(path) as temporary:
        Path(temporary).write_text(f"{text.rstrip()}\n{line}\n", encoding="utf-8")


def write_table(table: Any, path: str | Path, made: str) -> None:
    """Write a pandas or Arrow table to a Parquet file that carries the digest `made`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False, nthreads=1)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata(made)})
    with whole(path) as temporary:
        pq.write_table(arrow, temporary)
