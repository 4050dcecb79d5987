"""`reports/latent_necessity`: answers with replaced latents (interventions) and to changed prompts (controls)."""

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
)
from assets.benchmarks.latent_retrieval import LATENT_RETRIEVAL
from assets.benchmarks.settings import BenchmarkSettings, NecessityConfig
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import BASE, Checkpoints
from assets.framework.store import AssetStore, write_json
from assets.generation import AnswerWork, generate_answers
from assets.launching.launcher import Launcher
from evaluation.benchmarks.benchmark import StoredAnswers, sample_items
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.jobs import AnswerJob
from evaluation.generation.program import PROGRAM
from evaluation.latents.necessity import necessity_report
from evaluation.latents.retrieval_report import MEAN_FILE
from training.storage.artifacts import MODEL
from training.storage.parquet import read_parquet

NECESSITY = "reports/latent_necessity"
INTERVENED = "reports/intervened_answers"
FIGURES = ("interventions.png", "controls.png")

INTERVENED_CODE = code_of(FutureBench.__module__, PROGRAM)
NECESSITY_CODE = code_of(FutureBench.__module__, "evaluation.latents.necessity", "evaluation.drawing.latent_plots")


def necessity_asset(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str
) -> dg.AssetsDefinition:
    run = settings.futurebench
    benchmark = FutureBench(run.recipe)
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
        context: dg.AssetExecutionContext,
        config: NecessityConfig,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
    ) -> Iterator[dg.MaterializeResult[None]]:
        chosen = settings.necessity.model_copy(update=config.values())
        items = store.current(FUTURE_ITEMS)
        table = sample_items(read_parquet(items.file(ITEM_TABLE)).filter(pl.col("problem").is_null()), chosen.n)
        prompts = partial(benchmark.prompts, table)
        # A base model has no latents.
        on_latents = {model: () if model == BASE else chosen.interventions for model in context.partition_keys}
        wanted = {}
        for model in context.partition_keys:
            name, partition = checkpoints.artifact(model)
            checkpoint = store.current(name, partition)
            means = store.current(LATENT_RETRIEVAL, model)
            config_values = {
                "answers": run.answers.model_dump(mode="json"),
                "interventions": chosen.interventions,
                "controls": chosen.controls,
                "n": chosen.n,
                "seed": seed,
            }
            inputs = {FUTURE_ITEMS: items, "checkpoint": checkpoint, LATENT_RETRIEVAL: means}
            work = store.work(INTERVENED, inputs, config_values, INTERVENED_CODE, model)
            job = partial(AnswerJob, checkpoint=checkpoint.folder(MODEL), generation=run.answers, seed=seed)
            mean = {"mean": means.file(MEAN_FILE)}
            jobs: dict[str, partial[AnswerJob]] = {
                i: partial(job, intervention=i, reference_latents=mean.get(i)) for i in on_latents[model]
            }  # fmt: skip
            jobs |= {control: partial(job, control=control) for control in chosen.controls}
            wanted[f"{INTERVENED}/{model}"] = AnswerWork(work, prompts, jobs)
        answers = generate_answers(context, store, launcher, device, wanted)

        def compare(workspace: Path, model: str) -> dict[str, Any]:
            original = read_parquet(store.current(FUTURE_ANSWERS, model).file(ANSWER_TABLE))
            changed = answers[f"{INTERVENED}/{model}"]

            def under(name: str, control: str = "none") -> pl.DataFrame:
                answers = read_parquet(changed.file(f"{name}.parquet"))
                return benchmark.grade(table, StoredAnswers(answers, control))

            report = necessity_report(
                benchmark.grade(table, StoredAnswers(original)),
                {i: under(i) for i in on_latents[model]},
                {c: under(c, c) for c in chosen.controls},
                original,
            )
            write_json(workspace / REPORT, report)
            for name, figure in _figures(model, report).items():
                (workspace / name).write_bytes(figure)
            return {
                "verdict": report["verdict"],
                "original_accuracy": report["original"]["accuracy"],
                **{
                    f"accuracy_{name}": row["accuracy"]["accuracy"]
                    for name, row in (report["interventions"] | report["controls"]).items()
                },
                "n": report["original"]["n"],
            }

        reports = {}
        for model in context.partition_keys:
            inputs = {
                INTERVENED: answers[f"{INTERVENED}/{model}"],
                FUTURE_ANSWERS: store.current(FUTURE_ANSWERS, model),
            }
            work = store.work(NECESSITY, inputs, {"parser": run.recipe.parser}, NECESSITY_CODE, model)
            reports[model] = work.do(partial(compare, model=model))
        yield batch_result(context, store, declared, reports)

    return compare_interventions


def _figures(model: str, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Changes of accuracy with intervals, by file name; a base model has no interventions."""
    from evaluation.drawing.latent_plots import controls, interventions

    figures = zip(FIGURES, ("interventions", "controls"), (interventions, controls), strict=True)
    return {name: draw({model: report}) for name, part, draw in figures if report[part]}
