"""The lineage of an id through the current artifacts: what it was made from, and what was made of it.

An artifact's manifest names the versions, or the files' digests, that it was made from; a row is found in every table
that has it, by row id, prompt id, item id or clip.  Nothing is kept for this beside the artifacts themselves.
"""

import re
from collections import defaultdict, deque
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from assets.lineage.inputs import Input, inputs_of
from assets.lineage.notes import folder_of, note_of
from evaluation.reports.edges import CARRY_ROWS, EXCLUDED, KINDS, STARTED, TRAINED, asset_of, partition_of
from evaluation.reports.run_reports import Edge, TableRows, Trace, TrainingSet
from training.storage.artifacts import Artifact, DamagedArtifactError
from training.storage.parquet import scan_parquet

KEYS = ("row_id", "prompt_id", "id", "item_id", "video", "alias")
"""Columns by which a table knows a row, an item, or a clip."""
COLUMNS = (
    "row", "source", "path", "start", "end", "observed", "future", "frame_count", "frames", "sha256", "n_correct_plain",
    "n_graded_plain", "n_correct_hint", "n_graded_hint", "p_t", "p_v", "gain", "status", "rank", "condition", "sample",
    "verdict", "graded_by", "reason", "benchmark", "detail", "question_type", "answer", "parsed", "correct", "spans",
    "cot", "text",
)  # fmt: skip
"""Columns of a row that a trace has; images and questions are in the tables themselves."""
EXAMPLE = ("row_id", "source", "video", "path", "observed", "future", "gain")
"""Columns of a training set's examples."""
EXAMPLES, SHORT = 3, 8
REPORTS, CLIPS = ("_report/", "reports/"), "trajectories/twiff_clips/"
BY_SHARD = ("trajectories/", "curation/")
"""The stages whose partitions are shards."""


