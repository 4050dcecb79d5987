"""Checks of the curated rows and of the sets, before training."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import polars as pl

from assets.curation.assets import ANSWERS, CURATED, RL_SETS, SFT_SETS
from assets.curation.disjoint import disjoint
from assets.curation.publication import CURATED_TABLE
from assets.curation.scored import GAIN, GAIN_TABLE
from assets.curation.set_assets import index_of, items_of
from assets.curation.settings import CurationSettings
from assets.framework.define import check_result
from assets.framework.partitions import SHARDS, key_of
from assets.framework.store import AssetStore
from assets.trajectories.usable import usable_rows
from evaluation.generation.curtailment import CONDITIONS
from training.storage.parquet import read_parquet

PENDING_LIMIT = 0.05


def curation_checks(settings: CurationSettings) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key_of(ANSWERS),
        partitions_def=SHARDS,
        description="Nearly every prompt has its answers: its frames can be read, and no server refused it.",
    )
    def prompts_have_answers(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        prompts = sum(usable_rows(store, shard).height * len(CONDITIONS) for shard in context.partition_keys)
        counts = [store.current(ANSWERS, shard).provenance["counts"] for shard in context.partition_keys]
        refused = sum(c["refused"] for c in counts)
        share = refused / max(1, prompts)
        return check_result(
            passed=share <= PENDING_LIMIT,
            description=f"{refused} of {prompts} prompts have no answer; at most {PENDING_LIMIT:.0%} may. The "
            f"reasons are in {_files(store, ANSWERS, context.partition_keys, 'answers.failed')}",
            remedy="repair the clips or the server, and start again, with --retry-refused (curation.retry_refused)",
            metadata={"share": share, "limit": PENDING_LIMIT, "refused": refused, "prompts": prompts},
        )

    @dg.asset_check(
        asset=key_of(GAIN),
        partitions_def=SHARDS,
        blocking=True,
        description="Nearly every row is decided: all its answers are there, and settled by the rule or the judge.",
    )
    def few_rows_are_pending(
        context: dg.AssetCheckExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.AssetCheckResult:
        counts = [store.current(GAIN, shard).provenance["counts"] for shard in context.partition_keys]
        pending, rows = sum(c["pending"] for c in counts), sum(c["rows"] for c in counts)
        share = pending / max(1, rows)
        unjudged = sum(c["unjudged"] for c in counts)
        return check_result(
            passed=share <= PENDING_LIMIT,
            description=f"{pending} of {rows} rows are pending, {unjudged} answers have no verdict; at most "
            f"{PENDING_LIMIT:.0%} of the rows may be. They are in "
            f"{_files(store, GAIN, context.partition_keys, GAIN_TABLE)}",
            remedy="start again once server and judge reply, with --retry-refused (curation.retry_refused) for prompts "
            "that a server refused",
            metadata={
                "share": share,
                "limit": PENDING_LIMIT,
                "pending": pending,
                "rows": rows,
                "unjudged_answers": unjudged,
            },
        )

    @dg.asset_check(
        asset=key_of(CURATED),
        blocking=True,
        description="Every published row obeys the rule that selected it (the paper: p_t at most 6, gain at least 2), "
        "best gains first.",
    )
    def rows_obey_the_rule(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        curated = store.current(CURATED)
        rule, rows = curated.provenance["config"], read_parquet(curated.file(CURATED_TABLE))
        broken = rows.filter(
            (pl.col("p_t") > rule["max_p_t"])
            | (pl.col("gain") < rule["min_gain"])
            | (pl.col("gain") != pl.col("p_v") - pl.col("p_t"))
        ).height
        ordered = rows["gain"].is_sorted(descending=True)
        return check_result(
            passed=0 < rows.height <= rule["top"] and broken == 0 and ordered,
            # An empty set is a finding about the model and the rows, not a broken selection.
            severity=dg.AssetCheckSeverity.ERROR if rows.height else dg.AssetCheckSeverity.WARN,
            description=f"{rows.height} rows are published (at most {rule['top']}), {broken} of them break the rule, "
            f"and they are {'' if ordered else 'not '}in order of gain: {curated.file(CURATED_TABLE)}",
            remedy="with no row left, choose looser thresholds (curation.selection); else the selection has a defect",
            metadata={"rows": rows.height, "broken": broken, "best_first": ordered, "rule": rule},
        )

    @dg.asset_check(
        asset=key_of(CURATED),
        blocking=True,
        description="No published row has the source video, or question, answer and frames, of a benchmark's item.",
    )
    def no_row_is_a_benchmarks(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        rows = read_parquet(store.current(CURATED).file(CURATED_TABLE))
        index = index_of(items_of(settings, store))
        violations = disjoint(rows, index)
        return check_result(
            passed=not violations,
            description=f"{len(violations)} of {rows.height} published rows are an item of "
            + ", ".join(settings.disjoint_from)
            + (f"; the first: {violations[0]}" if violations else ""),
            remedy="the selection has a defect, publish none of it",
            metadata={
                "rows": rows.height,
                "items": index.table.height,
                "violations": len(violations),
                "first": violations[:10],
            },
        )

    @dg.asset_check(
        asset=key_of(SFT_SETS),
        blocking=True,
        description="Every SFT set has rows, each of them once, and their clips are where they were read.",
    )
    def sft_rows_can_be_read(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        artifact = store.current(SFT_SETS)
        sets = {
            name: read_parquet(artifact.file(f"{name}.parquet"), columns=["row_id", "path"])
            for name in artifact.provenance["counts"]["sets"]
        }
        rows = {name: table.height for name, table in sets.items()}
        repeated = {name: table.height - table["row_id"].n_unique() for name, table in sets.items()}
        paths = sorted({path for table in sets.values() for path in table["path"].unique()})
        gone = [path for path in paths if not Path(path).is_file()]
        return check_result(
            passed=all(rows.values()) and not any(repeated.values()) and not gone,
            description=f"rows by set: {rows}; repeated: {sum(repeated.values())}; {len(gone)} of {len(paths)} clips "
            f"are gone{f', {gone[0]} first' if gone else ''}",
            remedy="bring the clips back, or materialise trajectories/twiff_clips and what follows it again",
            metadata={"rows": rows, "repeated": repeated, "clips": len(paths), "gone": len(gone), "first": gone[:10]},
        )

    @dg.asset_check(
        asset=key_of(RL_SETS),
        additional_deps=[key_of(SFT_SETS)],
        blocking=True,
        description="Every RL set has rows, and none on a clip of the SFT set where the profile forbids that.",
    )
    def rl_clips_are_new(store: dg.ResourceParam[AssetStore]) -> dg.AssetCheckResult:
        sft_clips = read_parquet(store.current(SFT_SETS).file("future_l1.parquet"))["video"]
        artifact = store.current(RL_SETS)
        shared, rows = {}, {}
        for name in artifact.provenance["counts"]["sets"]:
            table = read_parquet(artifact.file(f"{name}.parquet"))
            shared[name] = table.filter(pl.col("video").is_in(sft_clips.implode())).height
            rows[name] = table.height
        return check_result(
            passed=all(rows.values()) and not (artifact.provenance["config"]["avoid_sft"] and any(shared.values())),
            description=f"rows by set: {rows}; of them on clips of the SFT set: {shared} ({artifact.path})",
            remedy="score more shards, or choose smaller sets (curation.rl_sets)",
            metadata={"rows": rows, "on_sft_clips": shared},
        )

    answered = [] if settings.use_source_counts else [prompts_have_answers]
    decided = [few_rows_are_pending, rows_obey_the_rule, no_row_is_a_benchmarks]
    return [*answered, *decided, sft_rows_can_be_read, rl_clips_are_new]


def _files(store: AssetStore, key: str, shards: Sequence[str], name: str) -> str:
    """The paths of the shards' files of this name, for the sentence of a check."""
    return ", ".join(str(store.current(key, shard).path / name) for shard in shards[:3]) + (
        f" and {len(shards) - 3} more" if len(shards) > 3 else ""
    )
