"""How assets are called and cut: shards as they come, and the recipes and models that the profile names.

Partitions are batches. What happens to one trajectory is a row of a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

SHARDS = dg.DynamicPartitionsDefinition(name="twiff_shards")
SHARDS_PER_RUN = 32
BASE = "base"


def key_of(name: str) -> dg.AssetKey:
    """The key of the asset called stage/noun."""
    return dg.AssetKey(name.split("/"))


@dataclass(frozen=True)
class Cut:
    """How an asset is cut: its partitions, how many of them one run takes (None: all that are asked for), and the
    mappings of upstream assets whose partitions are not the same."""

    partitions: dg.PartitionsDefinition
    per_run: int | None = None
    mappings: Mapping[str, dg.PartitionMapping] = field(default_factory=dict)

    @property
    def backfill(self) -> dg.BackfillPolicy:
        return dg.BackfillPolicy.multi_run(self.per_run) if self.per_run else dg.BackfillPolicy.single_run()


BY_SHARD = Cut(SHARDS, SHARDS_PER_RUN)


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

    @property
    def by_model(self) -> Cut:
        """One model a partition, made from its own checkpoint; one run takes all models."""
        return Cut(
            self.model_partitions,
            None,
            {"checkpoints/sft": self.sft_to_models(), "checkpoints/rl": self.rl_to_models()},
        )

    def by_sft(self, max_parallel: int) -> Cut:
        """One SFT recipe a partition, so many in one run."""
        return Cut(self.sft_partitions, max_parallel)

    def by_rl(self, max_parallel: int) -> Cut:
        """One RL recipe a partition, made from the SFT checkpoint that it starts from; so many in one run."""
        return Cut(self.rl_partitions, max_parallel, {"checkpoints/sft": self.sft_to_rl()})

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
