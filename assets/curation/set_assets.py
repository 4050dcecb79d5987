"""Selection by visual gain: Future-L1-50K, the sets that models are trained on, and the push to a dataset hub."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import polars as pl

from assets.curation.assets import CURATED, RL_SETS, SFT_SETS
from assets.curation.contamination import BenchmarkIndex, benchmark_index
from assets.curation.dataset_card import CARD, COMPOSITION_FIGURE, CURATED_TABLE, Origin, SourceShards
from assets.curation.local_clips import LOCAL_CLIPS, LocalClipTable, training_rows
from assets.curation.previews import GAIN_FIGURE, REJECTED, STORYBOARDS, TOP_ROWS, highest, write_previews
from assets.curation.publication import (
    CHANGE,
    EXCLUDED_TABLE,
    POOL_TABLE,
    publish,
    write_publication,
)
from assets.curation.scored import GAIN, gain_tables, scored_shards, verdict_tables
from assets.curation.selection import CuratedTable, SelectionSettings
from assets.curation.sets import random_set, rl_set
from assets.curation.settings import CurationSettings, SelectionConfig
from assets.curation.v1_33k import choices
from assets.curation.visual_gain import VerdictTable
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import metadata_of, result_of
from assets.framework.retries import retry_on_outage
from assets.framework.settings import SeedConfig
from assets.framework.store import AssetStore, StoreParam
from assets.hub import HUB, HubSettings, push_folder, refuse_to_push_with_others
from assets.trajectories.assets import TRAJECTORIES
from training.runtime.printable import model_label
from training.storage.artifacts import Artifact
from training.storage.hashing import file_digest
from training.storage.parquet import read_parquet, scan_parquet

Items = Mapping[str, Artifact]
"""Items of benchmarks by name."""

DATASET_HUB = "curation/dataset_hub"
ITEM_TABLE = "items.parquet"

SELECTION_CODE = code_of(*(f"assets.curation.{name}" for name in ("contamination", "publication", "previews")))
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8))
"""Future-L1-50K is curated again weekly: a day after one week it is late, a day after two it is stale, also where the
source had nothing new: then the source needs a look."""
STORYBOARDS_OF_THE_SET = 4  # every materialisation keeps its picture in the event log


def set_assets(settings: CurationSettings, hub: HubSettings, seed: int, base: Path) -> list[dg.AssetsDefinition]:
    return [
        _future_l1_50k(settings, base),
        _sft_sets(settings, seed),
        _rl_sets(settings, seed),
        *([dataset_hub_asset(hub.dataset, hub.dataset_license)] if hub.dataset else []),
    ]


def items_key(benchmark: str) -> str:
    """The key of a benchmark's items."""
    return f"inputs/{benchmark}_items"


def items_of(settings: CurationSettings, store: AssetStore) -> dict[str, Artifact]:
    """The items of the benchmarks that the published set must not touch, by benchmark."""
    return {name: store.current(items_key(name)) for name in settings.disjoint_from}


def index_of(items: Items) -> BenchmarkIndex:
    return benchmark_index({name: artifact.file(ITEM_TABLE) for name, artifact in items.items()})


def _by_key(scored: Mapping[str, Artifact], items: Items) -> dict[str, Artifact | str]:
    """What a selection is made from, as a version has it."""
    shards: dict[str, Artifact | str] = {f"{GAIN}/{shard}": artifact for shard, artifact in scored.items()}
    return shards | {items_key(name): artifact for name, artifact in items.items()}


def _sources(store: AssetStore, shards: Sequence[str]) -> list[SourceShards]:
    """What the shards were pulled from, as far as the card names it: no path and no address of other files."""
    pulled = [store.current(TRAJECTORIES, shard).provenance["counts"] for shard in shards]
    rows = [(p["repository"], p["revision"], p["rows"] + p["quarantined"]) for p in pulled]
    table = pl.DataFrame(rows, {"repository": pl.String, "revision": pl.String, "rows": pl.Int64}, orient="row")
    on_hub = pl.when(pl.col("repository").is_not_null())
    grouped = table.group_by("repository", on_hub.then("revision")).agg(pl.len().alias("shards"), pl.sum("rows"))
    return [SourceShards(**row) for row in grouped.sort("repository", "revision").iter_rows(named=True)]


