"""Scored rows: the tables of `curation/visual_gain`, shard by shard, read as one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.framework.store import AssetStore
from training.storage.artifacts import Artifact
from training.storage.parquet import scan_parquet

GAIN = "curation/visual_gain"
GAIN_TABLE = "visual_gain.parquet"
VERDICT_TABLE = "verdicts.parquet"


def scored_shards(store: AssetStore) -> dict[str, Artifact]:
    """The visual gain of every scored shard, by the shard's name."""
    return {shard: store.current(GAIN, shard) for shard in store.partitions(GAIN)}


def gain_tables(scored: Mapping[str, Artifact]) -> list[Path]:
    """The rows of the scored shards."""
    return [artifact.file(GAIN_TABLE) for artifact in scored.values()]


def verdict_tables(scored: Mapping[str, Artifact]) -> list[Path]:
    """The verdicts of the scored shards; none where the counts are the source's."""
    return [a.file(VERDICT_TABLE) for a in scored.values() if VERDICT_TABLE in a.manifest["files"]]


def scan(scored: Sequence[Path]) -> pl.LazyFrame:
    """All scored shards as one table.  Raises ValueError without any."""
    if not scored:
        raise ValueError("no scored shards: materialise inputs/twiff_source (the list) and curation/visual_gain")
    return scan_parquet(*scored, extra_columns="ignore")


def whole_rows(scored: Sequence[Path], ranked: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """`columns` of the rows in `ranked` (row_id, rank), with `rank` and in its order.

    Of a row that several shards have, the one of the best gain.
    """
    wanted = pl.col("row_id").is_in(ranked["row_id"].implode())
    rows = scan(scored).select(columns).filter(wanted).collect(engine="streaming")
    order: dict[str, Any] = {"by": ["rank", "gain", "p_t", "video"], "descending": [False, True, False, False]}
    rows = rows.join(ranked.select("row_id", "rank"), on="row_id").sort(**order, nulls_last=True)
    return rows.unique("rank", keep="first").sort("rank")


def hash_order(row_ids: pl.Series, *seed: int) -> pl.Series:
    """A number per row by which rows are sampled: `stable_hash` of the seed and the row id, a column at once by duckdb.

    Without a seed it orders the rows of equal gain, so that a cut among them favours no shard, clip or category.
    """
    import duckdb

    names = pl.select(name=pl.concat_str(*map(pl.lit, seed), pl.lit(row_ids), separator=":"))
    with duckdb.connect() as connection:
        connection.register("names", names.to_arrow())
        hashes = connection.sql("SELECT ('0x' || sha256(name)[:16])::UBIGINT AS \"order\" FROM names").to_arrow_table()
    return pl.Series("order", pl.DataFrame(hashes)["order"], pl.UInt64)