@dataclass(frozen=True)
class Lineage:
    """The current artifacts by name (`AssetStore.everything`)."""

    artifacts: Mapping[str, Artifact]
    damaged: dict[Path, str] = field(default_factory=dict)
    """Errors of tables that could not be read."""

    def trace(self, identifier: str, searched: Iterable[str] | None = None) -> Trace:
        """Traces a name of artifacts (`names`), a row's, prompt's or item's id, or a clip's name.

        searched: the artifacts whose tables may have the id; None: all.  Raises ValueError for an unknown id.
        """
        named = self.names(identifier)
        tables = [] if named else self._rows_of(identifier, self.artifacts if searched is None else searched)
        if not named and not tables:
            raise ValueError(f"{identifier!r} is no asset, no partition, no artifact's name or version, and no table "
                             "has it as row_id, prompt_id, id or video")  # fmt: skip
        return self.trace_of(identifier, named, tables)

    def names(self, identifier: str) -> list[str]:
        """The artifacts of a name: an artifact's or its version, all partitions of an asset, or all of a partition.

        An asset's name may have blanks around its slashes, or be its last part alone, as the UI shows it, and a version
        its first SHORT characters alone, as the page does.
        """
        name = re.sub(r"\s*/\s*", "/", identifier.strip())
        exact = [one for one, artifact in self.artifacts.items()
                 if name in (one, artifact.version, artifact.version[:SHORT])]  # fmt: skip
        several = [one for one in self.artifacts if f"/{name}/" in f"/{one}/"]
        return exact or several or [end for end in self._edges["input"] if name in (end, end.rpartition("/")[2])]

    def trace_of(self, identifier: str, named: Sequence[str], tables: Sequence[TableRows] = ()) -> Trace:
        """The trace of artifacts by their names, or of rows in tables."""
        holders = named or list(dict.fromkeys(table.artifact for table in tables))
        made_from = self._walk(holders, "input", self._other_shards(holders, tables))
        used = dict.fromkeys(edge.input for edge in made_from if edge.kind != EXCLUDED)
        upstream = [name for name in used if name not in holders]
        training, others = self._training(named, tables)
        started = self._walk([edge.artifact for edge in training], "artifact", kinds={STARTED})
        trained = list(dict.fromkeys(edge.artifact for edge in (*training, *started)))
        used_by = (self._walk(named, "artifact", passed=others) if named
                   else self._uses_of_rows(training, trained, holders))  # fmt: skip
        downstream = [edge.artifact for edge in used_by if edge.kind != EXCLUDED]
        reports = [name for name in dict.fromkeys((*holders, *downstream)) if is_report(name) and name not in named]
        mentioned = self._versions(dict.fromkeys((*named, *upstream, *downstream, *reports)))
        return Trace(
            id=identifier,
            artifacts=self._versions(named),
            tables=list(tables),
            upstream=self._versions(upstream),
            made_from=made_from,
            used_by=used_by,
            outdated={one.key: one.value for name in (*named, *upstream) for one in self._outdated_inputs(name)},
            training_sets=list(self._training_sets((*named, *upstream))) if named else [],
            checkpoints=self._versions(trained),
            reports=self._versions(reports),
            notes={name: note for name in mentioned if (note := note_of(self.artifacts[name]))},
            folders={name: folder for name in mentioned if (folder := folder_of(self.artifacts[name]))},
        )

    def sets_of(self, checkpoint: str) -> list[Input]:
        """The current tables that a checkpoint was trained on."""
        return [one for one in self.inputs.get(checkpoint, []) if one.is_current_set]

    def outdated(self, name: str) -> list[str]:
        """The inputs of an artifact, and of the models that it was made from, that are not current any more."""
        inputs = self.inputs.get(name, [])
        models = [one.artifact for one in inputs if one.artifact and one.artifact.startswith("checkpoints/")]
        outdated = [one.key for one in self._outdated_inputs(name)]
        return [*outdated, *(key for model in models for key in self.outdated(model))]

    @cached_property
    def inputs(self) -> dict[str, list[Input]]:
        return inputs_of(self.artifacts)

    @cached_property
    def _edges(self) -> dict[str, dict[str, list[Edge]]]:
        """All edges by the name at either end: `artifact` or `input`."""
        ends: dict[str, dict[str, list[Edge]]] = {"artifact": defaultdict(list), "input": defaultdict(list)}
        for edge in (one.edge(name) for name, inputs in self.inputs.items() for one in inputs):
            ends["artifact"][edge.artifact].append(edge)
            ends["input"][edge.input].append(edge)
        return ends

    def _outdated_inputs(self, name: str) -> list[Input]:
        """The recorded inputs of an artifact of which there is another version now, or none."""
        inputs = self.inputs.get(name, [])
        return [one for one in inputs if one.is_outdated or (one.artifact is None and one.key in self.artifacts)]

    def _training(self, named: Sequence[str], tables: Sequence[TableRows]) -> tuple[list[Edge], list[Edge]]:
        """The edges to checkpoints by which rows of these artifacts, or rows in these tables, were trained on.

        And those from sets that were selected from these artifacts, and have none of their rows.
        """
        if not named:
            return [edge for table in tables for edge in self._users_of_file(table)], []
        walked = self._walk(named, "artifact", kinds={*CARRY_ROWS, TRAINED})
        edges = [edge for edge in walked if edge.kind == TRAINED]
        training = [edge for edge in edges if edge.input in named or self._has_rows_of(edge, named)]
        return training, [edge for edge in edges if edge not in training]

    def _has_rows_of(self, edge: Edge, named: Sequence[str]) -> bool:
        """Whether the set of a training has rows of these artifacts: by their shard, or by a table's row ids."""
        if not edge.file or (path := self._file(edge.input, edge.file)) is None:
            return True
        rows, shards, same = scan_parquet(path), [], []
        for name in named:
            table = f"{name.rpartition('/')[2]}.parquet"
            if shard := partition_of(name):
                shards.append(shard)
            elif name in self.artifacts and table in self.artifacts[name].manifest["files"]:
                if whole := self._file(name, table):
                    same.append(rows.join(scan_parquet(whole), on="row_id", how="semi"))
            else:
                return True
        same.append(rows.filter(pl.col("source").is_in(shards)))
        return any(table.head(1).collect().height for table in same)

    def _users_of_file(self, table: TableRows) -> Iterator[Edge]:
        """Edges from exactly this file of an artifact: of several sets a checkpoint reads one."""
        digest = self.artifacts[table.artifact].manifest["files"][table.file]["sha256"]
        for edge in self._edges["input"].get(table.artifact, []):
            if edge.version == digest:
                yield edge.model_copy(update={"direct": True})

    def _uses_of_rows(self, training: list[Edge], trained: list[str], holders: Iterable[str]) -> list[Edge]:
        """The edges on from rows: to the models that were trained on them, and from these and the reports of them."""
        further = self._walk([*trained, *filter(is_report, holders)], "artifact")
        return list(dict.fromkeys([*training, *(edge.model_copy(update={"direct": False}) for edge in further)]))

    def _other_shards(self, holders: Iterable[str], tables: Iterable[TableRows]) -> set[str]:
        """A trajectory's row was made from its own shard, whatever else is in the set that it is in."""
        if not any("row_id" in row for table in tables for row in table.rows):
            return set()
        assets = {asset_of(name) for name in holders}
        return {name for name in self.artifacts if asset_of(name) in assets} - set(holders)

    def _walk(
        self,
        begun: Iterable[str],
        far: Literal["input", "artifact"],
        without: Container[str] = (),
        kinds: Container[str] = KINDS,
        passed: Collection[Edge] = (),
    ) -> list[Edge]:
        """The edges of these kinds from here on, the nearest first, but those `passed` over; it goes on at their `far`
        ends.

        An edge of an exclusion is the last one: behind it lies what was kept out.
        """
        near: Literal["input", "artifact"] = "artifact" if far == "input" else "input"
        start = set(begun)
        reached, queue, walked = set(start), deque(begun), []
        while queue:
            for edge in self._edges[near].get(queue.popleft(), []):
                name = getattr(edge, far)
                if edge.kind not in kinds or name in without or edge in passed:
                    continue
                walked.append(edge.model_copy(update={"direct": True}) if getattr(edge, near) in start else edge)
                if name not in reached and edge.kind != EXCLUDED:
                    reached.add(name)
                    queue.append(name)
        return walked

    def _versions(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self.artifacts[name].version for name in names if name in self.artifacts}

    def _training_sets(self, names: Iterable[str]) -> Iterator[TrainingSet]:
        for one in dict.fromkeys(one for name in names for one in self.sets_of(name)):
            name, _, table = one.key.rpartition("/")
            if (path := self._file(name, f"{table}.parquet")) is None:
                continue
            rows = by_gain(path)
            columns = [column for column in EXAMPLE if column in rows.collect_schema()]
            sizes = rows.select(pl.len(), pl.col("source", "video").n_unique()).collect().row(0)
            examples = rows.select(columns).head(EXAMPLES).collect().to_dicts()
            yield TrainingSet(artifact=name, path=str(path), rows=sizes[0], shards=sizes[1], clips=sizes[2],
                              examples=examples)  # fmt: skip

    def _file(self, name: str, file: str) -> Path | None:
        """An artifact's file; None for one that cannot be read, which is then among the damaged ones."""
        artifact = self.artifacts[name]
        try:
            return artifact.file(file)
        except DamagedArtifactError as error:
            self.damaged[artifact.path / file] = str(error)
            return None

    def _rows_of(self, identifier: str, searched: Iterable[str]) -> list[TableRows]:
        """The rows that an id names, in the order in which things are made; of a trajectory's row, its clip too.

        The first tables that have it, a set's or those of `trajectories/twiff_rows`, say in which shards it is: there
        may be thousands, and of the others nothing else is read.
        """
        names = list(searched)
        tables = [table for name in names if not partition_of(name) for table in self._rows_in(name, identifier)]
        shards = {row.get("source") for table in tables for row in table.rows if row.get("row_id") == identifier}
        for asset in sorted({asset_of(name) for name in names if partition_of(name)}, reverse=True):  # twiff_rows first
            partitions = [name for name in names if name.startswith(f"{asset}/")]
            if asset.startswith(BY_SHARD) and shards:
                partitions = [name for name in partitions if partition_of(name) in shards]
            several = [table for name in partitions for table in self._rows_in(name, identifier)]
            if asset.startswith(BY_SHARD):
                shards |= {partition_of(table.artifact) for table in several}
            tables += several
        rows = [row for table in tables for row in table.rows]
        clips = {row["video"] for row in rows if "row_id" in row and row.get("video")} - {identifier}
        unread = {f"{CLIPS}{shard}" for shard in shards}.intersection(names) - {table.artifact for table in tables}
        tables += [table for clip in sorted(clips) for name in sorted(unread) for table in self._rows_in(name, clip)]
        depths = {name: len(self._walk([name], "input")) for name in {table.artifact for table in tables}}
        return sorted(tables, key=lambda table: (depths[table.artifact], table.artifact))

    def _rows_in(self, name: str, identifier: str) -> Iterator[TableRows]:
        """The rows in the tables of an artifact; files in its folders are a source's own.

        A table's content is checked only where it has some, or cannot be read: there may be thousands.
        """
        artifact = self.artifacts[name]
        for file in sorted(artifact.manifest["files"]):
            if not file.endswith(".parquet") or "/" in file:
                continue
            try:
                rows = _rows_with(identifier, artifact.path / file)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
                if self._file(name, file) is not None:
                    raise
                continue
            if rows and self._file(name, file) is not None:
                revision = artifact.provenance["counts"].get("revision")
                yield TableRows(artifact=name, version=artifact.version, file=file, rows=rows, revision=revision)


def _rows_with(identifier: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a table that have the id in one of KEYS."""
    table = scan_parquet(path)
    schema = table.collect_schema()
    keys = [column for column in KEYS if schema.get(column) == pl.String]
    if not keys:
        return []
    matches = [pl.col(column) == identifier for column in keys]
    matches += [pl.col("prompt_id").str.starts_with(f"{identifier}/")] if "prompt_id" in keys else []
    columns = dict.fromkeys(column for column in (*keys, *COLUMNS) if column in schema)
    return table.filter(pl.any_horizontal(matches)).select(list(columns)).collect().to_dicts()


def is_report(name: str) -> bool:
    """Whether an artifact reports numbers; the answers that some reports are made from do not."""
    return any(part in name for part in REPORTS) and not asset_of(name).endswith("_answers")


def by_gain(path: Path) -> pl.LazyFrame:
    """A set's rows, those of the highest visual gain first."""
    table = scan_parquet(path)
    order = [column for column in ("gain", "rank", "row_id") if column in table.collect_schema()]
    return table.sort(order, descending=[column == "gain" for column in order])
