"""The lineage of an id as data, for `future-l1 lineage ID` and for the report's page.

Texts in it come from datasets and models.
"""

import shlex
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRows(_Data):
    """The rows of one file of an artifact that an id names; `revision` is the source's, of a shard of its rows."""

    artifact: str
    version: str
    file: str
    rows: list[dict[str, Any]]
    revision: str | None = None


class Trace(_Data):
    """Upstream and downstream of an id; artifacts are names with versions.

    artifacts: those that the id names; else `tables` has its rows.  upstream: the nearest first.  outdated: recorded
    inputs that are no current artifact.  checkpoints: those trained on it.  reports: those that it is in, or that were
    made of these checkpoints.  notes: counts of artifacts, and of artifacts upstream, by name.
    """

    id: str
    artifacts: dict[str, str] = {}
    tables: list[TableRows] = []
    upstream: dict[str, str] = {}
    outdated: dict[str, str] = {}
    checkpoints: dict[str, str] = {}
    reports: dict[str, str] = {}
    notes: dict[str, str] = {}


class LineageReport(_Data):
    """The traces on the report's page: of each model's reports, of rows that the best model was trained on, and of
    benchmark items that models disagree on."""

    models: dict[str, Trace]
    best: str = ""
    rows: list[Trace] = []
    items: list[Trace] = []


def command(identifier: str) -> str:
    """The shell command that traces an id, whatever characters the id has."""
    return shlex.join(["future-l1", "lineage", *(["--"] if identifier.startswith("-") else []), identifier])
