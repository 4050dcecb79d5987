"""A publication of Future-L1-50K: tables, JSON export, dataset card and what changed, written to one folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.contamination import SAME_CONTENT, SAME_VIDEO, BenchmarkIndex
from assets.curation.local_clips import LOCAL_CLIPS, write_local_clips
from assets.curation.previews import GAIN_FIGURE, REJECTED, STORYBOARDS, TOP_ROWS, gain_figure
from assets.curation.selection import CuratedTable, SelectionSettings, select
from training.storage.artifacts import Artifact
from training.storage.files import atomic_write
from training.storage.parquet import read_parquet, write_parquet

CURATED_TABLE, EXPORT = "future_l1_50k.parquet", "future_l1_50k.json"
POOL_TABLE, EXCLUDED_TABLE = "pool.parquet", "excluded.parquet"
CARD, CHANGE = "README.md", "CHANGE.md"
COMPOSITION_FIGURE = "composition.png"
UNPUBLISHED = {STORYBOARDS, TOP_ROWS, REJECTED, LOCAL_CLIPS}
"""Files that stay here: they show clips, which are no part of the set, or say where they are."""
PUBLIC_COLUMNS = (
    "video", "conversations", "image", "reasoning_image", "answer", "meta_data", "gain", "correct_in_8_base",
    "correct_in_8_hint",
)  # fmt: skip

_HEAD = """\
---
{data}
---

# Future-L1-50K

{kept:,} video trajectories that a model could not answer from the observed frames and could once it was shown the \
true future frames: visual-gain selection as in Future-L1 (arXiv 2606.05769, section 3.2). Made by the open Future-L1 \
pipeline; metadata only, clips are not part of it.

![Rows by visual gain]({gains})

![Rows by category and by number of future frames]({composition})
"""

_CURTAILED = """\
{cut:,} of the {scored:,} scored rows were cut short: their answers stopped as soon as no outcome could have kept \
them. That changes no kept row, but a row that was cut short has no gain. So the gains of all scored rows are \
estimated from a sample: the {fully_sampled:,} rows that were chosen by a hash of their id and answered in full.
"""

_DISJOINT = """\
Left out as the same as an item of a benchmark: {video:,} rows whose source video overlaps an item's (same YouTube id \
and overlapping or unknown time), and {content:,} rows with an item's question, answer and, by a perceptual hash, \
observed frames. Not left out: {answer:,} rows with an item's question and answer and no such frame, and \
{question:,} with its question alone (template questions are common). Compared with: {benchmarks}. Left out as \
repetitions: {repeats:,} rows on the same frames of a clip with the same answer and a question that differs from a \
better-ranked row's only in letter case, punctuation or stop words.
"""


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
    benchmarks = [f"{name} ({items.get(name, 0):,} items)" for name in sorted(index.sources)]
    (folder / CARD).write_text(dataset_card(report, settings, benchmarks), encoding="utf-8")
    if before is not None:
        version, curated = before
        change = difference(selection.rows, read_parquet(curated, columns=["row_id", "gain", "category"]))
        (folder / CHANGE).write_text(change_report(change, version), encoding="utf-8")
        report = report | {"change": change | {"before": version}}
    return report


def write_publication(curated: Artifact, folder: Path, license_id: str | None) -> None:
    """Writes the data set as it is published: a folder for `datasets.load_dataset`, whose card names the license."""
    from huggingface_hub import DatasetCard

    for name in curated.manifest["files"]:
        if name in UNPUBLISHED:
            continue
        content = curated.file(name).read_bytes()
        if name == CARD and license_id:
            card = DatasetCard(content.decode())
            card.data["license"] = license_id
            content = str(card).encode()
        with atomic_write(folder / name) as fresh:
            fresh.write_bytes(content)


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
        _table(("rows", "count"), {name: change[count] for name, count in counts.items()}),
        f"Mean gain: {means[0]} before, {means[1]} now.\n",
        _table(("category", "share, percentage points"), shifts),
        *([_table(("gain changed by", "rows"), drift)] if drift else []),
    ]
    return "\n".join(parts)


def dataset_card(report: Mapping[str, Any], selection: SelectionSettings, benchmarks: Sequence[str]) -> str:
    """Markdown; `report` is the selection's, `benchmarks` name what the rows were compared with."""
    kept, reasons, near = report["kept"], report["rejected_by_reason"], report["contamination"]
    columns = {f"`{name}`": column.description for name, column in CuratedTable.columns().items()}
    rejected = {reason.replace("_", " "): count for reason, count in reasons.items()}
    parts = [
        _HEAD.format(data=_card_data(kept), kept=kept, gains=GAIN_FIGURE, composition=COMPOSITION_FIGURE),
        "## Selection",
        f"Kept: p_t <= {selection.max_p_t} and p_v - p_t >= {selection.min_gain}, ranked by gain, at most"
        f" {selection.top:,} rows.\n",
        _table(("rows", "count"), {"scored": report["scored"], "kept": kept, **rejected, "pending": report["pending"]}),
        _DISJOINT.format(
            video=near[SAME_VIDEO], content=near[SAME_CONTENT], answer=near["question and answer alone"],
            question=near["question alone"], repeats=reasons["repeats"],
            benchmarks=", ".join(benchmarks) or "no benchmark",
        ),
        "## Gain of the kept rows",
        _table(("gain", "rows"), report["gain_histogram_kept"], of=kept),
        f"## Gain of all scored rows, from {report['fully_sampled']:,} of them",
        _CURTAILED.format(cut=report["cut_short"], scored=report["scored"], fully_sampled=report["fully_sampled"]),
        _table(("gain", "rows"), report["gain_histogram"], of=report["fully_sampled"]),
        "## Categories",
        _table(("category", "rows"), report["categories"], of=kept),
        "## Future frames per row",
        _table(("future frames", "rows"), report["future_frames"], of=kept),
        "## Columns",
        _table(("column", "meaning"), columns),
    ]  # fmt: skip
    return "\n".join(parts)


def _card_data(rows: int) -> str:
    """The hub's metadata as YAML; the license is named where the set is published (`write_publication`)."""
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        pretty_name="Future-L1-50K",
        language=["en"],
        annotations_creators=["machine-generated"],
        multilinguality=["monolingual"],
        source_datasets=["extended"],
        size_categories=[_size(rows)],
        task_categories=["video-text-to-text", "visual-question-answering"],
        tags=["video", "event-prediction", "visual-reasoning", "latent-reasoning"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": CURATED_TABLE}]}],
    ).to_yaml()


def _size(rows: int) -> str:
    """The hub's name for a size."""
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((name for bound, name in bounds.items() if rows < bound), "1M<n<10M")


def _table(head: tuple[str, str], rows: Mapping[str, Any], of: int = 0) -> str:
    """A two-column table; with `of`, counts carry their share."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for name, value in rows.items():
        share = f" ({100 * value / of:.1f} %)" if of else ""
        lines.append(f"| {name} | {f'{value:,}' if isinstance(value, int) else value}{share} |")
    return "\n".join(lines) + "\n"