def _model_name(settings: CurationSettings, base: Path) -> str | None:
    """The name of the model that answered, never a path; None where the source has the counts."""
    if settings.use_source_counts:
        return None
    return model_label(settings.endpoint.model if settings.endpoint else base.name)


def _check_scored_for(rule: SelectionSettings, scored: Mapping[str, Artifact]) -> None:
    """Raises ValueError where rows were cut short that the rule might keep: their gain is not known."""
    for shard, artifact in scored.items():
        made_for = artifact.provenance["config"]["rule"]
        looser = rule.max_p_t > made_for["max_p_t"] or rule.min_gain < made_for["min_gain"]
        if looser and artifact.provenance["counts"]["cut"]:
            raise ValueError(
                f"shard {shard} was scored to keep rows with p_t at most {made_for['max_p_t']} and a gain of at least "
                f"{made_for['min_gain']}, and others were cut short; max_p_t {rule.max_p_t} and min_gain "
                f"{rule.min_gain} might keep some of them: choose no looser values, or score again with these in the "
                "profile"
            )


def _future_l1_50k(settings: CurationSettings, base: Path) -> dg.AssetsDefinition:
    declared = Asset(
        CURATED,
        "The rows that the hint makes answerable, ranked by gain, with the numbers that selected them.",
        kinds=("polars", "parquet"),
        code_version=SELECTION_CODE,
        deps=(GAIN, *map(items_key, settings.disjoint_from)),
        table=CURATED_TABLE,
        columns=(CuratedTable,),
        previews=(GAIN_FIGURE, COMPOSITION_FIGURE, STORYBOARDS, TOP_ROWS, REJECTED, CHANGE),
        freshness_policy=FRESH,
        links={"card": CARD, "pool": POOL_TABLE, "excluded": EXCLUDED_TABLE},
    )

    @asset(declared, config=SelectionConfig(**settings.selection.model_dump()))
    def curation_future_l1_50k(config: SelectionConfig, store: StoreParam) -> dg.MaterializeResult[None]:
        scored, items = scored_shards(store), items_of(settings, store)
        rule = config.thresholds(settings.rule.samples)
        _check_scored_for(rule, scored)

        def make(workspace: Path) -> dict[str, Any]:
            before = store.current(CURATED) if store.has(CURATED) else None
            previous = (before.version, before.file(CURATED_TABLE)) if before else None
            origin = Origin(_sources(store, list(scored)), _model_name(settings, base), settings.answers.samples)
            report = publish(workspace, gain_tables(scored), rule, index_of(items), previous, origin)
            rows = training_rows(workspace / CURATED_TABLE, workspace / LOCAL_CLIPS)
            best = highest(rows, STORYBOARDS_OF_THE_SET)
            of_best = pl.col("row_id").is_in(best["row_id"].implode())
            verdicts = [scan_parquet(path).filter(of_best).collect() for path in verdict_tables(scored)]
            table = pl.concat([VerdictTable.create_empty(), *verdicts])
            write_previews(workspace, best, table, report, STORYBOARDS_OF_THE_SET)
            return {**report, "shards": len(scored)}

        artifact = store.work(CURATED, _by_key(scored, items), rule.model_dump(mode="json"), SELECTION_CODE).do(make)
        store.artifacts.prune(CURATED, settings.versions_kept)
        return result_of(store, declared, artifact)

    return curation_future_l1_50k


def _sft_sets(settings: CurationSettings, seed: int) -> dg.AssetsDefinition:
    declared = Asset(
        SFT_SETS,
        "SFT sets: future_l1, as many random rows, and future_l1 again for text-only training.",
        kinds=("polars", "parquet"),
        code_version=code_of("assets.curation.sets", "assets.curation.local_clips"),
        deps=(CURATED, GAIN, *map(items_key, settings.disjoint_from)),
        table="future_l1.parquet",
        columns=(CuratedTable, LocalClipTable),
    )

    def write(folder: Path, scored: list[Path], curated: Artifact, items: Items, seed: int) -> dict[str, Any]:
        selected = training_rows(curated.file(CURATED_TABLE), curated.file(LOCAL_CLIPS))
        random_rows, report = random_set(scored, selected.height, seed, index_of(items))
        sets = {"future_l1": selected, "random": random_rows, "text_only": selected}
        for name, table in sets.items():
            table.write_parquet(folder / f"{name}.parquet")
        return {"sets": {name: table.height for name, table in sets.items()}, "random": report}

    return _training_sets(declared, settings, seed, write, {})


