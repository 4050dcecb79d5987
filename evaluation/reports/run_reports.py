"""The reports of a run, the input of its page.  Every part but curation and FutureBench may be absent."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from evaluation.statistics import paired_difference


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRows(_Frozen):
    """The rows of one file of an artifact that an id names; `revision` is the source's, of a shard of its rows."""

    artifact: str
    version: str
    file: str
    rows: list[dict[str, Any]]
    revision: str | None = None


class Edge(_Frozen):
    """One input of an artifact.

    kind: one of `edges.KINDS`.  input: the name of the artifact that it is or was a file of, else the recorded name, as
    a file's.  version: the input's, or the digest of its file.  file: the table, where it is one of several.  direct:
    an end of the edge is what was traced.
    """

    artifact: str
    kind: str
    input: str
    version: str
    file: str = ""
    direct: bool = False


class TrainingSet(_Frozen):
    """A table that a checkpoint was trained on: its path, its size, and its first rows by visual gain."""

    artifact: str
    path: str
    rows: int
    shards: int
    clips: int
    examples: list[dict[str, Any]]


class Trace(_Frozen):
    """Upstream and downstream of an id; artifacts are names with versions.

    artifacts: those that the id names; else `tables` has its rows.  upstream: the nearest first, without what was
    excluded alone.  made_from, used_by: the edges upstream and downstream, the nearest first.  outdated: recorded
    inputs that are no current artifact.  training_sets: those of checkpoints among the artifacts or upstream.
    checkpoints: those trained on it, or started from one that was.  reports: those that it is in, or that were made of
    these checkpoints.  notes: what artifacts hold or report, by name.  folders: those of files that inputs were read
    from, by name.
    """

    id: str
    artifacts: dict[str, str] = {}
    tables: list[TableRows] = []
    upstream: dict[str, str] = {}
    made_from: list[Edge] = []
    used_by: list[Edge] = []
    outdated: dict[str, str] = {}
    training_sets: list[TrainingSet] = []
    checkpoints: dict[str, str] = {}
    reports: dict[str, str] = {}
    notes: dict[str, str] = {}
    folders: dict[str, str] = {}

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions of all artifacts and inputs that it names."""
        recorded = {edge.input: edge.version[:16] for edge in self.made_from}
        return recorded | self.artifacts | self.upstream | self.checkpoints | self.reports


class LineageReport(_Frozen):
    """The traces on the report's page: of each model's reports, of rows that models were trained on, and of benchmark
    items that models disagree on; several partitions of an asset upstream are one, without a version."""

    models: dict[str, Trace]
    rows: list[Trace] = []
    items: list[Trace] = []


class ModelOrigin(_Frozen):
    """The origin of a row of the comparison: versions of its checkpoint and of its training data."""

    checkpoint: str
    dataset: str = ""
    stage: str = ""


class RunReports(_Frozen):
    """The reports of a run as the report modules write them; models in the order of the page.

    curves: lines of `training.runtime.programs.read_metrics` by model.  latent_map:
    `evaluation.latents.geometry.latent_map`.
    pictures: PNG files by name; `retrieved_frames/...` are of future-frame retrieval, `examples/...` of the
    lineage's rows and items, the others are storyboards of answers.
    outdated: the inputs of a model that are not current any more, of each model that has some.
    on_published_data: our rows are of the very benchmarks that the published rows are of, never so in the demo.
    """

    curation: dict[str, Any]
    futurebench: dict[str, dict[str, Any]]
    twiffbench: dict[str, dict[str, Any]] = {}
    necessity: dict[str, dict[str, Any]] = {}
    latent_retrieval: dict[str, dict[str, Any]] = {}
    latent_map: dict[str, Any] = {}
    curves: dict[str, list[dict[str, Any]]] = {}
    pictures: dict[str, Path] = {}
    models: dict[str, ModelOrigin] = {}
    paired: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    provenance: dict[str, str] = {}
    lineage: LineageReport | None = None
    outdated: dict[str, list[str]] = {}
    on_published_data: bool = False


def command(identifier: str) -> str:
    """The shell command that traces an id, whatever characters the id has."""
    return shlex.join(["future-l1", "lineage", *(["--"] if identifier.startswith("-") else []), identifier])


def paired_rows(graded: Mapping[str, pl.DataFrame], starts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each model against the one that it was trained from, else the one before it, and those of one start against each
    other, always on the items that both answered.

    graded: `MultipleChoice.grade` by model; starts: the model that a model was trained from, where it is here.
    """
    chosen = [(starts[b] if starts.get(b) in graded else a, b) for a, b in itertools.pairwise(graded)]
    siblings = [(a, b) for a, b in itertools.combinations(graded, 2) if a in starts and starts[a] == starts.get(b)]
    rows = []
    for before, after in dict.fromkeys([*chosen, *siblings]):
        both = graded[before].join(graded[after], on="id", suffix="_after", maintain_order="left")
        if both.height:
            difference = paired_difference(both["correct"].to_list(), both["correct_after"].to_list())
            rows.append({"before": before, "after": after, **difference.as_dict()})
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: p-values that hold together, in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted
