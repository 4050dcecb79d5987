"""What a person may try for one run, in the Launchpad, without editing a profile.

What is left out is the profile's.  A value that is tried enters the artifact's config, and so its version: the trial is
an artifact beside the one before it, and the current one until the asset is materialised again without it, which finds
that one at once.
"""

from typing import Any, ClassVar

import dagster as dg
from pydantic import Field

from assets.curation.selection import SelectionSettings


class Tried(dg.Config):
    """Values for one run; None is the profile's.

    They are checked when they are used, not by the fields: what a field refuses, Dagster would try again.
    """

    least: ClassVar[dict[str, int]] = {}
    """The least that a value may be, by its name."""

    def values(self) -> dict[str, Any]:
        """What was given.  Raises ValueError for a value that cannot be."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            if name in self.least and value < self.least[name]:
                raise ValueError(f"run config: {name} must be at least {self.least[name]}; found {value}")
        return given


class TriedSelection(Tried):
    """Other thresholds, or another size, for Future-L1-50K."""

    least: ClassVar[dict[str, int]] = {"top": 1, "max_p_t": 0}

    top: int | None = Field(default=None, description="How many rows to publish at most. Empty: the profile's.")
    max_p_t: int | None = Field(
        default=None,
        description="Keep rows with at most so many right answers without the hint (the paper: 6 of 8). Not more than "
        "the rows were scored for. Empty: the profile's.",
    )
    min_gain: int | None = Field(
        default=None,
        description="Keep rows that the hint gains at least so many right answers (the paper: 2). Not fewer than the "
        "rows were scored for. Empty: the profile's.",
    )

    def over(self, settings: SelectionSettings, samples: int) -> SelectionSettings:
        """The profile's thresholds with these.  Raises ValueError where no row of `samples` answers could be kept."""
        chosen = settings.model_copy(update=self.values())
        if chosen.min_gain > samples:
            raise ValueError(f"run config: min_gain is {chosen.min_gain}, and a row has {samples} answers a condition")
        return chosen


class TriedDraw(Tried):
    """Another draw of the sets that models are trained on."""

    seed: int | None = Field(default=None, description="Seed of the random rows. Empty: the profile's.")


class TriedTraining(Tried):
    """Another seed, or a short run to see whether it starts."""

    least: ClassVar[dict[str, int]] = {"steps": 1, "seed": 0}

    seed: int | None = Field(default=None, description="Seed of the training. Empty: the profile's.")
    steps: int | None = Field(
        default=None,
        description="Optimiser steps, for a trial run: its checkpoint is the current one until the recipe is "
        "materialised again without this. Empty: the recipe's.",
    )


class TriedAnswers(Tried):
    """How models are asked."""

    least: ClassVar[dict[str, int]] = {"max_new_tokens": 1, "batch_size": 1}

    max_new_tokens: int | None = Field(
        default=None, description="The longest answer, in tokens; a longer one is cut. Empty: the profile's."
    )
    batch_size: int | None = Field(
        default=None, description="Answers in flight at a time; fewer need less memory. Empty: the profile's."
    )


class TriedJudging(Tried):
    """How often the judge is asked."""

    least: ClassVar[dict[str, int]] = {"judgements": 1}

    judgements: int | None = Field(
        default=None, description="Judgements of each answer, whose mean is its mark. Empty: the profile's."
    )


class TriedLook(Tried):
    """Another draw of what latents are compared with."""

    least: ClassVar[dict[str, int]] = {"seed": 0}

    seed: int | None = Field(default=None, description="Seed of the draws. Empty: the profile's.")


class TriedItems(Tried):
    """Fewer items, for a first look; or more than the profile takes."""

    least: ClassVar[dict[str, int]] = {"n": 1}

    n: int | None = Field(
        default=None,
        description="How many FutureBench items are asked again; more than there are: all. Empty: the profile's.",
    )
