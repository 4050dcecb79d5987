"""The lineage of an id through the current artifacts: what it was made from, and what was made of it.

An artifact's manifest names the versions, or the files' digests, that it was made from; a row is found in every table
that has it, by row id, prompt id, item id or clip.  Nothing is kept for this beside the artifacts themselves.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path

import polars as pl

from evaluation.reports.run_reports import LineageReport, TableRows, Trace
from training.storage.artifacts import Artifact, DamagedArtifactError
from training.storage.parquet import read_parquet, scan_parquet

KEYS = ("row_id", "prompt_id", "id", "video", "alias")
"""Columns by which a table knows a row, an item, or a clip."""
COLUMNS = (
    "row", "path", "start", "end", "observed", "future", "frame_count", "frames", "sha256", "n_correct_plain",
    "n_graded_plain", "n_correct_hint", "n_graded_hint", "p_t", "p_v", "gain", "status", "rank", "condition", "sample",
    "verdict", "graded_by", "reason", "detail", "question_type", "answer", "parsed", "correct", "spans", "cot", "text",
)  # fmt: skip
"""Columns of a row that a trace shows; images and questions are in the tables themselves."""
CHECKPOINTS, REPORTS, CLIPS = "checkpoints/", ("_report/", "reports/"), "trajectories/twiff_clips/"
SETS = ("curation/sft_sets/", "curation/rl_sets/")
MADE = ("benchmarks/", "checkpoints/", "curation/", "trajectories/")
"""The groups of assets that are made here; inputs may come from elsewhere."""
CHOICE_REPORT, JUDGED_REPORT = "benchmarks/futurebench_report", "benchmarks/twiffbench_report"
CHOICE_ANSWERS, CHOICE_ITEMS = "benchmarks/futurebench_answers", "inputs/futurebench_items"
ROWS_OF_A_SET, MAX_ITEMS = 2, 3
"""The examples on the report's page."""


@dataclass(frozen=True)
class Input:
    """One input as an artifact recorded it: a version, or a table's digest; and the current artifact that has it."""

    key: str
    value: str
    artifact: str | None

    @property
    def is_current_set(self) -> bool:
        """Whether this is a table of the current training sets; another artifact may have the same bytes."""
        return self.key.startswith(SETS) and self.artifact == self.key.rpartition("/")[0]

    @property
    def is_outdated(self) -> bool:
        """Whether this is an artifact that is not current any more."""
        if self.key.startswith(SETS):
            return not self.is_current_set
        return self.artifact is None and (self.key == "checkpoint" or self.key.startswith(MADE))


