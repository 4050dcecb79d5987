"""How the assets are cut: shards as they come, and the recipes and models that the profile names.

Partitions are batches. What happens to one trajectory is a row of a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

SHARDS = dg.DynamicPartitionsDefinition(name="twiff_shards")
SHARDS_PER_RUN = 32
BASE = "base"


def range_tags(partitions: Sequence[str]) -> dict[str, str]:
    """The tags of one run over neighbouring partitions; none for fewer than two: one is the run's partition key."""
    if len(partitions) < 2:
        return {}
    return {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a profile: SFT recipes, and RL recipes with the SFT recipe that each starts from."""

    sft: tuple[str, ...]
    rl: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is benchmarked: the base, every SFT checkpoint, every RL checkpoint."""
        return (BASE, *self.sft, *self.rl)

    @property
    def sft_partitions(self) -> dg.StaticPartitionsDefinition:
        return dg.StaticPartitionsDefinition(list(self.sft))

    @property
    def rl_partitions(self) -> dg.StaticPartitionsDefinition:
        return dg.StaticPartitionsDefinition(list(self.rl))

    @property
    def model_partitions(self) -> dg.StaticPartitionsDefinition:
        return dg.StaticPartitionsDefinition(list(self.models))

    def sft_to_rl(self) -> dg.StaticPartitionMapping:
        """An SFT recipe feeds the RL recipes that start from it."""
        return dg.StaticPartitionMapping(
            {sft: [rl for rl, start in self.rl.items() if start == sft] for sft in set(self.rl.values())}
        )

    def sft_to_models(self) -> dg.StaticPartitionMapping:
        return dg.StaticPartitionMapping({recipe: recipe for recipe in self.sft})

    def rl_to_models(self) -> dg.StaticPartitionMapping:
        return dg.StaticPartitionMapping({recipe: recipe for recipe in self.rl})

    def artifact(self, model: str) -> tuple[str, str | None]:
        """The asset key and partition of a model's checkpoint."""
        if model == BASE:
            return "checkpoints/base", None
        if model in self.sft:
            return "checkpoints/sft", model
        if model in self.rl:
            return "checkpoints/rl", model
        raise ValueError(f"no model {model!r} in this profile; it has {', '.join(self.models)}")
