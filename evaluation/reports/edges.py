"""The kinds of edges of the lineage: what an artifact did with one of its inputs.

Only some of them carry rows into a model.  A selection that excluded a benchmark's items has them as an input, too, and
is trained on none of them.
"""

from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

EXCLUDED, STARTED, TRAINED = "excluded by", "started from", "trained on"


class Words(NamedTuple):
    """The words for an edge where its artifact is named and the input follows, and the other way round."""

    upstream: str
    downstream: str


KINDS = {
    "read by": Words("read from", "read by"),
    "answered in": Words("answers", "answered in"),
    "answered by": Words("answered by", "answered by it"),
    "scored by": Words("scores", "scored by"),
    "selected by": Words("selects from", "selected by"),
    EXCLUDED: Words("excludes", "excluded by"),
    STARTED: Words("started from", "started from it"),
    TRAINED: Words("trained on", "trained on it"),
    "evaluated on": Words("evaluated on", "evaluated on it"),
    "fitted on": Words("fitted on", "fitted on it"),
    "reported by": Words("reports", "reported by"),
}
CARRY_ROWS = {"read by", "answered in", "scored by", "selected by"}
"""Edges by which the rows of an input are in the artifact."""
DIGESTS = {"repeated", "retry_of", "verdicts"}
"""Names of recorded inputs that are parts of a version, and nothing that an artifact was made from."""

_RULES = (
    ("curation/*", "inputs/*_items", EXCLUDED),
    ("curation/*", "model", "answered by"),
    ("curation/gain_answers/*", "*", "answered in"),
    ("curation/visual_gain/*", "*", "scored by"),
    ("curation/*", "curation/*", "selected by"),
    ("checkpoints/*", "curation/*", TRAINED),
    ("checkpoints/*", "*", STARTED),
    ("reports/comparison", "*", "reported by"),
    ("*", "checkpoint", "answered by"),
    ("*", "inputs/*_items", "evaluated on"),
    ("reports/latent_retrieval/*", "curation/*", "fitted on"),
    ("benchmarks/*_report/*", "*", "scored by"),
    ("reports/*", "benchmarks/*", "scored by"),
    ("reports/latent_necessity/*", "*", "scored by"),
    ("*", "*", "read by"),
)
"""An artifact's name, the name under which it recorded an input, and the kind; the first that matches counts."""


def kind_of(artifact: str, recorded: str) -> str:
    """The kind of the edge from an input, under the name that the artifact recorded, to the artifact."""
    return next(kind for one, other, kind in _RULES if fnmatchcase(artifact, one) and fnmatchcase(recorded, other))


def asset_of(name: str) -> str:
    """The key of the asset that an artifact is of."""
    return "/".join(name.split("/")[:2])


def partition_of(name: str) -> str:
    """The partition that an artifact is; empty for the only artifact of an asset."""
    return "/".join(name.split("/")[2:])


def inputs_in_words(artifact: str, recorded: Iterable[str]) -> str:
    """An artifact's inputs with their kinds, the partitions of an asset as one: `scores curation/gain_answers (4)`."""
    names = Counter((kind_of(artifact, name), asset_of(name)) for name in recorded if name not in DIGESTS)
    return "; ".join(f"{KINDS[kind].upstream} {asset}" + f" ({n})" * (n > 1) for (kind, asset), n in names.items())
