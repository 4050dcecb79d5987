"""Which shards must be curated again, and the runs that do it: what the schedule and the sensor have in common."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dagster as dg

from assets.curation.scored import GAIN
from assets.framework.partitions import SHARDS, SHARDS_PER_RUN, range_tags
from assets.framework.store import AssetStore
from assets.trajectories.assets import TRAJECTORIES, retire
from assets.trajectories.settings import SourceSettings
from assets.trajectories.shards import Listing
from assets.trajectories.sources import open_source
from training.storage.hashing import digest


def stale_shards(store: AssetStore, found: Listing) -> list[str]:
    """The shards that were never scored, or whose file is not the one that was pulled."""
    return [
        name
        for name, shard in found.shards.items()
        if not store.has(GAIN, name) or store.current(TRAJECTORIES, name).provenance["counts"]["stamp"] != shard.stamp
    ]


class Changes(NamedTuple):
    """What a look at the source found: shards that Dagster does not know, shards that are gone, and runs to start."""

    fresh: list[str]
    gone: list[str]
    requests: list[dg.RunRequest]


def look(instance: dg.DagsterInstance, store: AssetStore, settings: SourceSettings, once_per: str = "") -> Changes:
    """What has changed in the source, and a run for each range of neighbouring stale shards.

    A run is asked for once for the same files: its key is made of the shards' stamps, and of `once_per`, the period
    after which one that failed is asked for again.  What is gone is retired.  Raises ValueError if nothing is there.
    """
    found = open_source(settings.trajectories).listing()
    known = list(instance.get_dynamic_partitions(str(SHARDS.name)))
    gone = [name for name in known if name not in found.shards]
    for name in gone:
        retire(store, name)
    fresh = [name for name in found.shards if name not in known]
    stale = set(stale_shards(store, found))
    requests = []
    for shards in _ranges([*(name for name in known if name not in gone), *fresh], stale):
        key = digest({"once_per": once_per, **{name: found.shards[name].stamp for name in shards}})
        alone = shards[0] if len(shards) == 1 else None
        requests.append(dg.RunRequest(run_key=key, partition_key=alone, tags=range_tags(shards)))
    return Changes(fresh, gone, requests)


def _ranges(ordered: Sequence[str], wanted: set[str]) -> Iterator[list[str]]:
    """The wanted names in order, cut where others lie between them and at SHARDS_PER_RUN."""
    shards: list[str] = []
    for name in ordered:
        if name in wanted:
            shards.append(name)
        if shards and (name not in wanted or len(shards) == SHARDS_PER_RUN):
            yield shards
            shards = []
    if shards:
        yield shards
