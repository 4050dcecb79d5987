"""`reports/latent_retrieval`: which frames latents resemble."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    ITEM_TABLE,
    TWIFF_ANSWERS,
    TWIFF_ITEMS,
)
from assets.curation.assets import SFT_SETS
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import BASE, Checkpoints
from assets.framework.settings import SeedConfig
from assets.framework.store import StoreParam, Work
from assets.launching.launcher import LauncherParam, Start
from evaluation.latents.retrieval_report import PICTURE_FILE, REPORT_FILE
from training.storage.artifacts import MODEL
from training.storage.files import read_json
from training.storage.hashing import digest

LATENT_RETRIEVAL = "reports/latent_retrieval"
TARGET_SET = "future_l1.parquet"
"""The SFT set whose mean latent target stands in for latents."""

RETRIEVAL_PROGRAM = "evaluation.latent_retrieval"
RETRIEVAL_CODE = code_of(RETRIEVAL_PROGRAM)


def latent_retrieval_asset(
    models: tuple[str, ...], checkpoints: Checkpoints, latents: int, seed: int, device: str
) -> dg.AssetsDefinition:
    """`models`: those whose latents are examined; `latents`: L_max of the SFT recipes, at which the base model's
    features are compared."""

    declared = Asset(
        LATENT_RETRIEVAL,
        "Future-frame retrieval: where the true future frame ranks for every latent span, and pictures of it.",
        kinds=("torch", "json"),
        code_version=RETRIEVAL_CODE,
        deps=(TWIFF_ITEMS, TWIFF_ANSWERS, SFT_SETS),
        partitions=checkpoints.model_partitioning(models),
        previews=(PICTURE_FILE,),
        links={"report": REPORT_FILE},
    )

    @asset(declared, pool="gpu", config=SeedConfig(seed=seed))
    def latent_retrieval(
        context: dg.AssetExecutionContext, config: SeedConfig, store: StoreParam, launcher: LauncherParam
    ) -> Iterator[dg.MaterializeResult[None]]:
        items, sets = store.current(TWIFF_ITEMS), store.current(SFT_SETS)
        settings = {"latents": latents, **config.values()}
        jobs, works = {}, {}
        for model in context.partition_keys:
            name, partition = checkpoints.artifact(model)
            checkpoint, answers = store.current(name, partition), store.current(TWIFF_ANSWERS, model)
            inputs = {TWIFF_ITEMS: items, TWIFF_ANSWERS: answers, SFT_SETS: sets, "checkpoint": checkpoint}
            works[model] = store.work(LATENT_RETRIEVAL, inputs, settings, RETRIEVAL_CODE, model)
            jobs[model] = {
                "name": model,
                "model_kind": "base" if model == BASE else name.rpartition("/")[2],
                "checkpoint": str(checkpoint.folder(MODEL)),
                "answers": str(answers.file(ANSWER_TABLE)),
                "latents": latents if model == BASE else None,
            }

        def run(workspaces: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
            folder = store.scratch / "latent_retrieval" / digest({model: works[model].version for model in workspaces})
            job_config = {
                "device": device,
                "seed": settings["seed"],
                "jobs": [jobs[model] for model in workspaces],
                "items": str(items.file(ITEM_TABLE)),
                "rows": str(sets.file(TARGET_SET)),
            }
            launcher.run_parallel(context, [Start(RETRIEVAL_PROGRAM, folder, job_config)])
            counts = {model: _collect(folder / model, workspace) for model, workspace in workspaces.items()}
            shutil.rmtree(folder)
            return counts

        yield batch_result(context, store, declared, Work.do_together(works, run))

    return latent_retrieval


def _collect(results: Path, workspace: Path) -> dict[str, Any]:
    """Moves a model's files into its workspace; returns the metadata of its materialization."""
    for path in results.iterdir():
        shutil.move(path, workspace / path.name)
    report = read_json(workspace / REPORT_FILE)
    return {"sentence": report["sentence"], "spans": report["n_spans"], "top1": report["true_frame"]["top1"],
            "top1_observed_frame": report["observed_frame"]["top1"]}  # fmt: skip
