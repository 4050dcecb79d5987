"""Requests to an engine, and its answers and refusals: the same for a local model and for a served one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evaluation.generation.controls import ControlName, controlled, transformed
from evaluation.generation.jobs import AnswerJob
from training.data.images import open_image
from training.data.parts import Part
from training.data.video import FrameCache
from training.storage.hashing import stable_hash
from training.storage.parquet import read_parquet

Answer = dict[str, Any]
"""The columns of training.data.prompts.ANSWERS, and those of the optional ones that the job has (AnswerJob.columns)."""


@dataclass(frozen=True)
class Request:
    """A request for answers to one prompt: their numbers, and for each the seed, the only source of its randomness.

    Prompts of one `group` begin with the same parts, so that an engine may process what they share once; they are about
    one item.  `reference`: the item's right answer, for interventions that compare the answers of two items.
    `original`: the content without the control.
    """

    prompt_id: str
    content: list[Part]
    samples: tuple[int, ...]
    seeds: tuple[int, ...]
    group: str
    reference: str | None = None
    original: Sequence[Part] = ()


@dataclass(frozen=True)
class Refusal:
    """A prompt without an answer, and why: its frames cannot be read, the server refuses it, or a control or an
    intervention has nothing to work on.

    `pending`: the server is to blame, not the prompt: the next start sends it again.
    """

    prompt_id: str
    reason: str
    pending: bool = False


@dataclass(frozen=True)
class LedgerSummary:
    """A model's answers in a ledger: their number, and the request of one of them.

    By that request the endpoint engine tells a server that has changed from prompts that it cannot answer.
    """

    answers: int = 0
    request: Request | None = None


class Engine(Protocol):
    """A generator of answers: yields each answer as soon as it is complete, in any order, and each refusal once."""

    def generate(
        self, job: AnswerJob, requests: Sequence[Request], ledger: LedgerSummary
    ) -> Iterator[Answer | Refusal]:
        """Answers to requests of the job, from its checkpoint or the engine's server.

        Raises EndpointRefusesError where no request could ever be answered, EndpointDownError where the server is
        gone; what was yielded before stands.
        """
        ...


class Prompts:
    """A prompt table: content, group and key by id.

    The key identifies a prompt in the ledger (the column `key`, else its id); prompts whose ids agree before the
    slash are a group and begin alike.  Optional columns: `options`, which the controls `options_k` rotate; `reference`,
    by which interventions tell items with the same answer; `question` and `reference`, for visual gain.
    """

    def __init__(self, path: Path, control: ControlName = "none") -> None:
        """Raises ValueError for prompts that share a key."""
        table = read_parquet(path)
        ids = table["prompt_id"].to_list()

        def column(name: str) -> dict[str, Any]:
            return dict(zip(ids, table[name].to_list(), strict=True)) if name in table.columns else {}

        self.control = control
        self.content: Mapping[str, list[Part]] = column("content")
        self.by_key = dict(zip(table["key"].to_list() if "key" in table.columns else ids, ids, strict=True))
        self.questions, self.references, self._options = column("question"), column("reference"), column("options")
        if len(self.by_key) < len(ids):
            raise ValueError(f"{path}: prompts share a key, so their answers could not be told apart")

    def request(self, prompt_id: str, samples: tuple[int, ...], seed: int) -> Request:
        """A prompt under its control.  Raises ValueError or OSError as `evaluation.generation.controls.controlled`
        does."""
        original = self.content[prompt_id]
        options, other = self._options.get(prompt_id), self.content[self._next[prompt_id]]
        content = controlled(self.control, original, prompt_id, seed, options, other)
        seeds = tuple(stable_hash(seed, prompt_id, sample) >> 1 for sample in samples)  # torch takes 63 bits
        reference, group = self.references.get(prompt_id), prompt_id.partition("/")[0]
        return Request(prompt_id, content, samples, seeds, group, reference, original)

    @cached_property
    def _next(self) -> dict[str, str]:
        """Another prompt for each: the next one in the order of a hash."""
        order = sorted(self.content, key=lambda name: stable_hash("next", name))
        return dict(zip(order, order[1:] + order[:1], strict=True))


def with_images(parts: Sequence[Part], frame_cache: FrameCache) -> Iterator[tuple[Part, list[np.ndarray]]]:
    """A prompt's parts in order, each with its images (uint8 height x width x RGB; none for text); each clip is opened
    once.

    Raises ValueError (UnreadableVideo among them) or OSError for frames and images that cannot be read.
    """
    numbers_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    for part in parts:
        if part["path"] is not None and part["data"] is None:
            numbers_of[part["path"], part["reader"]] += part["frames"]
    frames = {
        (path, number): frame
        for (path, reader), numbers in numbers_of.items()
        for number, frame in zip(numbers, frame_cache.read(path, numbers, reader), strict=True)
    }
    for part in parts:
        if part["type"] not in ("text", "image", "video"):
            raise ValueError(f"a prompt part of type {part['type']!r}: there are text, image and video")
        if part["type"] == "text":
            yield part, []
        elif part["data"] is not None:
            yield part, [transformed(part, open_image(part["data"]))] * len(part["frames"] or (1,))
        else:
            yield part, [transformed(part, frames[part["path"], number]) for number in part["frames"]]
