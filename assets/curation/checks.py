"""What must hold of the curated rows before anything is trained on them."""

import dagster as dg
import polars as pl

from assets.curation.assets import (
    ANSWERS,
    CURATED,
    GAIN,
    RL_SETS,
    SFT_SETS,
    index_of,
    items_of,
    usable_rows,
)
from assets.curation.disjoint import disjoint
from assets.curation.publication import CURATED_TABLE
from assets.partitions import SHARDS, key_of
from assets.settings import CurationSettings
from assets.store import AssetStore
from evaluation.answering.curtailment import CONDITIONS

PENDING_LIMIT = 0.05


def curation_checks(settings: CurationSettings) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key_of(ANSWERS),
        partitions_def=SHARDS,
        description="Nearly every prompt could be asked: its frames could be read, and no server refused it.",
    )
    def prompts_can_be_asked(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        asked = sum(usable_rows(store, shard).height * len(CONDITIONS) for shard in context.partition_keys)
        counts = [store.current(ANSWERS, shard).provenance["counts"] for shard in context.partition_keys]
        unreadable = sum(c["unreadable"] for c in counts)
        share = unreadable / max(1, asked)
        return dg.AssetCheckResult(
            passed=share <= PENDING_LIMIT,
            metadata={"share": share, "limit": PENDING_LIMIT, "unreadable": unreadable, "prompts": asked},
        )

    @dg.asset_check(
        asset=key_of(GAIN),
        partitions_def=SHARDS,
        description="Nearly every row is decided: all its answers are there, and settled by the rule or the judge.",
    )
    def few_rows_are_pending(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        counts = [store.current(GAIN, shard).provenance["counts"] for shard in context.partition_keys]
        pending, rows = sum(c["pending"] for c in counts), sum(c["rows"] for c in counts)
        share = pending / max(1, rows)
        return dg.AssetCheckResult(
            passed=share <= PENDING_LIMIT,
            metadata={
                "share": share,
                "limit": PENDING_LIMIT,
                "pending": pending,
                "rows": rows,
                "unjudged_answers": sum(c["unjudged"] for c in counts),
            },
        )

    @dg.asset_check(
        asset=key_of(CURATED),
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
            # An empty set is a finding about the model and the rows, not a broken selection.
            severity=dg.AssetCheckSeverity.ERROR if rows.height else dg.AssetCheckSeverity.WARN,
            metadata={"rows": rows.height, "broken": broken, "best_first": ordered},
        )

    @dg.asset_check(
        asset=key_of(CURATED),
        blocking=True,
        description="No published row has the source video, or question, answer and frames, of a benchmark's item.",
    )
    def no_row_is_a_benchmarks(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        rows = pl.read_parquet(store.current(CURATED).file(CURATED_TABLE))
        index = index_of(items_of(settings, store))
        found = disjoint(rows, index)
        return dg.AssetCheckResult(
            passed=not found,
            metadata={"rows": rows.height, "items": index.table.height, "found": len(found), "first": found[:10]},
        )

    @dg.asset_check(
        asset=key_of(RL_SETS),
        additional_deps=[key_of(SFT_SETS)],
        blocking=True,
        description="Every RL set has rows, and none on a clip that SFT has seen where the profile forbids it.",
    )
    def rl_clips_are_new(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        seen = pl.read_parquet(store.current(SFT_SETS).file("future_l1.parquet"))["video"]
        artifact = store.current(RL_SETS)
        shared, rows = {}, {}
        for name in artifact.provenance["counts"]["sets"]:
            table = pl.read_parquet(artifact.file(f"{name}.parquet"))
            shared[name] = table.filter(pl.col("video").is_in(seen.implode())).height
            rows[name] = table.height
        return dg.AssetCheckResult(
            passed=all(rows.values()) and not (settings.rl_avoids_sft and any(shared.values())),
            metadata={"rows": rows, "on_seen_clips": shared},
        )

    answered = [] if settings.given else [prompts_can_be_asked]
    return [*answered, few_rows_are_pending, rows_obey_the_rule, no_row_is_a_benchmarks, rl_clips_are_new]
