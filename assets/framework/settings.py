"""The bases of what decides a run: a stage's settings, which a profile holds, and values for one run."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, create_model


class Settings(BaseModel):
    """Settings of a stage: frozen, and without unknown fields, so a misspelt line in an overlay is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunOverrides(dg.Config):
    """Run config of an asset (the Launchpad's form): values for one run, by default the profile's.

    Another value enters the artifact's config, and so its version: the run makes an artifact beside the one before it,
    and the current one until the asset is materialised again without it, which finds that one at once.  Values are
    checked when they are used, not by the fields: what a field refuses, Dagster would try again.
    """

    minimum: ClassVar[dict[str, int]] = {}
    """The least value of a field, by its name."""

    def values(self) -> dict[str, Any]:
        """The fields.  Raises ValueError for a value below its minimum."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        for name, least in self.minimum.items():
            for value in fields[name].values() if isinstance(fields[name], Mapping) else (fields[name],):
                if value < least:
                    raise ValueError(f"run config: {name} must be at least {least}; found {value}")
        return fields

    def as_defaults(self) -> "type[RunOverrides]":
        """The class with these values as the defaults of its fields, which the Launchpad shows."""
        fields = type(self).model_fields.items()
        defaults: dict[str, Any] = {
            name: (field.annotation, Field(default=getattr(self, name), description=field.description))
            for name, field in fields
        }
        return create_model(type(self).__name__, __base__=type(self), **defaults)


def refuse_unknown_names(field: str, values: Iterable[str], names: Iterable[str]) -> None:
    """Raises ValueError for a name in a field of values by name that is none of `names`."""
    if unknown := set(values).difference(names):
        raise ValueError(f"run config: {field} has {min(unknown)!r}; it may have {', '.join(names)}")


class SeedConfig(RunOverrides):
    """Run config of what is sampled or trained with a seed: another one."""

    minimum: ClassVar[dict[str, int]] = {"seed": 0}

    seed: int = Field(description="Seed of the training or the sample.")
