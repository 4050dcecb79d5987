"""A publication of Future-L1-50K: tables, JSON export, dataset card and what changed, written to one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.card import card_figures, dataset_card
from assets.curation.contamination import BenchmarkIndex
from assets.curation.selection import SelectionSettings, select
from training.storage.parquet import read_parquet

CURATED_TABLE = "future_l1_50k.parquet"
EXPORT = "future_l1_50k.json"
POOL_TABLE = "pool.parquet"
EXCLUDED_TABLE = "excluded.parquet"
CARD = "README.md"
CHANGE = "CHANGE.md"
PUBLIC_COLUMNS = (
    "video",
    "conversations",
    "image",
    "reasoning_image",
    "answer",
    "meta_data",
    "gain",
    "correct_in_8_base",
    "correct_in_8_hint",
)


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
    selection = select(scored, settings, index)
    report = selection.report
    selection.rows.write_parquet(folder / CURATED_TABLE)
    selection.pool.write_parquet(folder / POOL_TABLE)
    selection.excluded.write_parquet(folder / EXCLUDED_TABLE)
    export_json(selection.rows, folder / EXPORT)
    for name, figure in card_figures(report).items():
        (folder / name).write_bytes(figure)
    items = dict(index.table["benchmark"].value_counts().iter_rows())
    benchmarks = [f"{name} ({items.get(name, 0):,} items)" for name in sorted(index.sources)]
    (folder / CARD).write_text(dataset_card(report, settings, benchmarks), encoding="utf-8")
    if before is not None:
        version, curated = before
        change = difference(selection.rows, read_parquet(curated, columns=["row_id", "gain", "category"]))
        (folder / CHANGE).write_text(change_report(change, version), encoding="utf-8")
        report = report | {"change": change | {"before": version}}
    return report


def export_json(rows: pl.DataFrame, target: Path) -> None:
    """Writes published rows as the public release's loader reads them (reference/sft.md 2.1 and 2.3): a JSON list.

    `<image>` stands for the observed frames in the human turn and for the future ones in the gpt turn; `image` and
    `reasoning_image` are lists of integers, by which the loader knows the kind of record.  `video` is the clip's name
    as the row has it; the loader looks for it beside the JSON file.
    """
    rows.sort("rank").select(PUBLIC_COLUMNS).write_json(target)


def difference(new: pl.DataFrame, old: pl.DataFrame) -> dict[str, Any]:
    """Rows in and out, gain drift of the rows in both, category shift (in shares)."""
    both = new.join(old.select("row_id", pl.col("gain").alias("gain_before")), on="row_id")
    drift = both.filter(pl.col("gain") != pl.col("gain_before")).select(pl.col("gain") - pl.col("gain_before"))["gain"]
    shares = [dict(t["category"].value_counts(normalize=True).iter_rows()) for t in (new, old)]
    return {
        "rows_in": new.join(old, on="row_id", how="anti").height,
        "rows_out": old.join(new, on="row_id", how="anti").height,
        "rows_kept": both.height,
        "gains_changed": len(drift),
        "gain_drift": {str(change): n for change, n in sorted(drift.value_counts().iter_rows())},
        "mean_gain_before": old["gain"].mean(),
        "mean_gain": new["gain"].mean(),
        "category_shift": {c: shares[0].get(c, 0.0) - shares[1].get(c, 0.0) for c in sorted({*shares[0], *shares[1]})},
    }


def change_report(change: Mapping[str, Any], before: str) -> str:
    """The difference as Markdown; `before` is the version that the new one is compared with."""
    means = ["none" if change[m] is None else f"{change[m]:.3f}" for m in ("mean_gain_before", "mean_gain")]
    lines = [
        f"# Change against version {before}",
        "",
        "| rows | count |",
        "| --- | --- |",
        f"| new | {change['rows_in']:,} |",
        f"| gone | {change['rows_out']:,} |",
        f"| in both | {change['rows_kept']:,} |",
        f"| in both, with another gain | {change['gains_changed']:,} |",
        "",
        f"Mean gain: {means[0]} before, {means[1]} now.",
        "",
        "| category | share, percentage points |",
        "| --- | --- |",
        *(f"| {name} | {100 * shift:+.2f} |" for name, shift in change["category_shift"].items()),
    ]
    if change["gain_drift"]:
        lines += ["", "| gain changed by | rows |", "| --- | --- |"]
        lines += [f"| {int(step):+d} | {count:,} |" for step, count in change["gain_drift"].items()]
    return "\n".join(lines) + "\n"
