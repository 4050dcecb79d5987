"""Keys and partitions of assets: the source's shards, and the recipes and models of the profile.

A partition is a batch of trajectories; a single trajectory is a row of a table.
"""

import sys
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

SHARDS = dg.DynamicPartitionsDefinition(name="twiff_shards")
SHARDS_PER_RUN = 32
BASE = "base"
PARTITION = "dagster/partition"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def key_of(name: str) -> dg.AssetKey:
    """The asset key of group/noun."""
    return dg.AssetKey(name.split("/"))


@dataclass(frozen=True)
class Partitioning:
    """The partitions of an asset, the most that one run takes (None: no limit), and the partition mappings of upstream
    assets that have other partitions, by their keys."""

    definition: dg.PartitionsDefinition
    max_partitions_per_run: int | None = None
    mappings: Mapping[str, dg.PartitionMapping] = field(default_factory=dict)

    @property
    def backfill_policy(self) -> dg.BackfillPolicy:
        if self.max_partitions_per_run is None:
            return dg.BackfillPolicy.single_run()
        return dg.BackfillPolicy.multi_run(self.max_partitions_per_run)


SHARD_PARTITIONING = Partitioning(SHARDS, SHARDS_PER_RUN)


def ranges(ordered: Sequence[str], wanted: Container[str], size: int = sys.maxsize) -> Iterator[tuple[str, ...]]:
    """The wanted names in order, cut where others lie between them and after `size`: each is one run's."""
    names: tuple[str, ...] = ()
    for name in ordered:
        if name in wanted:
            names = (*names, name)
        if names and (name not in wanted or len(names) == size):
            yield names
            names = ()
    if names:
        yield names


def range_tags(partitions: Sequence[str]) -> dict[str, str]:
    """The tags of a run over neighbouring partitions; none for fewer than two: one is the run's partition key."""
    return {RANGE_START: partitions[0], RANGE_END: partitions[-1]} if len(partitions) > 1 else {}


def partitions_of(tags: Mapping[str, str], ordered: Sequence[str]) -> Sequence[str]:
    """The partitions of a run with these tags, of those that still exist."""
    first, last = (tags.get(PARTITION, tags.get(end)) for end in (RANGE_START, RANGE_END))
    return ordered[ordered.index(first) : ordered.index(last) + 1] if first in ordered and last in ordered else ()


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a profile: SFT recipes, and RL recipes with the SFT recipes that they start from."""

    sft: tuple[str, ...]
    rl: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are benchmarked: the base, every SFT and every RL checkpoint."""
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

    def model_partitioning(self, models: Collection[str] | None = None) -> Partitioning:
        """One model a partition, of all or of these, made from its own checkpoint; one run takes all of them."""
        names = [name for name in self.models if models is None or name in models]
        mappings = {"checkpoints/sft": _same(self.sft, names), "checkpoints/rl": _same(self.rl, names)}
        return Partitioning(dg.StaticPartitionsDefinition(names), None, mappings)

    def sft_partitioning(self, max_partitions_per_run: int) -> Partitioning:
        """One SFT recipe a partition."""
        return Partitioning(self.sft_partitions, max_partitions_per_run)

    def rl_partitioning(self, max_partitions_per_run: int) -> Partitioning:
        """One RL recipe a partition, made from the SFT checkpoint that it starts from."""
        followers = {sft: [rl for rl, start in self.rl.items() if start == sft] for sft in set(self.rl.values())}
        mappings = {"checkpoints/sft": dg.StaticPartitionMapping(followers)}
        return Partitioning(self.rl_partitions, max_partitions_per_run, mappings)

    def artifact(self, model: str) -> tuple[str, str | None]:
        """The asset key and partition of a model's checkpoint."""
        if model == BASE:
            return "inputs/base_model", None
        if model in self.sft:
            return "checkpoints/sft", model
        if model in self.rl:
            return "checkpoints/rl", model
        raise ValueError(f"no model {model!r} in this profile; it has {', '.join(self.models)}")


def _same(recipes: Iterable[str], models: Container[str]) -> dg.StaticPartitionMapping:
    """The mapping of recipes to the models of the same names."""
    return dg.StaticPartitionMapping({name: name for name in recipes if name in models})
