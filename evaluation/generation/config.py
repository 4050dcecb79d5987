"""The sampling of answers, and the one that suits a checkpoint."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from training.model.latent_config import SYSTEM_PROMPT, ImageTokens, LatentConfig

RELEASE_IMAGE_TOKENS = (196, 1568)
"""Fewest and most merged vision tokens of an image in the release's evaluation (reference/evaluation.md 1.4)."""


class GenerationConfig(BaseModel):
    """The sampling of answers, and their number for a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: PositiveInt = 1
    """Answers to a prompt."""
    temperature: NonNegativeFloat = 0.0
    """Of sampling; 0: the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """The probability mass that tokens are sampled from."""
    max_new_tokens: PositiveInt
    """The longest answer, in tokens."""
    batch_size: PositiveInt
    """Answers whose prompts are read at a time, among which donors of latents are."""
    max_batch_tokens: PositiveInt | None = None
    """The most tokens that are decoded at once, as TokenBudget counts them; None: what the GPU's free memory holds."""
    image_tokens: ImageTokens
    """The fewest and most merged tokens of an image without its own cap, and of a video's frame pair."""
    system_prompt: str | None = None
    """The system turn; None: without one."""

    def sampling(self) -> dict[str, Any]:
        """The settings that each answer depends on, as JSON: all but the number of samples and the batches."""
        return self.model_dump(mode="json", exclude={"samples", "batch_size", "max_batch_tokens"})


def checkpoint_generation(checkpoint: Path, **overrides: Any) -> GenerationConfig:
    """The generation config that suits a checkpoint; `overrides` are fields of it, None where there is none.

    The system prompt is the one of its training, the release's for a checkpoint that does not say; an empty one is
    no system turn.  Images have the release's bounds, unless the largest in its training were smaller: then its own.
    Raises ValueError where the folder holds no model.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint} is no model's folder: {error}") from error
    latent_config = LatentConfig.model_validate(config["future_l1"]) if "future_l1" in config else None
    small = latent_config is not None and latent_config.image_tokens[1] < RELEASE_IMAGE_TOKENS[0]
    fields: dict[str, Any] = {
        "system_prompt": latent_config.system_prompt if latent_config else SYSTEM_PROMPT,
        "image_tokens": latent_config.image_tokens if latent_config and small else RELEASE_IMAGE_TOKENS,
    }
    fields |= {name: value for name, value in overrides.items() if value is not None}
    return GenerationConfig(**fields | {"system_prompt": fields["system_prompt"] or None})
