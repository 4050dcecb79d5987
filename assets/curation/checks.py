"""What must hold of the curated rows before anything is trained on them."""

import dagster as dg
import polars as pl

from assets.curation.assets import (
    ANSWERS,
    CURATED,
    CURATED_TABLE,
    GAIN,
    RL_SETS,
    SFT_SETS,
    usable_rows,
)
from assets.curation.prompts import CONDITIONS
from assets.partitions import SHARDS
from assets.settings import CurationSettings
from assets.store import AssetStore

UNJUDGED_LIMIT = 0.05


def curation_checks(settings: CurationSettings) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=dg.AssetKey(ANSWERS.split("/")),
        partitions_def=SHARDS,
        blocking=True,
        description="Every usable row has all its answers under both conditions.",
    )
    def every_row_is_answered(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        wanted, given = 0, 0
        for shard in context.partition_keys:
            wanted += usable_rows(store, shard).height * settings.answers.samples * len(CONDITIONS)
            given += store.current(ANSWERS, shard).provenance["counts"]["answers"]
        return dg.AssetCheckResult(passed=given == wanted, metadata={"answers": given, "wanted": wanted})

    @dg.asset_check(
        asset=dg.AssetKey(GAIN.split("/")),
        partitions_def=SHARDS,
        description="The judge could settle nearly every answer that the rule left open.",
    )
    def few_answers_are_unjudged(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        counts = [store.current(GAIN, shard).provenance["counts"] for shard in context.partition_keys]
        unjudged, answers = sum(c["unjudged"] for c in counts), sum(c["answers"] for c in counts)
        share = unjudged / max(1, answers)
        return dg.AssetCheckResult(
            passed=share <= UNJUDGED_LIMIT,
            metadata={"share": share, "limit": UNJUDGED_LIMIT, "unjudged": unjudged, "answers": answers},
        )

    @dg.asset_check(
        asset=dg.AssetKey(CURATED.split("/")),
        blocking=True,
        description="Every published row obeys the paper's rule: p_t at most 6, gain at least 2, best gains first.",
    )
    def rows_obey_the_rule(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        rows = pl.read_parquet(store.current(CURATED).file(CURATED_TABLE))
        broken = rows.filter(
            (pl.col("p_t") > settings.selection.max_p_t)
            | (pl.col("gain") < settings.selection.min_gain)
            | (pl.col("gain") != pl.col("p_v") - pl.col("p_t"))
        ).height
        ordered = rows["gain"].is_sorted(descending=True)
        return dg.AssetCheckResult(
            passed=rows.height > 0 and broken == 0 and ordered,
            metadata={"rows": rows.height, "broken": broken, "best_first": ordered},
        )

    @dg.asset_check(
        asset=dg.AssetKey(RL_SETS.split("/")),
        additional_deps=[dg.AssetKey(SFT_SETS.split("/"))],
        blocking=True,
        description="RL sees no clip that SFT has seen.",
    )
    def rl_clips_are_new(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        seen = pl.read_parquet(store.current(SFT_SETS).file("future_l1.parquet"))["video"]
        artifact = store.current(RL_SETS)
        shared, rows = {}, {}
        for name in settings.rl_sets:
            table = pl.read_parquet(artifact.file(f"{name}.parquet"))
            shared[name] = table.filter(pl.col("video").is_in(seen.implode())).height
            rows[name] = table.height
        return dg.AssetCheckResult(
            passed=all(rows.values()) and not any(shared.values()), metadata={"rows": rows, "on_seen_clips": shared}
        )

    return [every_row_is_answered, few_answers_are_unjudged, rows_obey_the_rule, rl_clips_are_new]
