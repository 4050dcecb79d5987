"""What must hold of a shard before models are asked about its rows."""

import dagster as dg

from assets.partitions import SHARDS, key_of
from assets.settings import SourceSettings
from assets.store import AssetStore
from assets.trajectories.assets import CLIPS, TRAJECTORIES


def source_checks(settings: SourceSettings) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key_of(TRAJECTORIES),
        partitions_def=SHARDS,
        blocking=True,
        description="No more rows are in quarantine than the profile allows; none was dropped silently.",
    )
    def few_rows_are_quarantined(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        counts = {shard: _counts(store, TRAJECTORIES, shard) for shard in context.partition_keys}
        return _worst({shard: c["quarantined"] / (c["rows"] + c["quarantined"] or 1) for shard, c in counts.items()})

    @dg.asset_check(
        asset=key_of(CLIPS),
        partitions_def=SHARDS,
        blocking=True,
        description="Nearly every clip that the rows name is there and can be read.",
    )
    def clips_can_be_read(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        counts = {shard: _counts(store, CLIPS, shard) for shard in context.partition_keys}
        return _worst({shard: 1 - c["usable"] / (c["clips"] or 1) for shard, c in counts.items()})

    def _worst(shares: dict[str, float]) -> dg.AssetCheckResult:
        shard = max(shares, key=lambda name: shares[name])
        return dg.AssetCheckResult(
            passed=shares[shard] <= settings.quarantine_limit,
            metadata={"worst_shard": shard, "share": shares[shard], "limit": settings.quarantine_limit},
        )

    return [few_rows_are_quarantined, clips_can_be_read]


def _counts(store: AssetStore, key: str, shard: str) -> dict[str, int]:
    return store.current(key, shard).provenance["counts"]
