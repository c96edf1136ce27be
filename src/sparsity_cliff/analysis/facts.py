"""Read the rows of the table `facts` that an analysis needs, which are a small part of it."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def read(path: str | Path, metrics: Iterable[str]) -> pd.DataFrame:
    """The facts of some metrics, in the order of the file. metrics: names, or patterns such as `gradient_*`.

    Row groups are read one after another, so that the other facts are never in memory together.
    """
    patterns = list(metrics)
    with pq.ParquetFile(path) as file:
        groups = (file.read_row_group(number, use_threads=False) for number in range(file.num_row_groups))
        parts = [file.schema_arrow.empty_table(), *(_chosen(group, patterns) for group in groups)]
        frame: pd.DataFrame = pa.concat_tables(parts).unify_dictionaries().to_pandas(use_threads=False)
        return frame


def _chosen(group: pa.Table, patterns: list[str]) -> pa.Table:
    """The rows of one row group whose metric matches a pattern. Each metric is compared once, not in each row."""
    metric = group["metric"].combine_chunks()
    wanted = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in metric.dictionary.to_pylist()]
    return group.filter(pa.array(wanted, pa.bool_()).take(metric.indices))
