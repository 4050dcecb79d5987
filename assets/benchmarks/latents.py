"""`reports/latent_retrieval` and `reports/latent_necessity`: what latents resemble, and whether answers need them."""

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    FUTURE_ANSWERS,
    FUTURE_ITEMS,
    ITEM_TABLE,
    REPORT,
    TWIFF_ANSWERS,
    TWIFF_ITEMS,
)
from assets.benchmarks.settings import BenchmarkSettings, NecessityConfig, NecessitySettings
from assets.curation.assets import SFT_SETS
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import BASE, Checkpoints
from assets.framework.settings import SeedConfig
from assets.framework.store import StoreParam, Work
from assets.generation import AnswerWork, generate_answers
from assets.launching.launcher import LauncherParam, Start
from evaluation.benchmarks.benchmark import StoredAnswers, sample_items
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.jobs import AnswerJob, InterventionName
from evaluation.generation.program import PROGRAM
from evaluation.latents.necessity import necessity_report
from evaluation.latents.retrieval_report import MEAN_FILE, PICTURE_FILE, REPORT_FILE
from training.storage.artifacts import MODEL, Artifact
from training.storage.files import read_json, write_json
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

LATENT_RETRIEVAL, NECESSITY = "reports/latent_retrieval", "reports/latent_necessity"
INTERVENED = "reports/intervened_answers"
TARGET_SET = "future_l1.parquet"
"""The SFT set whose mean latent target stands in for latents."""
FIGURES = ("interventions.png", "controls.png")

RETRIEVAL_PROGRAM = "evaluation.latent_retrieval"
RETRIEVAL_CODE = code_of(RETRIEVAL_PROGRAM)
INTERVENED_CODE = code_of(FutureBench.__module__, PROGRAM)
NECESSITY_CODE = code_of(FutureBench.__module__, "evaluation.latents.necessity", "evaluation.drawing.latent_plots")


def latent_retrieval_asset(checkpoints: Checkpoints, latents: int, seed: int, device: str) -> dg.AssetsDefinition:
    """`latents`: L_max of the SFT recipes, at which the base model's features are compared."""

    declared = Asset(
        LATENT_RETRIEVAL,
        "Future-frame retrieval: where the true future frame ranks for every latent span, and pictures of it.",
        kinds=("torch", "json"),
        code_version=RETRIEVAL_CODE,
        deps=(TWIFF_ITEMS, TWIFF_ANSWERS, SFT_SETS),
        partitions=checkpoints.model_partitioning(),
        previews=(PICTURE_FILE,),
        links={"report": REPORT_FILE},
    )

    @asset(declared, pool="gpu")
    def latent_retrieval(
        context: dg.AssetExecutionContext, config: SeedConfig, store: StoreParam, launcher: LauncherParam
    ) -> Iterator[dg.MaterializeResult[None]]:
        items, sets = store.current(TWIFF_ITEMS), store.current(SFT_SETS)
        settings = {"seed": seed, "latents": latents} | config.values()
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


def necessity_asset(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str
) -> dg.AssetsDefinition:
    recipe, generation = settings.futurebench.recipe, settings.futurebench.answers
    benchmark = FutureBench(recipe)
    declared = Asset(
        NECESSITY,
        "The same items, answered with replaced latents (interventions) or from changed prompts (controls).",
        kinds=("torch", "json"),
        code_version=NECESSITY_CODE,
        deps=(FUTURE_ITEMS, FUTURE_ANSWERS, LATENT_RETRIEVAL),
        partitions=checkpoints.model_partitioning(),
        previews=FIGURES,
        links={"report": REPORT},
    )

    @asset(declared, pool="gpu")
    def compare_interventions(
        context: dg.AssetExecutionContext, config: NecessityConfig, store: StoreParam, launcher: LauncherParam
    ) -> Iterator[dg.MaterializeResult[None]]:
        chosen = settings.necessity.model_copy(update=config.values())
        values = chosen.model_dump(mode="json", exclude={"models"})
        values |= {"answers": generation.model_dump(mode="json"), "seed": seed}
        items = store.current(FUTURE_ITEMS)
        table = sample_items(read_parquet(items.file(ITEM_TABLE)).filter(pl.col("problem").is_null()), chosen.n)
        wanted = {}
        for model in context.partition_keys:
            checkpoint, means = store.current(*checkpoints.artifact(model)), store.current(LATENT_RETRIEVAL, model)
            inputs = {FUTURE_ITEMS: items, "checkpoint": checkpoint, LATENT_RETRIEVAL: means}
            work = store.work(INTERVENED, inputs, values, INTERVENED_CODE, model)
            job = partial(AnswerJob, checkpoint=checkpoint.folder(MODEL), generation=generation, seed=seed)
            mean = {"mean": means.file(MEAN_FILE)}
            jobs: dict[str, partial[AnswerJob]] = {
                name: partial(job, intervention=name, reference_latents=mean.get(name))
                for name in _interventions(chosen, model)
            }
            jobs |= {name: partial(job, control=name) for name in chosen.controls}
            wanted[f"{INTERVENED}/{model}"] = AnswerWork(work, partial(benchmark.prompts, table), jobs)
        answers = generate_answers(context, store, launcher, device, wanted)
        changed = {model: answers[f"{INTERVENED}/{model}"] for model in context.partition_keys}

        def compare(workspace: Path, model: str, original: Artifact) -> dict[str, Any]:
            def graded(answers: Artifact, file: str, control: str = "none") -> pl.DataFrame:
                return benchmark.grade(table, StoredAnswers(read_parquet(answers.file(file)), control))

            report = necessity_report(
                graded(original, ANSWER_TABLE),
                {name: graded(changed[model], f"{name}.parquet") for name in _interventions(chosen, model)},
                {name: graded(changed[model], f"{name}.parquet", name) for name in chosen.controls},
                read_parquet(original.file(ANSWER_TABLE)),
            )
            write_json(workspace / REPORT, report)
            for name, figure in _figures(model, report).items():
                (workspace / name).write_bytes(figure)
            rows = report["interventions"] | report["controls"]
            return {
                "verdict": report["verdict"],
                "original_accuracy": report["original"]["accuracy"],
                **{f"accuracy_{name}": row["accuracy"]["accuracy"] for name, row in rows.items()},
                "n": report["original"]["n"],
            }

        reports = {}
        for model in context.partition_keys:
            original = store.current(FUTURE_ANSWERS, model)
            inputs = {INTERVENED: changed[model], FUTURE_ANSWERS: original}
            work = store.work(NECESSITY, inputs, {"parser": recipe.parser}, NECESSITY_CODE, model)
            reports[model] = work.do(partial(compare, model=model, original=original))
        yield batch_result(context, store, declared, reports)

    return compare_interventions


def _interventions(settings: NecessitySettings, model: str) -> tuple[InterventionName, ...]:
    """A base model has no latents."""
    return () if model == BASE else settings.interventions


def _figures(model: str, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Changes of accuracy with intervals, by file name; a base model has no interventions."""
    from evaluation.drawing.latent_plots import controls, interventions

    figures = zip(FIGURES, ("interventions", "controls"), (interventions, controls), strict=True)
    return {name: draw({model: report}) for name, part, draw in figures if report[part]}
