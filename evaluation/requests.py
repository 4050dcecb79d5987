"""What the answering program asks a backend, and what it hears: the same for a local model and for a served one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from training.data.prompts import Part

Answer = dict[str, Any]  # the columns of training.data.prompts.ANSWERS


@dataclass(frozen=True)
class Request:
    """Some answers to one prompt: their numbers, and for each the seed that is the only source of its randomness.

    Prompts of one `group` begin with the same parts, so that a backend may process what they share once.
    """

    prompt_id: str
    content: list[Part]
    samples: tuple[int, ...]
    seeds: tuple[int, ...]
    group: str


@dataclass(frozen=True)
class Refused:
    """A prompt that can never be answered as it is: its frames cannot be read, or the server refuses it."""

    prompt_id: str
    reason: str


class Asking(BaseModel):
    """How answers are drawn; image_tokens: least and most merged tokens of an image without its own cap, and of a
    video's frame pair; batch_size: answers in flight in a local batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int
    batch_size: int
    image_tokens: tuple[int, int]
    system: str | None


class Backend(Protocol):
    """Whatever answers: yields each answer as soon as it is known, in any order, and each refused prompt once."""

    def answer(
        self, checkpoint: Path | None, asking: Asking, intervention: str, requests: Sequence[Request]
    ) -> Iterator[Answer | Refused]:
        """`checkpoint` is the model's folder (None where a server has the model); `intervention` one of
        evaluation.interventions.Name.

        Raises EndpointRefusesError where no request could ever be answered, EndpointDownError where the server is
        gone; what was yielded before stands.
        """
        ...