@dataclass(frozen=True)
class Lineage:
    """The current artifacts by name (`AssetStore.everything`)."""

    artifacts: Mapping[str, Artifact]
    damaged: dict[Path, str] = field(default_factory=dict)
    """Errors of tables that could not be read."""

    def trace(self, identifier: str, searched: Iterable[str] | None = None) -> Trace:
        """Traces an artifact's name or version, a row's, prompt's or item's id, or a clip's name.

        searched: the artifacts whose tables may have the id; None: all.  Raises ValueError for an unknown id.
        """
        named = [name for name, artifact in self.artifacts.items() if identifier in (name, artifact.version)]
        tables = [] if named else self._rows_of(identifier, self.artifacts if searched is None else searched)
        if not named and not tables:
            raise ValueError(f"{identifier!r} is no artifact's name or version, and no table has it as row_id, "
                             "prompt_id, id or video")  # fmt: skip
        return self.trace_of(identifier, named, tables)

    def trace_of(self, identifier: str, named: Sequence[str], tables: Sequence[TableRows] = ()) -> Trace:
        """The trace of artifacts by their names, or of rows in tables."""
        holders = named or list(dict.fromkeys(table.artifact for table in tables))
        upstream = self._reached(holders, self.made_from, self._other_shards(holders, tables))
        users = {user for table in tables for user in self._users_of_file(table)}
        trained = sorted(user for user in users if user.startswith(CHECKPOINTS))
        downstream = [*self._reached(named or trained, self.made_of), *([] if named else [*trained, *holders])]
        return Trace(
            id=identifier,
            artifacts=self._versions(named),
            tables=list(tables),
            upstream=self._versions(upstream),
            outdated={i.key: i.value for name in (*named, *upstream) for i in self.inputs[name] if i.is_outdated},
            checkpoints=self._versions(name for name in downstream if name.startswith(CHECKPOINTS)),
            reports=self._versions(name for name in downstream if any(part in name for part in REPORTS)),
            notes={name: note for name in (*named, *upstream) if (note := note_of(self.artifacts[name]))},
        )

    @cached_property
    def inputs(self) -> dict[str, list[Input]]:
        """Each artifact's inputs: those that are current are known by their versions, else by the digest of a table."""
        by_version = {artifact.version: name for name, artifact in self.artifacts.items()}
        by_file: defaultdict[str, list[str]] = defaultdict(list)
        for name, artifact in self.artifacts.items():
            for path, file in artifact.manifest["files"].items():
                if path.endswith(".parquet"):
                    by_file[file["sha256"]].append(name)

        def source(key: str, value: str) -> str | None:
            holders = by_file.get(value, [])
            named = [name for name in holders if key.startswith(f"{name}/")]
            return by_version.get(value) or next(iter(named or holders), None)

        return {
            name: [Input(key, str(value), source(key, str(value))) for key, value in recorded.items()]
            for name, artifact in self.artifacts.items()
            for recorded in [artifact.provenance["inputs"]]
        }

    @cached_property
    def made_from(self) -> dict[str, list[str]]:
        """Each artifact's inputs, as far as they are current."""
        return {name: [one.artifact for one in used if one.artifact] for name, used in self.inputs.items()}

    @cached_property
    def made_of(self) -> dict[str, list[str]]:
        """The artifacts that were made of each artifact."""
        users: defaultdict[str, list[str]] = defaultdict(list)
        for name, inputs in self.made_from.items():
            for one in inputs:
                users[one].append(name)
        return users

    def _users_of_file(self, table: TableRows) -> list[str]:
        """Artifacts made from exactly this file of an artifact: of several sets a checkpoint reads one."""
        digest = self.artifacts[table.artifact].manifest["files"][table.file]["sha256"]
        users = self.made_of[table.artifact]
        return [user for user in users if digest in self.artifacts[user].provenance["inputs"].values()]

    def _other_shards(self, holders: Iterable[str], tables: Iterable[TableRows]) -> set[str]:
        """A trajectory's row was made from its own shard, whatever else is in the set that it is in."""
        if not any("row_id" in row for table in tables for row in table.rows):
            return set()
        assets = {asset_of(name) for name in holders}
        return {name for name in self.artifacts if asset_of(name) in assets} - set(holders)

    def _reached(
        self, begun: Iterable[str], edges: Mapping[str, list[str]], excluded: Container[str] = ()
    ) -> list[str]:
        """The artifacts that are reached from these, nearest first, without these and not through those `excluded`."""
        start = list(begun)
        reached, queue = dict.fromkeys(start), list(start)
        while queue:
            for name in edges.get(queue.pop(0), []):
                if name not in reached and name not in excluded:
                    reached[name] = None
                    queue.append(name)
        return [name for name in reached if name not in start]

    def _versions(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self.artifacts[name].version for name in names}

    def _rows_of(self, identifier: str, searched: Iterable[str]) -> list[TableRows]:
        """The rows that an id names, in the order in which things are made; of a trajectory's row, its clip too."""
        names = list(searched)
        tables = [table for name in names for table in self._rows_in(name, identifier)]
        rows = [row for table in tables for row in table.rows]
        clips = {row["video"] for row in rows if "row_id" in row and row.get("video")} - {identifier}
        unread = [name for name in names if name.startswith(CLIPS) and not any(one.artifact == name for one in tables)]
        tables += [table for clip in sorted(clips) for name in unread for table in self._rows_in(name, clip)]
        return sorted(tables, key=lambda table: (len(self._reached([table.artifact], self.made_from)), table.artifact))

    def _rows_in(self, name: str, identifier: str) -> Iterator[TableRows]:
        """The rows in the tables of an artifact; files in its folders are a source's own."""
        artifact = self.artifacts[name]
        for file in sorted(artifact.manifest["files"]):
            if not file.endswith(".parquet") or "/" in file:
                continue
            try:
                table = scan_parquet(artifact.file(file))
            except DamagedArtifactError as error:
                self.damaged[artifact.path / file] = str(error)
                continue
            schema = table.collect_schema()
            keys = [column for column in KEYS if schema.get(column) == pl.String]
            if not keys:
                continue
            matches = [pl.col(column) == identifier for column in keys]
            matches += [pl.col("prompt_id").str.starts_with(f"{identifier}/")] if "prompt_id" in keys else []
            columns = dict.fromkeys(column for column in (*keys, *COLUMNS) if column in schema)
            rows = table.filter(pl.any_horizontal(matches)).select(list(columns)).collect().to_dicts()
            if rows:
                revision = artifact.provenance["counts"].get("revision")
                yield TableRows(artifact=name, version=artifact.version, file=file, rows=rows, revision=revision)


