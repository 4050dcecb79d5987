"""Lineage as the page tells it: each model's chain back to the source, and rows and items followed to their ends.

Plain data, gathered from artifacts by whoever has them; text in it comes from datasets and models.
"""

import shlex

from pydantic import BaseModel, ConfigDict


class Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Link(Plain):
    """One artifact of a chain; several shards are one link without a version."""

    artifact: str
    version: str = ""
    note: str = ""


class Step(Plain):
    """What a chain has at one place: the artifacts that the place before was made from."""

    kind: str
    links: list[Link]


class Chain(Plain):
    """A model's reports, and step by step what they were made from."""

    model: str
    steps: list[Step]


class FollowedRow(Plain):
    """A row that a model was trained on: where it comes from, what decided on it, what was made of it.

    verdicts: by condition, how many answers had which verdict.  seen, imagined: frame numbers in the clip.
    """

    row_id: str
    set: str
    p_t: int | None
    p_v: int | None
    verdicts: dict[str, dict[str, int]]
    shard: str
    revision: str
    clip: str
    frame_count: int
    seen: list[int]
    imagined: list[int]
    trained: list[str]


class ItemAnswer(Plain):
    """What one checkpoint said to an item."""

    model: str
    said: str
    read_as: str | None
    correct: bool
    spans: int
    checkpoint: str
    checkpoint_version: str
    answers: str


class FollowedItem(Plain):
    """A benchmark item and every model's answer to it; `right` is the letter and its option."""

    id: str
    benchmark: str
    split: str
    clip: str
    right: str
    answers: list[ItemAnswer]


class Followed(Plain):
    """Everything of the page's lineage; `best` is the model whose rows are shown."""

    chains: list[Chain]
    best: str
    rows: list[FollowedRow] = []
    items: list[FollowedItem] = []


def command(asked: str) -> str:
    """The shell command that follows an id, whatever characters the id has."""
    return shlex.join(["future-l1", "lineage", *(["--"] if asked.startswith("-") else []), asked])
