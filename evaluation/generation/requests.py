"""What the answering program asks a backend, and what it hears: the same for a local model and for a served one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict

from training.data.prompts import Part

Answer = dict[str, Any]
"""The columns of training.data.prompts.ANSWERS, and `latents` (evaluation.latents.packed) where they are kept."""

InterventionName = Literal[
    "none", "zeros", "noise", "mean", "other_item", "same_answer", "other_answer", "first_repeated", "markers_only",
    "no_span", "spans_1", "spans_2", "spans_3",
]  # fmt: skip
"""What stands in for a model's own latents (evaluation.generation.interventions says how)."""
INTERVENTIONS: tuple[InterventionName, ...] = get_args(InterventionName)
BORROWED: tuple[InterventionName, ...] = ("other_item", "same_answer", "other_answer")
"""Those whose answers depend on the other answers of their batch: the donors."""


@dataclass(frozen=True)
class Request:
    """Some answers to one prompt: their numbers, and for each the seed that is the only source of its randomness.

    Prompts of one `group` begin with the same parts, so that a backend may process what they share once; they are about
    one item.  `reference`: the item's right answer, for interventions that ask whether two items have the same.
    """

    prompt_id: str
    content: list[Part]
    samples: tuple[int, ...]
    seeds: tuple[int, ...]
    group: str
    reference: str | None = None


@dataclass(frozen=True)
class Refused:
    """A prompt that is not answered, and why: its frames cannot be read, the server refuses it, or what was asked of it
    cannot be done (a control or an intervention that finds nothing to work on).

    `pending`: the server is to blame, not the prompt: it is asked again by the next start.
    """

    prompt_id: str
    reason: str
    pending: bool = False


@dataclass(frozen=True)
class Held:
    """What is known of a model before it is asked: so many answers, and the request of one of them."""

    answers: int = 0
    request: Request | None = None


NOTHING_HELD = Held()


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
        self,
        checkpoint: Path | None,
        asking: Asking,
        intervention: InterventionName,
        requests: Sequence[Request],
        reference_latents: Path | None = None,
        keep_latents: bool = False,
        held: Held = NOTHING_HELD,
    ) -> Iterator[Answer | Refused]:
        """`checkpoint` is the model's folder (None where a server has the model); `intervention` one of INTERVENTIONS;
        `reference_latents` the safetensors file whose tensor `mean` [D] the intervention "mean" feeds; with
        `keep_latents` each answer has its latents as they were fed; `held` is what tells a server that has changed from
        prompts that it cannot answer.

        Raises EndpointRefusesError where no request could ever be answered, EndpointDownError where the server is
        gone; what was yielded before stands.
        """
        ...
