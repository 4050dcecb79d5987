"""Who is asked, and how: with the prompts, all that answers depend on."""

import json
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, model_validator

from evaluation.generation.controls import ControlName
from evaluation.generation.ledger import model_hash
from evaluation.generation.requests import BORROWED, Asking, InterventionName
from training.model.latent_config import SYSTEM_PROMPT, LatentConfig
from training.storage.hashing import digest, file_digest

RELEASE_TOKENS = (196, 1568)
"""Least and most merged vision tokens of an image in the release's evaluation (reference/evaluation.md 1.4)."""


class Asked(BaseModel):
    """A checkpoint, its way of answering, and what it is shown or fed instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    asking: Asking
    seed: int = 0
    intervention: InterventionName = "none"
    control: ControlName = "none"
    reference_latents: Path | None = None
    """What the intervention "mean" feeds (evaluation.generation.requests.Backend)."""
    timed: int = 0
    """So many of the prompts are answered once more, one at a time, to measure how long an answer takes."""

    @model_validator(mode="after")
    def _mean_has_its_latents(self) -> "Asked":
        if (self.intervention == "mean") != (self.reference_latents is not None):
            raise ValueError("the intervention 'mean' and a file of reference latents need each other")
        return self


def asking_of(checkpoint: Path, **given: Any) -> Asking:
    """How a checkpoint is asked where nothing else is `given` (fields of Asking, None for what is not).

    The system prompt is the one that it was trained with, the release's for a checkpoint that does not say; an empty
    one is no system turn.  Images have the release's bounds, unless it was never trained on as large ones: then its
    own. Raises ValueError where the folder holds no model.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint} is no model's folder: {error}") from error
    own = LatentConfig.model_validate(config["future_l1"]) if "future_l1" in config else None
    small = own is not None and own.image_tokens[1] < RELEASE_TOKENS[0]
    known: dict[str, Any] = {
        "system": own.system_prompt if own else SYSTEM_PROMPT,
        "image_tokens": own.image_tokens if own and small else RELEASE_TOKENS,
    }
    known |= {name: value for name, value in given.items() if value is not None}
    return Asking(**known | {"system": known["system"] or None})


def run_of(asked: Asked, prompts: pl.DataFrame) -> dict[str, Any]:
    """What a ledger is of: model, sampling, seed, intervention and control.

    Where other prompts lend their latents, they are part of it.
    """
    donors = {}
    if asked.intervention in BORROWED:
        lenders = prompts.select("key", "reference").sort("key").rows()
        donors = {"donors": digest(lenders), "batch_size": asked.asking.batch_size}
    if asked.reference_latents is not None:
        donors = {"reference_latents": file_digest(asked.reference_latents)}
    return {
        "model": model_hash(asked.checkpoint),
        "sampling": asked.asking.model_dump(mode="json", exclude={"batch_size"}),
        **asked.model_dump(mode="json", include={"seed", "intervention", "control"}),
        **donors,
    }
