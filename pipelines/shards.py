"""`register_shards`: the source's shards become partitions before somebody presses "Materialize all".

Dagster fixes what a backfill makes when it is launched: of an asset without partitions, and of all that has them in
common with it, nothing.
"""

import dagster as dg

from assets.framework.partitions import SHARDS
from assets.framework.store import AssetStore
from assets.toyworld.assets import toyworld_shards
from assets.trajectories.locations import local_path
from assets.trajectories.sources import source_shards
from pipelines.profile import Profile

NOT_REGISTERED = 'materialise inputs/twiff_source before "Materialize all"'


def register_shards(profile: Profile) -> str | None:
    """Registers the shards of a local source, or those that the toy world will have, with DAGSTER_HOME's instance.

    Returns why none were registered, and what to do, if so: a remote source is not listed here, which may take long.
    """
    source = profile.source
    if local_path(source.trajectories) is None:
        return f"the shards of {source.trajectories} are not listed at start: {NOT_REGISTERED}"
    try:
        names = list(source_shards(source, AssetStore(profile.home).scratch)[2])
    except (ValueError, OSError) as error:
        if profile.toyworld is None:
            return f"{error}: {NOT_REGISTERED}"
        names = toyworld_shards(profile.toyworld, source.rows_per_partition)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(str(SHARDS.name), names)
    return None
