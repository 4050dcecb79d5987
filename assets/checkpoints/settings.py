"""Settings of the checkpoints: which models are trained, on what, and from where."""

from typing import ClassVar

from pydantic import Field

from assets.framework.settings import SeedConfig, Settings
from training.recipes import RlRecipe, SftRecipe


class SftRun(Settings):
    """One SFT checkpoint: its recipe, and which of `curation/sft_sets` it trains on."""

    recipe: SftRecipe
    """How it is trained."""
    data: str
    """The set of `curation/sft_sets` that it is trained on."""


class RlRun(Settings):
    """One RL checkpoint: its recipe, which of `curation/rl_sets` it trains on, and the SFT run it starts from."""

    recipe: RlRecipe
    """How it is trained."""
    data: str
    """The set of `curation/rl_sets` that it is trained on."""
    start: str
    """The SFT run that it starts from."""


class RecipeConfig(SeedConfig):
    """Run config of a training: another seed, or a short run to see whether it starts."""

    minimum: ClassVar[dict[str, int]] = {"max_steps": 1, "seed": 0}

    max_steps: dict[str, int] = Field(
        description="Optimiser steps by recipe; a recipe that is not listed has its own, or its epochs decide. After a "
        "trial run of fewer steps its checkpoint is current until the recipe is materialised with its own steps again."
    )
