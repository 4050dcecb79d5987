"""The lineage on the report's page: each model's reports, and examples of rows and items with their storyboards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import polars as pl

from assets.curation.previews import storyboards
from assets.curation.scored import GAIN, GAIN_TABLE, VERDICT_TABLE
from assets.curation.visual_gain import VerdictTable
from assets.lineage.inputs import Input
from assets.lineage.trace import Lineage, by_gain
from evaluation.drawing.storyboard import storyboard
from evaluation.reports.edges import asset_of
from evaluation.reports.run_reports import LineageReport, TableRows, Trace
from evaluation.reports.storyboards import LAYOUT, board_of
from training.storage.artifacts import Artifact
from training.storage.parquet import read_parquet, scan_parquet

CHOICE_REPORT, JUDGED_REPORT = "benchmarks/futurebench_report", "benchmarks/twiffbench_report"
CHOICE_ANSWERS, CHOICE_ITEMS = "benchmarks/futurebench_answers", "inputs/futurebench_items"
ROWS_OF_A_SET, MAX_ITEMS = 2, 3
"""The examples on the page."""


def lineage_report(lineage: Lineage, models: Mapping[str, str]) -> LineageReport:
    """The traces on the page.

    models: the name of each reported model's checkpoint, in the order of the page.
    """
    sets = dict.fromkeys(one for checkpoint in models.values() for one in lineage.sets_of(checkpoint))
    rows = {trace.id: trace for one in sets for trace in _best_rows(lineage, one)}
    return LineageReport(
        models={model: summed_up(lineage.trace_of(model, _reports(lineage, model))) for model in models},
        rows=[summed_up(trace) for trace in rows.values()],
        items=[summed_up(lineage.trace(item, _answered(lineage, models))) for item in _disputed_items(lineage, models)],
    )


def summed_up(trace: Trace) -> Trace:
    """The trace with several partitions of an asset upstream, of which there may be thousands, as one."""
    partitions: dict[str, list[str]] = {}
    for name in trace.upstream:
        partitions.setdefault(asset_of(name), []).append(name)
    assets = {name: asset for asset, names in partitions.items() if len(names) > 1 for name in names}
    edges = dict.fromkeys(
        edge.model_copy(update={
            "artifact": assets.get(edge.artifact, edge.artifact),
            "input": assets.get(edge.input, edge.input),
            "version": "" if {edge.artifact, edge.input} & assets.keys() else edge.version,
        })
        for edge in trace.made_from
    )  # fmt: skip
    notes = {name: note for name, note in trace.notes.items() if name not in assets}
    for asset in dict.fromkeys(assets.values()):
        revisions = [note for name in partitions[asset] if (note := trace.notes.get(name, "")).startswith("revision")]
        notes[asset] = ", ".join(dict.fromkeys([f"{len(partitions[asset])} partitions", *revisions]))
    upstream = {assets.get(name, name): "" if name in assets else version for name, version in trace.upstream.items()}
    return trace.model_copy(update={"upstream": upstream, "made_from": list(edges), "notes": notes})


def trace_storyboard(lineage: Lineage, trace: Trace) -> bytes | None:
    """A PNG of the scored rows, or of the FutureBench item with each model's answer, that a trace has; else None."""
    gains = _tables(trace, f"{GAIN}/", GAIN_TABLE)
    if gains:
        return _storyboard_of_rows(lineage, gains)
    if items := _tables(trace, CHOICE_ITEMS, "items.parquet"):
        return _storyboard_of_item(lineage, items, _tables(trace, f"{CHOICE_REPORT}/", "graded.parquet"))
    return None


def _tables(trace: Trace, artifact: str, file: str) -> list[TableRows]:
    return [table for table in trace.tables if table.artifact.startswith(artifact) and table.file == file]


def _storyboard_of_rows(lineage: Lineage, tables: Sequence[TableRows]) -> bytes:
    rows: list[pl.DataFrame] = []
    verdicts: list[pl.DataFrame] = [VerdictTable.create_empty()]
    for table in tables:
        artifact = lineage.artifacts[table.artifact]
        wanted = pl.col("row_id").is_in([row["row_id"] for row in table.rows])
        rows.append(scan_parquet(artifact.file(GAIN_TABLE)).filter(wanted).collect())
        if VERDICT_TABLE in artifact.manifest["files"]:
            verdicts.append(scan_parquet(artifact.file(VERDICT_TABLE)).filter(wanted).collect())
    scored = pl.concat(rows, how="diagonal_relaxed")
    return storyboards(scored, pl.concat(verdicts), scored.height)


def _storyboard_of_item(lineage: Lineage, items: Sequence[TableRows], graded: Sequence[TableRows]) -> bytes:
    def row_of(artifact: Artifact, file: str, item: str) -> pl.DataFrame:
        return scan_parquet(artifact.file(file)).filter(pl.col("id") == item).collect()

    item = row_of(lineage.artifacts[CHOICE_ITEMS], "items.parquet", items[0].rows[0]["id"])
    boards = []
    for table in graded:
        answer = row_of(lineage.artifacts[table.artifact], table.file, item["id"][0])
        (row,) = item.join(answer.select("id", "text", "parsed"), on="id").iter_rows(named=True)
        boards.append(replace(board_of(row), title=table.artifact.rpartition("/")[2]))
    return storyboard(boards, LAYOUT)


def _reports(lineage: Lineage, model: str) -> list[str]:
    return [name for key in (CHOICE_REPORT, JUDGED_REPORT) if (name := f"{key}/{model}") in lineage.artifacts]


def _best_rows(lineage: Lineage, training_set: Input) -> Iterator[Trace]:
    """The first rows of a set by visual gain."""
    name, _, file = training_set.key.rpartition("/")
    first = by_gain(lineage.artifacts[name].file(f"{file}.parquet")).select("row_id", "source").head(ROWS_OF_A_SET)
    for row_id, shard in first.collect().iter_rows():
        unpartitioned = [name for name in lineage.artifacts if name.startswith("curation/") and name == asset_of(name)]
        partitions = [name for name in lineage.artifacts if name == f"{asset_of(name)}/{shard}"]
        yield lineage.trace(row_id, [*partitions, *unpartitioned])


def _answered(lineage: Lineage, models: Mapping[str, str]) -> list[str]:
    """The artifacts that have FutureBench's items, answers and verdicts."""
    names = [CHOICE_ITEMS, *(f"{key}/{model}" for model in models for key in (CHOICE_ANSWERS, CHOICE_REPORT))]
    return [name for name in names if name in lineage.artifacts]


def _disputed_items(lineage: Lineage, models: Mapping[str, str]) -> list[str]:
    """The first item of each split that some models answer correctly and others do not."""
    reports = [f"{CHOICE_REPORT}/{model}" for model in models if f"{CHOICE_REPORT}/{model}" in lineage.artifacts]
    graded = [read_parquet(lineage.artifacts[name].file("graded.parquet")) for name in reports]
    if not graded or CHOICE_ITEMS not in lineage.artifacts:
        return []
    correct = [table.select("id", pl.col("correct").alias(str(number))) for number, table in enumerate(graded)]
    common = reduce(lambda left, right: left.join(right, on="id", maintain_order="left"), correct)
    disputed = common.filter(pl.any_horizontal(pl.exclude("id")) & ~pl.all_horizontal(pl.exclude("id"))).select("id")
    items = read_parquet(lineage.artifacts[CHOICE_ITEMS].file("items.parquet"))
    first = items.join(disputed, on="id", maintain_order="left").unique(
        "question_type", keep="first", maintain_order=True
    )
    return first["id"].head(MAX_ITEMS).to_list()
