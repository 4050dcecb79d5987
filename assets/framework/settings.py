"""The bases of what decides a run: a stage's settings, which a profile holds, and values for one run."""

from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Settings of a stage: frozen, and without unknown fields, so a misspelt line in an overlay is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunOverrides(dg.Config):
    """Run config of an asset (the Launchpad's form): values for one run; None is the profile's.

    An override enters the artifact's config, and so its version: the run makes an artifact beside the one before it,
    and the current one until the asset is materialised again without it, which finds that one at once.  Values are
    checked when they are used, not by the fields: what a field refuses, Dagster would try again.
    """

    minimum: ClassVar[dict[str, int]] = {}
    """The least value of a field, by its name."""

    def values(self) -> dict[str, Any]:
        """The fields that are set.  Raises ValueError for a value below its minimum."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        values = {name: value for name, value in fields.items() if value is not None}
        for name, value in values.items():
            if name in self.minimum and value < self.minimum[name]:
                raise ValueError(f"run config: {name} must be at least {self.minimum[name]}; found {value}")
        return values


class SeedConfig(RunOverrides):
    """Run config of what is sampled or trained with a seed: another one."""

    minimum: ClassVar[dict[str, int]] = {"seed": 0}

    seed: int | None = Field(default=None, description="Seed of the training or the sample. Empty: the profile's.")