def _rl_sets(settings: CurationSettings, seed: int) -> dg.AssetsDefinition:
    v1_33k = settings.multiple_choice_set
    declared = Asset(
        RL_SETS,
        "RL sets: retained rows sampled with a seed, and V1-33K's questions where the profile names them.",
        kinds=("polars", "parquet"),
        code_version=code_of("assets.curation.sets", "assets.curation.v1_33k"),
        deps=(CURATED, GAIN, *map(items_key, settings.disjoint_from)),
        table=f"{next(iter(settings.rl_sets))}.parquet",
        columns=(CuratedTable, LocalClipTable),
    )

    def write(folder: Path, scored: list[Path], curated: Artifact, items: Items, seed: int) -> dict[str, Any]:
        pool, reports = read_parquet(curated.file(POOL_TABLE)), {}
        for name, rows in settings.rl_sets.items():
            table, reports[name] = rl_set(scored, pool, rows, seed, settings.rl_avoids_sft)
            table.write_parquet(folder / f"{name}.parquet")
        if v1_33k:
            futurebench = read_parquet(items["futurebench"].file(ITEM_TABLE))
            questions = choices(v1_33k.files, v1_33k.videos, v1_33k.rows, seed, futurebench)
            questions.rows.write_parquet(folder / f"{v1_33k.name}.parquet")
            questions.quarantine.write_parquet(folder / f"{v1_33k.name}.quarantine.parquet")
            reports[v1_33k.name] = questions.report
        return {"sets": {name: report["rows"] for name, report in reports.items()}, "reports": reports}

    values: dict[str, Any] = {"rows": settings.rl_sets, "avoid_sft": settings.rl_avoids_sft}
    if v1_33k:
        values["multiple_choice_set"] = v1_33k.model_dump(mode="json")
    return _training_sets(declared, settings, seed, write, values, v1_33k.files if v1_33k else ())


def _training_sets(
    declared: Asset,
    settings: CurationSettings,
    seed: int,
    write: Callable[[Path, list[Path], Artifact, Items, int], dict[str, Any]],
    values: Mapping[str, Any],
    files: Sequence[Path] = (),
) -> dg.AssetsDefinition:
    """Sets that `write` makes of the scored tables, Future-L1-50K, the benchmarks' items and a seed; `values` and
    `files` are part of their version."""

    @asset(declared, config=SeedConfig(seed=seed))
    def training_sets(config: SeedConfig, store: StoreParam) -> dg.MaterializeResult[None]:
        scored, curated, items = scored_shards(store), store.current(CURATED), items_of(settings, store)
        sampling = config.values()
        inputs = {CURATED: curated} | _by_key(scored, items) | {path.name: file_digest(path) for path in files}
        work = store.work(declared.key, inputs, {**sampling, **values}, str(declared.code_version))
        tables = gain_tables(scored)
        artifact = work.do(lambda folder: write(folder, tables, curated, items, sampling["seed"]))
        return result_of(store, declared, artifact)

    return training_sets


def dataset_hub_asset(repository: str, license_id: str | None) -> dg.AssetsDefinition:
    """`license_id`: the license of the data set, without which nothing is pushed."""
    declared = Asset(
        DATASET_HUB,
        "By hand only: pushes the current Future-L1-50K to a dataset hub, with the environment's token.",
        kinds=("huggingface",),
        code_version=SELECTION_CODE,  # what is pushed is another asset's artifact
        deps=(CURATED,),
        table=CURATED_TABLE,
        columns=(CuratedTable,),
        links={"card": CARD},
        retry_policy=retry_on_outage(),
        group=HUB,
    )

    @asset(declared)
    def push_dataset(context: dg.AssetExecutionContext, store: StoreParam) -> dg.MaterializeResult[None]:
        refuse_to_push_with_others(context)
        curated = store.current(CURATED)
        if license_id is None:
            raise ValueError(f"pushing dataset {repository} needs its license: name one as hub.dataset_license in the "
                             "profile, such as cc-by-4.0")  # fmt: skip
        with TemporaryDirectory() as copy:
            write_publication(curated, Path(copy), license_id)
            message = f"Future-L1-50K, version {curated.version}"
            commit = push_folder(Path(copy), repository, "dataset", message, replace=[CHANGE])
        pushed = {"commit": dg.MetadataValue.url(commit)}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(curated.version), metadata=metadata_of(store, declared, curated) | pushed
        )

    return push_dataset
