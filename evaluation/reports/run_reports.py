"""The reports of a run, the input of its page.  Every part but curation and FutureBench may be absent."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from evaluation.reports.lineage import LineageReport
from evaluation.statistics import paired_difference


class ModelOrigin(BaseModel):
    """The origin of a row of the comparison: versions of its checkpoint and of its training data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    dataset: str = ""
    stage: str = ""


class RunReports(BaseModel):
    """The reports of a run as the report modules write them; models in the order of the page.

    curves: lines of `training.runtime.programs.read_metrics` by model.  latent_map:
    `evaluation.latents.geometry.latent_map`.
    pictures: PNG files by name; `retrieved_frames/...` are of future-frame retrieval, the others are storyboards.
    on_published_data: our rows are of the very benchmarks that the published rows are of, never so in the demo.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    on_published_data: bool = False


def paired_rows(graded: Mapping[str, pl.DataFrame], starts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each model against the one that it was trained from, else the one before it, and those of one start against each
    other, always on the items that both answered.

    graded: `MultipleChoice.grade` by model; starts: the model that a model was trained from, where it is here.
    """
    chosen = [(starts[b] if starts.get(b) in graded else a, b) for a, b in itertools.pairwise(graded)]
    siblings = [(a, b) for a, b in itertools.combinations(graded, 2) if a in starts and starts[a] == starts.get(b)]
    return list(_compared(graded, dict.fromkeys([*chosen, *siblings])))


def _compared(graded: Mapping[str, pl.DataFrame], pairs: Iterable[tuple[str, str]]) -> Iterable[dict[str, Any]]:
    for before, after in pairs:
        both = graded[before].join(graded[after], on="id", suffix="_after", maintain_order="left")
        if both.height:
            difference = paired_difference(both["correct"].to_list(), both["correct_after"].to_list())
            yield {"before": before, "after": after, **difference.as_dict()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: p-values that hold together, in the order given."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted
