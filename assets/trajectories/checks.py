"""Checks of a shard's rows and clips, before models answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.framework.define import CheckOutcome, check
from assets.framework.partitions import SHARDS
from assets.framework.store import AssetStore
from assets.trajectories.assets import CLIPS, QUARANTINE, TRAJECTORIES
from assets.trajectories.settings import SourceSettings

SHARD_REMEDY = "write these shards again, or remove them from the source"
QUARANTINE_REMEDY = "repair the source, or raise source.quarantine_limit"


def source_checks(settings: SourceSettings) -> list[dg.AssetChecksDefinition]:
    limit = settings.quarantine_limit
    return [
        shards_can_be_read.of(TRAJECTORIES, SHARDS),
        few_rows_are_quarantined.of(TRAJECTORIES, SHARDS, limit=limit),
        clips_can_be_read.of(CLIPS, SHARDS, limit=limit),
    ]


@check(
    "Every shard can be read to its end, and holds rows; one that cannot stops no other of its run.",
    SHARD_REMEDY,
    blocking=True,
)
def shards_can_be_read(store: AssetStore, key: str, shards: Sequence[str]) -> CheckOutcome:
    broken, empty = faulty_shards(store, shards)
    none_left = broken and len(broken) + len(empty) == len(shards)
    return CheckOutcome(
        passed=not broken and not empty,
        severity=dg.AssetCheckSeverity.ERROR if none_left else dg.AssetCheckSeverity.WARN,
        description=shard_faults_text(broken, empty) or f"{len(shards)} shards hold rows",
        metadata={"broken": broken, "empty": empty},
    )


@check(
    "No more rows are in quarantine than the profile allows; none was dropped silently.",
    QUARANTINE_REMEDY,
    blocking=True,
)
def few_rows_are_quarantined(store: AssetStore, key: str, shards: Sequence[str], limit: float) -> CheckOutcome:
    counts = {shard: _counts(store, key, shard) for shard in shards}
    shares = {
        shard: (c["quarantined"], c["rows"] + c["quarantined"], c["reasons"])
        for shard, c in counts.items()
        if "broken" not in c
    }
    return _worst(store, key, "rows", shares, limit)


@check("Nearly every clip that the rows name is there and can be read.", QUARANTINE_REMEDY, blocking=True)
def clips_can_be_read(store: AssetStore, key: str, shards: Sequence[str], limit: float) -> CheckOutcome:
    counts = {shard: _counts(store, key, shard) for shard in shards}
    shares = {shard: (c["clips"] - c["usable"], c["clips"], c["reasons"]) for shard, c in counts.items()}
    return _worst(store, key, "clips", shares, limit)


def _worst(
    store: AssetStore, key: str, what: str, shares: Mapping[str, tuple[int, int, dict[str, int]]], limit: float
) -> CheckOutcome:
    """Of (unusable, all, reasons) by shard, the one with the greatest share of unusable."""
    if not any(total for _, total, _ in shares.values()):
        return CheckOutcome(passed=True, description=f"there are no {what}", metadata={})
    shard = max(shares, key=lambda name: shares[name][0] / max(1, shares[name][1]))
    unusable, total, reasons = shares[shard]
    share = unusable / max(1, total)
    counted = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "no reason"
    return CheckOutcome(
        passed=share <= limit,
        description=f"{unusable} of {total} {what} of shard {shard} cannot be used ({counted}); the profile allows "
        f"{limit:.0%}. They are in {store.current(key, shard).path / QUARANTINE}",
        metadata={"worst_shard": shard, "share": share, "limit": limit},
    )


def faulty_shards(store: AssetStore, shards: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The pulled shards that are broken, with the reason, and those that hold no row at all."""
    counts = {shard: _counts(store, TRAJECTORIES, shard) for shard in shards if store.has(TRAJECTORIES, shard)}
    broken = {shard: c["broken"] for shard, c in counts.items() if "broken" in c}
    return broken, [shard for shard, c in counts.items() if not c["rows"] + c["quarantined"]]


def shard_faults_text(broken: Mapping[str, str], empty: Sequence[str]) -> str:
    """The faults of shards, one a line."""
    lines = [f"shard {shard} is broken, and nothing of it is used: {reason}" for shard, reason in broken.items()]
    lines += [f"shard {shard} holds no rows" for shard in empty]
    return "\n".join(lines)


def _counts(store: AssetStore, key: str, shard: str) -> dict[str, Any]:
    return store.current(key, shard).provenance["counts"]
