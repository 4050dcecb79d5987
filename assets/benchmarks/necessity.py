"""`reports/intervened_answers` and `reports/latent_necessity`: whether answers need their latents, and what these hold.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.benchmarks.assets import ANSWER_TABLE, FUTURE_ANSWERS, FUTURE_ITEMS, ITEM_TABLE, REPORT
from assets.benchmarks.latents import LATENT_RETRIEVAL
from assets.benchmarks.settings import BenchmarkSettings, Endpoints, NecessityConfig, NecessitySettings
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import BASE, Checkpoints
from assets.framework.retries import retry_on_outage
from assets.framework.store import StoreParam
from assets.generation import AnswerWork, answers_pool, engine_of, generate_answers, next_work
from assets.launching.launcher import LauncherParam
from evaluation.benchmarks.benchmark import StoredAnswers, sample_items
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.jobs import LOCAL_INTERVENTIONS, MEDIATIONS, AnswerJob
from evaluation.generation.program import PROGRAM
from evaluation.latents.diagnostics import DiagnosticTables, diagnostics_report, unexamined
from evaluation.latents.mediation import EFFECTS
from evaluation.latents.necessity import necessity_report
from evaluation.latents.retrieval_report import MEAN_FILE
from training.storage.artifacts import MODEL, Artifact
from training.storage.files import write_json
from training.storage.parquet import read_parquet

INTERVENED, NECESSITY = "reports/intervened_answers", "reports/latent_necessity"
FIGURES = ("interventions.png", "controls.png", "doses.png")
READINGS = "readings"
"""The job, and the table, of the original answers with what their latents say and the attention that they get."""

INTERVENED_CODE = code_of(FutureBench.__module__, PROGRAM)
NECESSITY_CODE = code_of(FutureBench.__module__, "evaluation.latents.diagnostics", "evaluation.drawing.latent_plots")


def necessity_assets(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str, endpoints: Endpoints
) -> list[dg.AssetsDefinition]:
    return [
        _intervened_answers(settings, checkpoints, seed, device, endpoints),
        _latent_necessity(settings, checkpoints),
    ]


def _intervened_answers(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str, endpoints: Endpoints
) -> dg.AssetsDefinition:
    benchmark, generation = FutureBench(settings.futurebench.recipe), settings.futurebench.answers
    necessity, models = settings.necessity, settings.necessity.models
    declared = Asset(
        INTERVENED,
        "FutureBench, answered again with replaced latents (interventions), from changed prompts (controls), and with"
        " both (mediation).",
        kinds=("torch", "parquet"),
        code_version=INTERVENED_CODE,
        deps=(FUTURE_ITEMS, *dict.fromkeys(checkpoints.artifact(model)[0] for model in models), LATENT_RETRIEVAL),
        partitions=checkpoints.model_partitioning(models),
        links={name: f"{name}.parquet" for name in (*necessity.interventions, *necessity.controls, READINGS)},
        retry_policy=retry_on_outage() if endpoints else None,
    )

    @asset(declared, pool=answers_pool(models, endpoints), config=NecessityConfig(n=necessity.n or 0))
    def answer_with_interventions(
        context: dg.AssetExecutionContext, config: NecessityConfig, store: StoreParam, launcher: LauncherParam
    ) -> Iterator[dg.MaterializeResult[None]]:
        chosen = necessity.model_copy(update={"n": config.values()["n"] or None})
        values = {"answers": generation.model_dump(mode="json"), "seed": seed}
        items = store.current(FUTURE_ITEMS)
        prompts = partial(benchmark.prompts, _sampled(items, chosen.n))
        wanted = {}
        for model in context.partition_keys:
            checkpoint, means = store.current(*checkpoints.artifact(model)), store.current(LATENT_RETRIEVAL, model)
            inputs = {FUTURE_ITEMS: items, "checkpoint": checkpoint, LATENT_RETRIEVAL: means}
            wanted_of_model = _for_model(chosen, model, endpoints)
            config_values = wanted_of_model.model_dump(mode="json", exclude={"models"}) | values
            config_values |= engine_of(model, endpoints)
            work = partial(store.work, INTERVENED, config=config_values, code=INTERVENED_CODE, partition=model)
            job = partial(
                AnswerJob,
                checkpoint=checkpoint.folder(MODEL),
                endpoint=endpoints.get(model),
                generation=generation,
                seed=seed,
            )
            mean = {"mean": means.file(MEAN_FILE)}
            jobs: dict[str, partial[AnswerJob]] = {
                name: partial(job, intervention=name, reference_latents=mean.get(name))
                for name in wanted_of_model.interventions
            }
            jobs |= {name: partial(job, control=name) for name in chosen.controls}
            if model != BASE and model not in endpoints:
                jobs[READINGS] = partial(job, read_latents=True)
            for change in wanted_of_model.mediation:
                jobs[change] = partial(job, control=change, keep_latents=True)
                for effect, intervention in zip(EFFECTS[1:], MEDIATIONS, strict=True):
                    jobs[f"{change}.{effect}"] = partial(job, control=change, intervention=intervention)
            if model in endpoints:  # a pending prompt is sent again, and not those that were answered
                versions = {name: artifact.version for name, artifact in inputs.items()}
                ledger = store.ledger("interventions", {"inputs": versions, **config_values})
                jobs = {name: partial(make, ledger=ledger / f"{name}.jsonl") for name, make in jobs.items()}
            wanted[model] = AnswerWork(next_work(work, inputs), prompts, jobs)
        yield batch_result(context, store, declared, generate_answers(context, store, launcher, device, wanted))

    return answer_with_interventions


def _for_model(chosen: NecessitySettings, model: str, endpoints: Endpoints) -> NecessitySettings:
    """What can be done to a model: a base model has no latents, and a server has not all interventions."""
    if model == BASE:
        return chosen.model_copy(update={"interventions": (), "mediation": ()})
    if model in endpoints:
        served = tuple(name for name in chosen.interventions if name not in LOCAL_INTERVENTIONS)
        return chosen.model_copy(update={"interventions": served, "mediation": ()})
    return chosen


def _latent_necessity(settings: BenchmarkSettings, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    benchmark, wanted = FutureBench(settings.futurebench.recipe), settings.necessity
    declared = Asset(
        NECESSITY,
        "What replaced latents cost: accuracy with each intervention and control, paired with the original answers.",
        kinds=("polars", "json"),
        code_version=NECESSITY_CODE,
        deps=(FUTURE_ITEMS, FUTURE_ANSWERS, INTERVENED),
        partitions=checkpoints.model_partitioning(wanted.models),
        previews=FIGURES,
        links={"report": REPORT},
    )

    @asset(declared)
    def compare_interventions(context: dg.AssetExecutionContext, store: StoreParam) -> dg.MaterializeResult[None]:
        items = store.current(FUTURE_ITEMS)

        def compare(
            workspace: Path, model: str, original: Artifact, changed: Artifact, missing: Mapping[str, Any]
        ) -> dict[str, Any]:
            chosen = changed.provenance["config"]
            table = _sampled(items, chosen["n"])

            def graded(answers: Artifact, file: str, control: str = "none") -> pl.DataFrame:
                return benchmark.grade(table, StoredAnswers(read_parquet(answers.file(file)), control))

            answers, first = read_parquet(original.file(ANSWER_TABLE)), graded(original, ANSWER_TABLE)
            changes, read = chosen["mediation"], f"{READINGS}.parquet"
            was_read = read in changed.manifest["files"]
            replaced = {name: graded(changed, f"{name}.parquet") for name in chosen["interventions"]}
            names = dict.fromkeys((*chosen["controls"], *changes))
            controls = {name: graded(changed, f"{name}.parquet", name) for name in names}
            report = necessity_report(first, replaced, controls, answers)
            report |= diagnostics_report(report, DiagnosticTables(
                items=table, original=first, changed=replaced,
                effects={change: {"total": controls[change]} | {
                    effect: graded(changed, f"{change}.{effect}.parquet") for effect in EFFECTS[1:]
                } for change in changes},
                latents={"original": answers}
                | {change: read_parquet(changed.file(f"{change}.parquet")) for change in changes},
                readings=read_parquet(changed.file(read)) if was_read else None,
                repeated=graded(changed, read) if was_read else None,
            ))  # fmt: skip
            report["diagnostics"] |= missing
            report["cost"] = _cost(changed)
            write_json(workspace / REPORT, report)
            for name, figure in _figures(model, report).items():
                (workspace / name).write_bytes(figure)
            rows = report["interventions"] | report["controls"]
            return {
                "verdict": report["verdict"],
                "original_accuracy": report["original"]["accuracy"],
                **{f"accuracy_{name}": row["accuracy"]["accuracy"] for name, row in rows.items()},
                **{f"outcome: {label}": row["outcome"] for label, row in report["diagnostics"].items()},
                "n": report["original"]["n"],
            }

        reports = {}
        for model in context.partition_keys:
            original, changed = store.current(FUTURE_ANSWERS, model), store.current(INTERVENED, model)
            _check_engines(model, original.provenance["config"], changed.provenance["config"])
            inputs = {FUTURE_ITEMS: items, INTERVENED: changed, FUTURE_ANSWERS: original}
            is_served = "engine" in changed.provenance["config"]
            missing = unexamined(wanted.interventions, wanted.mediation) if is_served else {}
            config = {"parser": benchmark.settings.parser, "unexamined": sorted(missing)}
            work = store.work(NECESSITY, inputs, config, NECESSITY_CODE, model)
            reports[model] = work.do(
                partial(compare, model=model, original=original, changed=changed, missing=missing)
            )
        return batch_result(context, store, declared, reports)

    return compare_interventions


def _check_engines(model: str, original: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Raises Failure where the answers that are compared come from two engines, whose rounding differs."""
    engines = [config.get("engine", "this project's") for config in (original, changed)]
    if len(set(engines)) > 1:
        raise dg.Failure(
            f"{model}: the original answers are of the engine {engines[0]}, the changed ones of {engines[1]}: "
            f"materialise {FUTURE_ANSWERS} and {INTERVENED} of this model with one generation.endpoint",
            allow_retries=False,
        )


def _cost(changed: Artifact) -> dict[str, dict[str, float]]:
    """Of each table of answers, their number and the seconds of the device that they took."""
    costs = {}
    for name in sorted(file for file in changed.manifest["files"] if file.endswith(".parquet")):
        table = read_parquet(changed.file(name), columns=("prefill_seconds", "decode_seconds"))
        seconds = float(table.sum().sum_horizontal().item())
        costs[name.removesuffix(".parquet")] = {"answers": table.height, "seconds": seconds}
    return costs


def _sampled(items: Artifact, n: int | None) -> pl.DataFrame:
    """`n` of the usable items, or all."""
    return sample_items(read_parquet(items.file(ITEM_TABLE)).filter(pl.col("problem").is_null()), n)


def _figures(model: str, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Changes of accuracy with intervals, and curves of doses, by file name; a base model has no interventions."""
    from evaluation.drawing.latent_plots import controls, doses, interventions

    parts = ("interventions", "controls", "dose")
    figures = zip(FIGURES, parts, (interventions, controls, doses), strict=True)
    return {name: draw({model: report}) for name, part, draw in figures if report[part]}
