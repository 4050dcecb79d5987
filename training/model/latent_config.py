"""What a checkpoint was taught about frames and spans (no torch: recipes and Dagster read it too)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

SYSTEM_PROMPT = """You think in two modes, text and images, before you answer.
- Text: put reasoning in words between <reason> and </reason>.
- Images: imagine what the coming frames show between <|latent_start|> and <|latent_end|>.
When you have thought enough, give the final answer between <answer> and </answer>.
"""


class Teaching(BaseModel):
    """Stored in a checkpoint's config: decoding must not differ from it unasked.

    observed_tokens: least and most merged tokens of an observed frame; latents: the cap L_max on a span; span_end: who
    ends a span; system: the system prompt, None for no system turn; release_cap: decode spans of up to twice L_max, as
    the public release does, though the model never saw such.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    observed_tokens: tuple[int, int]
    latents: int
    span_end: Literal["model", "fixed"]
    system: str | None
    release_cap: bool = False

    @property
    def cap(self) -> int:
        """Latents after which decoding ends a span."""
        return 2 * self.latents if self.release_cap else self.latents

    @property
    def cap_origin(self) -> str:
        """Where `cap` comes from, in words for config.json."""
        return "2 x L_max, the release's" if self.release_cap else "L_max"


PAPER = Teaching(observed_tokens=(2, 16384), latents=4, span_end="model", system=SYSTEM_PROMPT)
"""The paper's, which a base model and the public release's checkpoints are used with."""
