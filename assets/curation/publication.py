"""A publication of Future-L1-50K: tables, JSON export, dataset card and what changed, written to one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.contamination import BenchmarkIndex
from assets.curation.dataset_card import (
    CARD,
    COMPOSITION_FIGURE,
    CURATED_TABLE,
    PUBLIC_COLUMNS,
    Origin,
    dataset_card,
    markdown_table,
)
from assets.curation.local_clips import write_local_clips
from assets.curation.previews import GAIN_FIGURE, gain_figure
from assets.curation.selection import CuratedTable, SelectionSettings, select
from training.storage.artifacts import Artifact
from training.storage.files import atomic_write
from training.storage.parquet import read_parquet, write_parquet

EXPORT = "future_l1_50k.json"
POOL_TABLE, EXCLUDED_TABLE = "pool.parquet", "excluded.parquet"
CHANGE = "CHANGE.md"
PUBLISHED = (
    CARD, CURATED_TABLE, POOL_TABLE, EXCLUDED_TABLE, EXPORT, GAIN_FIGURE, COMPOSITION_FIGURE, CHANGE,
)  # fmt: skip
"""The other files of the artifact stay here: they show clips, which are no part of the set, or say where they are."""


def publish(
    folder: Path,
    scored: Sequence[Path],
    settings: SelectionSettings,
    index: BenchmarkIndex,
    before: tuple[str, Path] | None,
    origin: Origin,
) -> dict[str, Any]:
    """Selects and writes; returns the report.

    `before` is the version and the curated table of the publication before this one; the card names the `origin`.
    """
    from evaluation.drawing.run_plots import composition

    selection = select(scored, settings, index)
    report = selection.report
    write_parquet(selection.rows.select(CuratedTable.column_names()), folder / CURATED_TABLE)
    write_parquet(selection.pool, folder / POOL_TABLE)
    write_parquet(selection.excluded, folder / EXCLUDED_TABLE)
    write_local_clips(selection.rows, folder)
    export_json(selection.rows, folder / EXPORT)
    (folder / GAIN_FIGURE).write_bytes(gain_figure(report))
    (folder / COMPOSITION_FIGURE).write_bytes(composition(report["categories"], report["future_frames"]))
    items = dict(index.table["benchmark"].value_counts().iter_rows())
    benchmarks = {name: items.get(name, 0) for name in sorted(index.sources)}
    (folder / CARD).write_text(dataset_card(report, settings, benchmarks, origin), encoding="utf-8")
    if before is not None:
        version, curated = before
        change = difference(selection.rows, read_parquet(curated, columns=["row_id", "gain", "category"]))
        (folder / CHANGE).write_text(change_report(change, version), encoding="utf-8")
        report = report | {"change": change | {"before": version}}
    return report


def write_publication(curated: Artifact, folder: Path, license_id: str | None) -> None:
    """Writes the data set as it is published: a folder for `datasets.load_dataset`, whose card names the license."""
    from huggingface_hub import DatasetCard

    for name in curated.manifest["files"].keys() & PUBLISHED:
        content = curated.file(name).read_bytes()
        if name == CARD and license_id:
            card = DatasetCard(content.decode())
            card.data["license"] = license_id
            content = str(card).encode()
        with atomic_write(folder / name) as fresh:
            fresh.write_bytes(content)
    if CHANGE not in curated.manifest["files"]:
        (folder / CHANGE).unlink(missing_ok=True)  # another version's


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
    counts = {"new": "rows_in", "gone": "rows_out", "in both": "rows_kept",
              "in both, with another gain": "gains_changed"}  # fmt: skip
    shifts = {name: f"{100 * shift:+.2f}" for name, shift in change["category_shift"].items()}
    drift = {f"{int(step):+d}": count for step, count in change["gain_drift"].items()}
    parts = [
        f"# Change against version {before}\n",
        markdown_table(("rows", "count"), {name: change[count] for name, count in counts.items()}),
        f"Mean gain: {means[0]} before, {means[1]} now.\n",
        markdown_table(("category", "share, percentage points"), shifts),
        *([markdown_table(("gain changed by", "rows"), drift)] if drift else []),
    ]
    return "\n".join(parts)
