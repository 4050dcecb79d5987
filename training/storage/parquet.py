"""Parquet tables by path.  Nothing else calls the readers of polars or duckdb, which take `[ ] * ?` in a path for a
pattern and `name=value` for a column."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import polars as pl


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Writes a table for others to read: as other libraries' tables it has Arrow's `string` and `list`, not polars'
    `large_string` and `large_list`, which `datasets` and Arrow do not concatenate with them."""
    table.write_parquet(path, use_pyarrow=True, pyarrow_options={"store_schema": False})


def scan_parquet(*paths: Path, extra_columns: Literal["ignore", "raise"] = "raise") -> pl.LazyFrame:
    """The rows of files, one below the other, read when the frame is collected."""
    return pl.scan_parquet(list(paths), glob=False, hive_partitioning=False, extra_columns=extra_columns)


def column_names(path: Path) -> list[str]:
    """The names of a file's columns.  Raises ValueError as `read_parquet` does."""
    with _naming(path):
        return scan_parquet(path).collect_schema().names()


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of one file.

    Raises ValueError, which names the file, where it is no parquet table, is broken, or lacks a column.
    """
    with _naming(path):
        table = scan_parquet(path)
        return (table if columns is None else table.select(columns)).collect()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes what polars raises of a file ValueError that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path} cannot be read as a parquet table: {str(error).splitlines()[0]}") from error
