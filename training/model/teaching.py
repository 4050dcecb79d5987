"""What a checkpoint was taught about frames and spans (no torch: recipes and Dagster read it too)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Teaching(BaseModel):
    """Stored in a checkpoint's config: decoding must not differ from it unasked.

    observed_tokens: least and most merged tokens of an observed frame; latents: the cap L_max on a span; span_end: who
    ends a span; system: the system prompt, None for no system turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    observed_tokens: tuple[int, int]
    latents: int
    span_end: Literal["model", "fixed"]
    system: str | None
