"""`future-l1 curate --out DIR`: the user's shards to a Future-L1 set, by the same assets as the lineage's.

The command line is an overlay of a profile, run in this process with DIR/work as its home; DIR receives the tables.
"""

from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape

from assets.checkpoints.assets import BASE
from assets.curation.assets import CURATED
from assets.curation.dataset_card import CARD
from assets.curation.publication import write_publication
from assets.curation.scored import GAIN_TABLE, gain_tables, scored_shards
from assets.curation.set_assets import items_key
from assets.curation.visual_gain import GainTable, gain_report
from assets.framework.store import AssetStore
from assets.trajectories.assets import CLIPS, QUARANTINE, TRAJECTORIES
from assets.trajectories.checks import SHARD_REMEDY, faulty_shards, shard_faults_text
from assets.trajectories.usable import quarantined_rows
from assets.trajectories.validate import Quarantine
from evaluation.generation.image_factor import unknown_factor
from pipelines.driver import StepFailedError, run_plan
from pipelines.jobs import INGEST, LIST_SOURCE, PREPARE, SELECT, Step, score
from pipelines.profile import Profile
from training.chat.endpoint import ENDPOINT_KEYS, JUDGE_KEYS
from training.storage.files import atomic_write, write_json
from training.storage.parquet import read_parquet, scan_parquet

WORK = "work"
SUMMARY = "summary.json"


def curation_steps(profile: Profile) -> list[Step]:
    """From the shards to Future-L1-50K, and not what is trained on it."""
    settings = profile.curation
    local = not settings.use_source_counts and settings.endpoint is None
    needed = (*([BASE] if local else []), *(items_key(name) for name in settings.disjoint_from))
    return [
        Step(LIST_SOURCE),
        *([Step(PREPARE, only=needed)] if needed else []),
        Step(INGEST, shards=True),
        Step(score(profile), shards=True),
        Step(SELECT, only=(CURATED,)),
    ]


def curate(profile: Profile, out: Path, console: Console) -> tuple[dict[str, Any], list[str], str]:
    """Curates and writes the tables to `out`; returns the summary, what failed checks say, and `broken_shards`.

    Raises ValueError where the dataset card would replace somebody's README.md, EndpointRefusesError before any work
    where the endpoint or the judge would never answer, and StepFailedError where a step fails; started again, it goes
    on.
    """
    if (out / CARD).exists() and not AssetStore(profile.home).has(CURATED):
        raise ValueError(f"{out} has a {CARD} that no curation wrote: name another folder, the set's card goes there")
    from training.chat.connection import preflight  # imports openai

    endpoint, judge = profile.curation.endpoint, profile.judge
    if endpoint is not None and (guess := unknown_factor(endpoint, profile.base)):
        console.print(f"[yellow]![/] {escape(guess)}", soft_wrap=True, highlight=False)
    first = not (out / SUMMARY).exists()  # later there may be nothing to ask; if there is, the program looks first
    if first and endpoint is not None:
        preflight(endpoint.base_urls, endpoint.model, ENDPOINT_KEYS, "endpoint")
    if first and judge is not None and not profile.toy_judge:
        preflight((judge.base_url,), judge.model, JUDGE_KEYS, "judge")
    failed = run_plan(profile, curation_steps(profile), console, before=partial(check_usable_rows, profile))
    return export(profile, out), failed, broken_shards(profile)


def check_usable_rows(profile: Profile, step: Step) -> None:
    """Raises StepFailedError with the table of reasons where a step would send rows to a model and none is usable."""
    if step.stage != score(profile):
        return
    store = AssetStore(profile.home)
    shards = [shard for shard in store.partitions(TRAJECTORIES) if store.has(CLIPS, shard)]
    quarantine = pl.concat([*quarantined_rows(store, shards), Quarantine.create_empty()])
    read = sum(store.current(TRAJECTORIES, shard).provenance["counts"]["rows"] for shard in shards)
    usable = read - quarantine["row_id"].count()  # of the others the id is not known
    if usable > 0:
        return
    counted = quarantine["reason"].value_counts(sort=True).iter_rows()
    reasons = "\n".join(f"{count:8}  {reason}" for reason, count in counted) or "       0  rows"
    first = next(quarantine.select("source", "row", "reason", "detail").iter_rows(), None)
    example = f"\nthe first is row {first[1]} of {first[0]}: {first[2]}, {first[3]}" if first else ""
    raise StepFailedError(
        f"of {len(shards)} shards no row is usable, so no model is called:\n{reasons}{example}\n"
        f"every row is in the {QUARANTINE} tables under {store.artifacts.root / 'trajectories'}"
    )


def broken_shards(profile: Profile) -> str:
    """Which shards were left out because they cannot be read, and what to do; "" if none was."""
    store = AssetStore(profile.home)
    shards = store.partitions(TRAJECTORIES)
    broken, _ = faulty_shards(store, shards)
    if not broken:
        return ""
    faults = f"{shard_faults_text(broken, [])}\n{SHARD_REMEDY}"
    return f"{len(broken)} of {len(shards)} shards are broken, the others went on:\n{faults}"


def export(profile: Profile, out: Path) -> dict[str, Any]:
    """Writes the current tables of a curation to `out`, and `summary.json`, which it returns."""
    store = AssetStore(profile.home)
    scored = scored_shards(store)
    gains, quarantine = gain_tables(scored), pl.concat(quarantined_rows(store, list(scored)))
    curated, (broken, empty) = store.current(CURATED), faulty_shards(store, list(scored))
    counted = [read_parquet(path, columns=GainTable.column_names()) for path in gains]
    counts = gain_report(counted, profile.curation.rule)
    judged_shards = [gain.provenance["counts"].get("judge") for gain in scored.values()]
    summary = {
        "read": quarantine.height + counts["rows"],
        "quarantined": quarantine.height,
        "quarantined_by_reason": dict(quarantine["reason"].value_counts(sort=True).iter_rows()),
        "broken_shards": broken,
        "empty_shards": empty,
        "scored": counts["scored"],
        "pending": counts["pending"],
        "kept": curated.provenance["counts"]["kept"],
        "rejected_by_reason": curated.provenance["counts"]["rejected_by_reason"],
        "generations": counts["generations"],
        "generations_saved": counts["generations_saved"],
        "judge_calls": sum(judged["replies"] for judged in judged_shards if judged),
        "fully_sampled": counts["fully_sampled"],
        "gain_histogram": counts["gain_histogram"],
        "versions": {"future_l1_50k": curated.version},
    }
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / GAIN_TABLE) as fresh:
        scan_parquet(*gains).drop("path").sink_parquet(fresh)
    with atomic_write(out / QUARANTINE) as fresh:
        quarantine.write_parquet(fresh)
    write_publication(curated, out, profile.hub.dataset_license)
    write_json(out / SUMMARY, summary)
    return summary
