"""What models are trained on: `curation/sft_sets` and `curation/rl_sets`, drawn from the selection."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.curation.assets import (
    CURATED,
    GAIN,
    ITEM_TABLE,
    RL_SETS,
    SFT_SETS,
    gain_tables,
    index_of,
    inputs_of,
    items_of,
    scored_shards,
    upstream_of,
)
from assets.curation.publication import CURATED_TABLE, POOL_TABLE
from assets.curation.sets import random_set, rl_set
from assets.curation.settings import CurationSettings, SetsConfig
from assets.curation.v1_33k import choices
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import result_of
from assets.framework.store import AssetStore
from training.storage.hashing import file_digest
from training.storage.parquet import read_parquet

SFT_SETS_CODE = code_of("assets.curation.sets")
RL_SETS_CODE = code_of("assets.curation.sets", "assets.curation.v1_33k")


def set_assets(settings: CurationSettings, seed: int) -> list[dg.AssetsDefinition]:
    return [_sft_sets(settings, seed), _rl_sets(settings, seed)]


def _sft_sets(settings: CurationSettings, seed: int) -> dg.AssetsDefinition:
    declared = Asset(
        SFT_SETS,
        "What SFT trains on: future_l1, as many random rows, and future_l1 again for text-only training.",
        kinds=("duckdb", "parquet"),
        code=SFT_SETS_CODE,
        upstream=upstream_of(settings, CURATED, GAIN),
        table="future_l1.parquet",
    )

    @asset(declared)
    def curation_sft_sets(
        context: dg.AssetExecutionContext, config: SetsConfig, store: dg.ResourceParam[AssetStore]
    ) -> dg.MaterializeResult[None]:
        drawn = {"seed": seed} | config.values()
        scored, curated, items = scored_shards(context, store), store.current(CURATED), items_of(settings, store)

        def draw(workspace: Path) -> dict[str, Any]:
            selected = read_parquet(curated.file(CURATED_TABLE))
            chance, report = random_set(gain_tables(scored), selected.height, drawn["seed"], index_of(items))
            sets = {"future_l1": selected, "random": chance, "text_only": selected}
            for name, table in sets.items():
                table.write_parquet(workspace / f"{name}.parquet")
            return {"sets": {name: table.height for name, table in sets.items()}, "random": report}

        inputs = {CURATED: curated} | inputs_of(scored, items)
        work = store.work(SFT_SETS, inputs, drawn, SFT_SETS_CODE)
        return result_of(store, declared, work.do(draw))

    return curation_sft_sets


def _rl_sets(settings: CurationSettings, seed: int) -> dg.AssetsDefinition:
    declared = Asset(
        RL_SETS,
        "What RL trains on: retained rows drawn with a seed, and V1-33K's questions where they are given.",
        kinds=("duckdb", "parquet"),
        code=RL_SETS_CODE,
        upstream=upstream_of(settings, CURATED, GAIN),
        table=f"{next(iter(settings.rl_sets))}.parquet",
    )

    @asset(declared)
    def curation_rl_sets(
        context: dg.AssetExecutionContext, config: SetsConfig, store: dg.ResourceParam[AssetStore]
    ) -> dg.MaterializeResult[None]:
        drawn = {"seed": seed} | config.values()
        scored, curated, items = scored_shards(context, store), store.current(CURATED), items_of(settings, store)
        given = settings.choices

        def draw(workspace: Path) -> dict[str, Any]:
            pool, reports = read_parquet(curated.file(POOL_TABLE)), {}
            for name, rows in settings.rl_sets.items():
                table, reports[name] = rl_set(gain_tables(scored), pool, rows, drawn["seed"], settings.rl_avoids_sft)
                table.write_parquet(workspace / f"{name}.parquet")
            if given:
                futurebench = read_parquet(items["futurebench"].file(ITEM_TABLE))
                found = choices(given.rows, given.videos, given.wanted, drawn["seed"], futurebench)
                found.rows.write_parquet(workspace / f"{given.name}.parquet")
                found.quarantine.write_parquet(workspace / f"{given.name}.quarantine.parquet")
                reports[given.name] = found.report
            return {"sets": {name: report["rows"] for name, report in reports.items()}, "reports": reports}

        inputs = {CURATED: curated} | inputs_of(scored, items)
        told = drawn | {"rows": settings.rl_sets, "avoid_sft": settings.rl_avoids_sft}
        if given:
            inputs |= {path.name: file_digest(path) for path in given.rows}
            told["choices"] = given.model_dump(mode="json")
        work = store.work(RL_SETS, inputs, told, RL_SETS_CODE)
        return result_of(store, declared, work.do(draw))

    return curation_rl_sets
