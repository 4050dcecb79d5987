"""What a request says about its latents, and how latents travel.

A chat request has the fields of `LatentOptions` in `vllm_xargs` (vLLM's SamplingParams: `extra_args`), each with
PREFIX before its name.  Names: n latents of a span, D hidden size.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.engines.latent_model import LatentModel
from training.model.interventions import Intervention, first_repeated, noise, replayed, zeros
from training.model.modes import Spans, next_step

PREFIX = "future_l1_"
"""Other plug-ins have their own fields beside ours."""
MAX_SPANS = 4096
"""The most spans that a request may bring."""
MAX_SCRIPT = 2**14
"""The most tokens that a request may force."""


class LatentOptions(BaseModel):
    """The latents of a request.

    latents: what is fed: the model's own; zeros; noise of the same norm (of `noise_seed`, counted on for each of `n`
    answers); the span's first one, repeated; or the `vectors`, spans as `encode_span` writes them.  A further span is
    their last one again, a further latent its span's last one: one vector is a mean; an empty span is a zero vector.
    max_latents: the budget of a span, if not the checkpoint's.  may_open: whether the model may open spans.  script:
    the answer's first tokens, which are forced.  return_key: the answers' latents are kept under it until they are
    taken; of `n` answers, which have seeds that count on, the first has `first_seed`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latents: Literal["own", "zeros", "noise", "first_repeated", "vectors"] = "own"
    noise_seed: int = Field(default=0, ge=0, lt=2**63)
    vectors: tuple[str, ...] = Field(default=(), max_length=MAX_SPANS)
    max_latents: int | None = Field(default=None, ge=0, lt=2**31)
    may_open: bool = True
    script: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(), max_length=MAX_SCRIPT)
    return_key: str | None = None
    first_seed: int | None = None

    @model_validator(mode="after")
    def _vectors_only_where_they_are_fed(self) -> "LatentOptions":
        if (self.latents == "vectors") != bool(self.vectors):
            raise ValueError('`vectors` are for latents = "vectors", which needs them')
        return self

    def answer_number(self, seed: int | None) -> int:
        """Which of the `n` answers of a request has this seed."""
        return 0 if seed is None or self.first_seed is None else seed - self.first_seed

    def intervention(self, width: int, number: int, device: torch.device) -> Intervention | None:
        """What replaces the latents of the answer with this number, on a device; None for the model's own.

        Raises ValueError for vectors that are none of this width (D).
        """
        match self.latents:
            case "own":
                return None
            case "zeros":
                return zeros()
            case "noise":
                return noise(torch.tensor([(self.noise_seed + number) % 2**63], device=device))
            case "first_repeated":
                return first_repeated(1)
            case "vectors":
                spans = [decode_span(span, width) if span else torch.zeros(1, width) for span in self.vectors]
                return replayed([span.to(device) for span in spans])

    def budget(self, spans: Spans) -> int:
        """The most latents of a span; `spans`: those of the checkpoint."""
        return spans.latents if self.max_latents is None else self.max_latents

    def check_script(self, model: LatentModel) -> None:
        """Raises ValueError for a script that is no beginning of an answer: unknown tokens, placeholders outside of
        spans, other tokens in them, or more latents than the budget."""
        if not self.script:
            return
        states, slot, is_open = [], 0, False
        for token in self.script:
            states.append((slot, is_open))
            slot = slot + 1 if is_open and token == model.tokens.latent else 0
            is_open = token != model.tokens.latent_end if is_open else token == model.tokens.latent_start
        script, (slots, opens) = torch.tensor(self.script), map(torch.tensor, zip(*states, strict=True))
        ids = next_step(model.tokens, self.budget(model.spans), True, slots, opens, script).ids
        misplaced = ~opens & torch.isin(script, torch.tensor(model.tokens.placeholders))
        wrong = ((script != ids) | misplaced | (script >= model.vocabulary)).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(f"vllm_xargs: {PREFIX}script: token {self.script[at]} cannot stand at {at}: ids are below "
                             f"{model.vocabulary}, placeholders stand in spans alone, which have at most "
                             f"{self.budget(model.spans)} of them and nothing else")  # fmt: skip


def latent_options(extra_args: Mapping[str, Any] | None) -> LatentOptions:
    """The options among a request's extra arguments.  Raises ValueError, naming the field."""
    if bare := LatentOptions.model_fields.keys() & (extra_args or {}).keys():
        raise ValueError(f"vllm_xargs: {min(bare)} is {PREFIX}{min(bare)}")
    fields = {name.removeprefix(PREFIX): value for name, value in (extra_args or {}).items() if name.startswith(PREFIX)}
    try:
        return LatentOptions.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = "".join(f"{PREFIX}{field}: " for field in problem["loc"][:1])
        raise ValueError(f"vllm_xargs: {name}{problem['msg'].removeprefix('Value error, ')}") from None


def encode_span(latents: torch.Tensor) -> str:
    """Latents [n,D] as base64 of float32, little-endian, row-major; "" for an empty span.

    Raises ValueError for values that are not finite.
    """
    if not bool(latents.isfinite().all()):
        raise ValueError("latents are not finite: the model has diverged")
    return base64.b64encode(latents.to("cpu", torch.float32).numpy().astype("<f4").tobytes()).decode()


def decode_span(span: str, width: int) -> torch.Tensor:
    """Latents [n,D] in float32, at least one.  Raises ValueError for what `encode_span` did not write."""
    try:
        values = np.frombuffer(base64.b64decode(span, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a span of latents is base64 of float32: {error}") from None
    if not len(values) or len(values) % width or not np.isfinite(values).all():
        raise ValueError(f"a span of latents has vectors of {width} finite numbers; found {len(values)} numbers")
    return torch.from_numpy(values).view(-1, width)


Returned = dict[str, Any]
"""The fields that a choice of a response gets: `latents`, or `latents_error`."""


def returned(latents: Sequence[torch.Tensor], sizes: Sequence[int]) -> Returned:
    """An answer's latents by span, encoded; a span may be empty.  A sentence where they cannot be encoded."""
    remaining = iter(latents)
    spans = [[next(remaining) for _ in range(size)] for size in sizes]
    try:
        return {"latents": [encode_span(torch.stack(span)) if span else "" for span in spans]}
    except ValueError as error:
        return {"latents_error": str(error)}
