"""The latent configuration of a checkpoint: frame sizes and span budget (no torch: recipes and Dagster read it too)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt

SYSTEM_PROMPT = """You think in two modes, text and images, before you answer.
- Text: put reasoning in words between <reason> and </reason>.
- Images: imagine what the coming frames show between <|latent_start|> and <|latent_end|>.
When you have thought enough, give the final answer between <answer> and </answer>.
"""


def _ascending(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the first must not be above the second; found {bounds}")
    return bounds


ImageTokens = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ascending)]
"""The least and the most merged tokens of an image."""


class LatentConfig(BaseModel):
    """The span budget and the frame sizes of a checkpoint, stored in its config: the defaults of decoding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_tokens: ImageTokens
    """The least and the most merged tokens of an observed frame."""
    max_latents: int
    """The cap L_max of a span."""
    span_end: Literal["model", "fixed"]
    """What ends a span: the model's end token, or the full budget."""
    system_prompt: str | None
    """The system turn; None: without one."""
    release_cap: bool = False
    """Decode spans of up to twice L_max, as the public release does, though the model never saw such spans."""

    @property
    def cap(self) -> int:
        """Latents after which decoding ends a span."""
        return 2 * self.max_latents if self.release_cap else self.max_latents

    @property
    def cap_origin(self) -> str:
        """The origin of `cap`, for config.json."""
        return "2 x L_max, the release's" if self.release_cap else "L_max"


PAPER = LatentConfig(image_tokens=(2, 16384), max_latents=4, span_end="model", system_prompt=SYSTEM_PROMPT)
"""The paper's configuration: for base models, and for values that a checkpoint of the public release lacks."""
