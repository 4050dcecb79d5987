"""The dataset card of Future-L1-50K, README.md: what its rows are, where they come from, and how they were selected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.curation.contamination import SAME_CONTENT, SAME_VIDEO
from assets.curation.previews import GAIN_FIGURE
from assets.curation.selection import CuratedTable, SelectionSettings
from training.runtime.printable import escaped

CARD, CURATED_TABLE = "README.md", "future_l1_50k.parquet"
COMPOSITION_FIGURE = "composition.png"
TEMPLATE = Path(__file__).with_name("dataset_card.md.j2")
PUBLIC_COLUMNS = (
    "video", "conversations", "image", "reasoning_image", "answer", "meta_data", "gain", "correct_in_8_base",
    "correct_in_8_hint",
)  # fmt: skip
NO_MODEL = "the model that the source was scored with"
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
"""The hub's names for numbers of rows below these."""


@dataclass(frozen=True)
class SourceShards:
    """Shards whose rows were scored: of a data set on a hub at a revision, or (None) of other files."""

    repository: str | None
    revision: str | None
    shards: int
    rows: int


@dataclass(frozen=True)
class Origin:
    """Where the rows come from, and their scores: the name of the model that answered (None: the source has the
    counts) and its answers a row and condition."""

    sources: Sequence[SourceShards]
    model: str | None
    samples: int


def dataset_card(
    report: Mapping[str, Any], selection: SelectionSettings, benchmarks: Mapping[str, int], origin: Origin
) -> str:
    """The card as Markdown, without the license, which is named where the set is published.

    `report` is the selection's; `benchmarks` are what the rows were compared with, with their numbers of items.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    reasons = {reason.replace("_", " "): count for reason, count in report["rejected_by_reason"].items()}
    data = DatasetCardData(
        pretty_name="Future-L1-50K",
        language=["en"],
        annotations_creators=["machine-generated"],
        multilinguality=["monolingual"],
        source_datasets=["extended"],
        size_categories=[next((name for rows, name in SIZES.items() if report["kept"] < rows), "1M<n<10M")],
        task_categories=["video-text-to-text", "visual-question-answering"],
        tags=["future-l1", "video", "event-prediction", "visual-reasoning"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": CURATED_TABLE}]}],
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        table=markdown_table,
        report=report,
        rule=selection,
        benchmarks=[f"{name} ({items:,} items)" for name, items in benchmarks.items()],
        sources={_name(source): f"{source.shards:,} shards, {source.rows:,} rows" for source in origin.sources},
        scores=f"a row's right answers among {origin.samples}, of {escaped(origin.model or NO_MODEL)}",
        counts={"scored": report["scored"], "kept": report["kept"], **reasons, "pending": report["pending"]},
        near=report["contamination"],
        same_video=SAME_VIDEO,
        same_content=SAME_CONTENT,
        columns={f"`{name}`": column.description for name, column in CuratedTable.columns().items()},
        public_columns=", ".join(f"`{name}`" for name in PUBLIC_COLUMNS),
        gain_figure=GAIN_FIGURE,
        composition_figure=COMPOSITION_FIGURE,
    )
    return str(card).rstrip() + "\n"


def _name(source: SourceShards) -> str:
    return f"`{source.repository}` at `{source.revision}`" if source.repository else "files that are on no hub"


def markdown_table(head: tuple[str, str], rows: Mapping[str, Any], of: int = 0) -> str:
    """A two-column table; with `of`, counts carry their share."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for name, value in rows.items():
        share = f" ({100 * value / of:.1f} %)" if of else ""
        lines.append(f"| {name} | {f'{value:,}' if isinstance(value, int) else value}{share} |")
    return "\n".join(lines) + "\n"
