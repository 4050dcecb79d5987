"""Checks of the curated rows and of the sets, before training."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import polars as pl

from assets.curation.assets import ANSWERS, CURATED, RL_SETS, SFT_SETS
from assets.curation.dataset_card import CURATED_TABLE
from assets.curation.disjoint import disjoint
from assets.curation.local_clips import LOCAL_CLIPS, training_rows
from assets.curation.scored import GAIN, GAIN_TABLE
from assets.curation.set_assets import index_of, items_of
from assets.curation.settings import CurationSettings
from assets.framework.define import CheckOutcome, check
from assets.framework.display import line
from assets.framework.partitions import SHARDS
from assets.framework.store import AssetStore
from assets.trajectories.usable import usable_rows
from evaluation.generation.curtailment import CONDITIONS
from training.storage.parquet import read_parquet

PENDING_LIMIT = 0.05


def curation_checks(settings: CurationSettings) -> list[dg.AssetChecksDefinition]:
    return [
        *([] if settings.use_source_counts else [prompts_have_answers.of(ANSWERS, SHARDS)]),
        few_rows_are_pending.of(GAIN, SHARDS),
        rows_obey_the_rule.of(CURATED),
        no_row_is_a_benchmarks.of(CURATED, settings=settings),
        sft_rows_can_be_read.of(SFT_SETS),
        rl_clips_are_new.of(RL_SETS, deps=[SFT_SETS]),
    ]


@check(
    "Nearly every prompt has its answers: its frames can be read, and no server refused it.",
    "repair the clips or the server, and start again, with --retry-refused (curation.retry_refused)",
)
def prompts_have_answers(store: AssetStore, key: str, shards: Sequence[str]) -> CheckOutcome:
    prompts = sum(usable_rows(store, shard).height * len(CONDITIONS) for shard in shards)
    refused = sum(store.current(key, shard).provenance["counts"]["refused"] for shard in shards)
    share = refused / max(1, prompts)
    return CheckOutcome(
        passed=share <= PENDING_LIMIT,
        description=f"{refused} of {prompts} prompts have no answer; at most {PENDING_LIMIT:.0%} may. The reasons are "
        f"in {_files(store, key, shards, 'answers.failed')}",
        metadata={"share": share, "limit": PENDING_LIMIT, "refused": refused, "prompts": prompts},
    )


@check(
    "Nearly every row is decided: all its answers are there, and settled by the rule or the judge.",
    "start again once server and judge reply, with --retry-refused (curation.retry_refused) for prompts that a server "
    "refused",
    blocking=True,
)
def few_rows_are_pending(store: AssetStore, key: str, shards: Sequence[str]) -> CheckOutcome:
    counts = [store.current(key, shard).provenance["counts"] for shard in shards]
    pending, rows, unjudged = (sum(c[name] for c in counts) for name in ("pending", "rows", "unjudged"))
    share = pending / max(1, rows)
    return CheckOutcome(
        passed=share <= PENDING_LIMIT,
        description=f"{pending} of {rows} rows are pending, {unjudged} answers have no verdict; at most "
        f"{PENDING_LIMIT:.0%} of the rows may be. They are in {_files(store, key, shards, GAIN_TABLE)}",
        metadata={"share": share, "limit": PENDING_LIMIT, "pending": pending, "rows": rows,
                  "unjudged_answers": unjudged},
    )  # fmt: skip


@check(
    "Every published row obeys the rule that selected it (the paper: p_t at most 6, gain at least 2), best gains "
    "first.",
    "with no row left, choose looser thresholds (curation.selection); else the selection has a defect",
    blocking=True,
)
def rows_obey_the_rule(store: AssetStore, key: str) -> CheckOutcome:
    curated = store.current(key)
    rule, rows = curated.provenance["config"], read_parquet(curated.file(CURATED_TABLE))
    broken = rows.filter(
        (pl.col("p_t") > rule["max_p_t"])
        | (pl.col("gain") < rule["min_gain"])
        | (pl.col("gain") != pl.col("p_v") - pl.col("p_t"))
    ).height
    ordered = rows["gain"].is_sorted(descending=True)
    return CheckOutcome(
        passed=0 < rows.height <= rule["top"] and broken == 0 and ordered,
        # An empty set is a finding about the model and the rows, not a broken selection.
        severity=None if rows.height else dg.AssetCheckSeverity.WARN,
        description=f"{rows.height} rows are published (at most {rule['top']}), {broken} of them break the rule, and "
        f"they are {'' if ordered else 'not '}in order of gain: {curated.file(CURATED_TABLE)}",
        metadata={"rows": rows.height, "broken": broken, "best_first": ordered, "rule": rule},
    )


@check(
    "No published row has the source video, or question, answer and frames, of a benchmark's item.",
    "the selection has a defect, publish none of it",
    blocking=True,
)
def no_row_is_a_benchmarks(store: AssetStore, key: str, settings: CurationSettings) -> CheckOutcome:
    curated = store.current(key)
    rows = training_rows(curated.file(CURATED_TABLE), curated.file(LOCAL_CLIPS))
    index = index_of(items_of(settings, store))
    violations = disjoint(rows, index)
    first = f"; the first: {violations[0]}" if violations else ""
    return CheckOutcome(
        passed=not violations,
        description=f"{len(violations)} of {rows.height} published rows are an item of "
        f"{', '.join(settings.disjoint_from)}{first}",
        metadata={"rows": rows.height, "items": index.table.height, "violations": len(violations),
                  "first": violations[:10]},
    )  # fmt: skip


@check(
    "Every SFT set has rows, each of them once, and their clips are where they were read.",
    "bring the clips back, or materialise trajectories/twiff_clips and what follows it again",
    blocking=True,
)
def sft_rows_can_be_read(store: AssetStore, key: str) -> CheckOutcome:
    artifact = store.current(key)
    names = artifact.provenance["counts"]["sets"]
    sets = {name: read_parquet(artifact.file(f"{name}.parquet"), columns=["row_id", "path"]) for name in names}
    rows = {name: table.height for name, table in sets.items()}
    repeated = {name: table.height - table["row_id"].n_unique() for name, table in sets.items()}
    paths = sorted({path for table in sets.values() for path in table["path"].unique()})
    gone = [path for path in paths if not Path(path).is_file()]
    return CheckOutcome(
        passed=all(rows.values()) and not any(repeated.values()) and not gone,
        description=f"rows by set: {line(rows)}; repeated: {sum(repeated.values())}; {len(gone)} of {len(paths)} clips "
        f"are gone{f', {gone[0]} first' if gone else ''}",
        metadata={"rows": rows, "repeated": repeated, "clips": len(paths), "gone": len(gone), "first": gone[:10]},
    )


@check(
    "Every RL set has rows, and none on a clip of the SFT set where the profile forbids that.",
    "score more shards, or choose smaller sets (curation.rl_sets)",
    blocking=True,
)
def rl_clips_are_new(store: AssetStore, key: str) -> CheckOutcome:
    sft_clips = read_parquet(store.current(SFT_SETS).file("future_l1.parquet"))["video"]
    artifact = store.current(key)
    names = artifact.provenance["counts"]["sets"]
    clips = {name: read_parquet(artifact.file(f"{name}.parquet"), columns=["video"])["video"] for name in names}
    rows = {name: len(videos) for name, videos in clips.items()}
    shared = {name: int(videos.is_in(sft_clips.implode()).sum()) for name, videos in clips.items()}
    return CheckOutcome(
        passed=all(rows.values()) and not (artifact.provenance["config"]["avoid_sft"] and any(shared.values())),
        description=f"rows by set: {line(rows)}; of them on clips of the SFT set: {line(shared)} ({artifact.path})",
        metadata={"rows": rows, "on_sft_clips": shared},
    )


def _files(store: AssetStore, key: str, shards: Sequence[str], name: str) -> str:
    """The paths of the shards' files of this name, for the sentence of a check."""
    paths = ", ".join(str(store.current(key, shard).path / name) for shard in shards[:3])
    return f"{paths} and {len(shards) - 3} more" if len(shards) > 3 else paths
