"""Everything that a publication of Future-L1-50K consists of, written to one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.card import card_figures, dataset_card
from assets.curation.contamination import BenchmarkIndex
from assets.curation.difference import change_report, difference
from assets.curation.export import export_json
from assets.curation.selection import SelectionSettings, select
from training.storage.parquet import read_parquet

CURATED_TABLE = "future_l1_50k.parquet"
EXPORT = "future_l1_50k.json"
POOL_TABLE = "pool.parquet"
EXCLUDED_TABLE = "excluded.parquet"
CARD = "README.md"
CHANGE = "CHANGE.md"


def publish(
    folder: Path,
    scored: Sequence[Path],
    settings: SelectionSettings,
    index: BenchmarkIndex,
    before: tuple[str, Path] | None,
) -> dict[str, Any]:
    """Selects and writes; returns the report.

    `before` is the version and the curated table of the publication before this one.
    """
    chosen = select(scored, settings, index)
    report = chosen.report
    chosen.rows.write_parquet(folder / CURATED_TABLE)
    chosen.pool.write_parquet(folder / POOL_TABLE)
    chosen.excluded.write_parquet(folder / EXCLUDED_TABLE)
    export_json(folder / CURATED_TABLE, folder / EXPORT)
    for name, figure in card_figures(report).items():
        (folder / name).write_bytes(figure)
    (folder / CARD).write_text(dataset_card(report, settings, _told(index.sources, index.table)), encoding="utf-8")
    if before is not None:
        version, curated = before
        change = difference(chosen.rows, read_parquet(curated, columns=["row_id", "gain", "category"]))
        (folder / CHANGE).write_text(change_report(change, version), encoding="utf-8")
        report = report | {"change": change | {"before": version}}
    return report


def _told(sources: Mapping[str, Path], table: pl.DataFrame) -> list[str]:
    return [f"{name} ({table.filter(pl.col('benchmark') == name).height:,} items)" for name in sorted(sources)]