def lineage_report(lineage: Lineage, models: Mapping[str, str], best: str) -> LineageReport:
    """The traces on the report's page.

    models: the name of each reported model's checkpoint, in the order of the page; best: the model of the rows.
    """
    return LineageReport(
        models={model: lineage.trace_of(model, _reports(lineage, model)) for model in models},
        best=best,
        rows=[trace for one in _training_sets(lineage, models.get(best, "")) for trace in _best_rows(lineage, one)],
        items=[lineage.trace(item, _answered(lineage, models)) for item in _disputed_items(lineage, models)],
    )


def note_of(artifact: Artifact) -> str:
    """What an artifact holds, from its counts."""
    counts = artifact.provenance["counts"]
    if "average" in counts:
        return f"n = {counts['average']['n']:,}"
    if "coverage" in counts:
        return f"{counts['coverage']['judged']:,} judged"
    if "sets" in counts:
        return ", ".join(f"{name} {rows:,} rows" for name, rows in counts["sets"].items())
    if "answers" in counts:
        return f"{counts['answers']:,} answers"
    if "kept" in counts:
        return f"{counts['kept']:,} of {counts['scored']:,} scored rows"
    return f"revision {counts['revision']}" if "revision" in counts else ""


def asset_of(name: str) -> str:
    """The key of the asset that an artifact is of."""
    return "/".join(name.split("/")[:2])


def _reports(lineage: Lineage, model: str) -> list[str]:
    return [name for key in (CHOICE_REPORT, JUDGED_REPORT) if (name := f"{key}/{model}") in lineage.artifacts]


def _training_sets(lineage: Lineage, checkpoint: str) -> list[Input]:
    """The current sets that a checkpoint, and those that it started from, were trained on: its own first."""
    inputs = lineage.inputs.get(checkpoint, [])
    starts = [one.artifact for one in inputs if one.artifact and one.artifact.startswith(CHECKPOINTS)]
    sets = [one for one in inputs if one.is_current_set]
    return sets + [one for start in starts for one in _training_sets(lineage, start)]


def _best_rows(lineage: Lineage, training_set: Input) -> Iterator[Trace]:
    """The first rows of a set by visual gain."""
    name, _, file = training_set.key.rpartition("/")
    table = scan_parquet(lineage.artifacts[name].file(f"{file}.parquet"))
    order = [column for column in ("gain", "rank", "row_id") if column in table.collect_schema()]
    first = table.sort(order, descending=[column == "gain" for column in order]).head(ROWS_OF_A_SET)
    for row_id, shard in first.select("row_id", "source").collect().iter_rows():
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
