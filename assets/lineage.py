"""Follows an id through what is published, both ways: what it was made from, and what was made of it.

An artifact's manifest names the versions, or the files' digests, that it was made from; a row is found in every table
that has it, by row id, prompt id, item id or clip.  Nothing is kept for this beside the artifacts themselves.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.framework.store import AssetStore
from evaluation.reports.followed import command
from training.storage.artifacts import CURRENT, Artifact, DamagedArtifactError
from training.storage.parquet import scan_parquet

KEYS = ("row_id", "prompt_id", "id", "video", "alias")
"""Columns by which a table knows a row, an item, or a clip."""
TOLD = (
    "row", "path", "start", "end", "frame_count", "frames", "sha256", "n_correct_plain", "n_graded_plain",
    "n_correct_hint", "n_graded_hint", "p_t", "p_v", "gain", "status", "rank", "condition", "sample", "verdict",
    "graded_by", "reason", "detail", "question_type", "answer", "parsed", "correct", "spans", "cot", "text",
)  # fmt: skip
"""Columns worth telling of a row; frames and long texts are in the tables themselves."""
MODELS, REPORTS, CLIPS = "checkpoints/", ("_report/", "reports/"), "trajectories/twiff_clips/"
PAGE = ("reports/comparison", "report.html")
"""The artifact that shows lineage to people, and its file."""


def follow(store: AssetStore, artifact: Artifact) -> dict[str, Any]:
    """Metadata of an asset's page: the command that follows this artifact both ways, and the page that shows chains."""
    name, page = PAGE
    return {
        "lineage": dg.MetadataValue.md(f"`{command(artifact.version)}`"),
        "lineage_page": dg.MetadataValue.path(store.artifacts.root / name / CURRENT / page),
    }


@dataclass(frozen=True)
class Found:
    """Rows of one file of an artifact that an id means, with the columns worth telling; of a pulled shard the source's
    revision."""

    artifact: str
    version: str
    file: str
    rows: list[dict[str, Any]]
    revision: str | None = None


@dataclass(frozen=True)
class Trace:
    """What is known of an id: the artifacts that it is, or the tables that have it; what these were made from, nearest
    first; the checkpoints trained on it; and the reports that it is in or that were made of those checkpoints."""

    id: str
    artifacts: dict[str, str]
    found: list[Found]
    made_from: dict[str, str]
    trained: dict[str, str]
    reported: dict[str, str]


@dataclass(frozen=True)
class Input:
    """One input as an artifact recorded it: a version, or a table's digest; and the current artifact that it is, if it
    still is one."""

    key: str
    value: str
    artifact: str | None


@dataclass(frozen=True)
class Lineage:
    """The current artifacts by name (`AssetStore.everything`)."""

    artifacts: Mapping[str, Artifact]
    damaged: dict[Path, str] = field(default_factory=dict)
    """What is wrong with tables that could not be looked into."""

    def trace(self, asked: str) -> Trace:
        """Follows an artifact's name or version, a row's, prompt's or item's id, or a clip's name.

        Raises ValueError when nothing is known by it.
        """
        known = {
            name: artifact.version for name, artifact in self.artifacts.items() if asked in (name, artifact.version)
        }
        if known:
            after = self._reached(known, self.made_of)
            return Trace(asked, known, [], self._reached(known, self.made_from), *_models_and_reports(after))
        found = self._everywhere(asked)
        if not found:
            raise ValueError(f"{asked!r} is no artifact's name or version, and no table has it as row_id, prompt_id, "
                             "id or video")  # fmt: skip
        holders = {one.artifact: one.version for one in found}
        # A trajectory's row was made from its own shard, whatever else is in the set that it is in.
        passed = self._keyed - set(holders) if any("row_id" in row for one in found for row in one.rows) else set()
        used = {name for one in found for name in self.users_of_file(one.artifact, one.file)}
        trained = {name: self.artifacts[name].version for name in used if name.startswith(MODELS)}
        trained |= self._reached(trained, self.made_of)
        models, reports = _models_and_reports({**trained, **holders})
        return Trace(asked, {}, found, self._reached(holders, self.made_from, passed), models, reports)

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
        """What was made of each artifact."""
        users: defaultdict[str, list[str]] = defaultdict(list)
        for name, inputs in self.made_from.items():
            for one in inputs:
                users[one].append(name)
        return users

    def users_of_file(self, name: str, file: str) -> list[str]:
        """Artifacts made from exactly this file of an artifact: of several sets a checkpoint reads one."""
        digest = self.artifacts[name].manifest["files"][file]["sha256"]
        return [user for user in self.made_of[name] if digest in self.artifacts[user].provenance["inputs"].values()]

    def _reached(
        self, begun: Iterable[str], edges: Mapping[str, list[str]], passed: Container[str] = ()
    ) -> dict[str, str]:
        """What is reached from these, nearest first, without them and without going through what is `passed`."""
        start = list(begun)
        seen, queue = dict.fromkeys(start), list(start)
        while queue:
            for name in edges.get(queue.pop(0), []):
                if name not in seen and name not in passed:
                    seen[name] = None
                    queue.append(name)
        return {name: self.artifacts[name].version for name in seen if name not in start}

    def _everywhere(self, asked: str) -> list[Found]:
        """Where an id is found, in the order in which things are made; of a row, its clip too."""
        found = [one for name in self._keyed for one in self._found(name, asked)]
        clips = {row["video"] for one in found for row in one.rows if "row_id" in row and row.get("video")} - {asked}
        tables = [name for name in self._keyed if not any(one.artifact == name for one in found)]
        found += [one for clip in clips for name in tables if name.startswith(CLIPS) for one in self._found(name, clip)]
        return sorted(found, key=lambda one: (len(self._reached([one.artifact], self.made_from)), one.artifact))

    @cached_property
    def _keyed(self) -> set[str]:
        """Artifacts with tables that know rows, items or clips."""
        return {name for name, one in self.artifacts.items() if any(self._tables(one))}

    def _tables(self, artifact: Artifact) -> Iterator[tuple[str, pl.LazyFrame, list[str]]]:
        """File, table and key columns; deeper files are a source's own."""
        for file in sorted(artifact.manifest["files"]):
            if file.endswith(".parquet") and "/" not in file:
                try:
                    table = scan_parquet(artifact.file(file))
                except DamagedArtifactError as error:
                    self.damaged[artifact.path / file] = str(error)
                    continue
                schema = table.collect_schema()
                if columns := [column for column in KEYS if schema.get(column) == pl.String]:
                    yield file, table, columns

    def _found(self, name: str, asked: str) -> list[Found]:
        artifact = self.artifacts[name]
        found = []
        for file, table, columns in self._tables(artifact):
            known_as = [pl.col(column) == asked for column in columns]
            known_as += [pl.col("prompt_id").str.starts_with(f"{asked}/")] if "prompt_id" in columns else []
            shown = [column for column in (*columns, *TOLD) if column in table.collect_schema()]
            rows = table.filter(pl.any_horizontal(known_as)).select(list(dict.fromkeys(shown))).collect().to_dicts()
            if rows:
                found.append(Found(name, artifact.version, file, rows, artifact.provenance["counts"].get("revision")))
        return found


def _models_and_reports(names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    models = {name: version for name, version in names.items() if name.startswith(MODELS)}
    reports = {name: version for name, version in names.items() if any(part in name for part in REPORTS)}
    return models, reports
