"""`reports/latent_necessity` and `reports/comparison`: what the numbers of all models say together."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.answering import CODE as ANSWERING_CODE
from assets.answering import Asked, Job, answer_all
from assets.benchmarks.assets import (
    FUTURE_ANSWERS,
    FUTURE_CODE,
    FUTURE_ITEMS,
    FUTURE_REPORT,
    GRADED_TABLE,
    ITEM_TABLE,
    REPORT,
    TEAM,
    TWIFF_REPORT,
)
from assets.checkpoints.assets import MODEL
from assets.curation.assets import CURATED
from assets.launcher import Launcher
from assets.partitions import Checkpoints
from assets.settings import BenchmarkSettings
from assets.store import AssetStore, batch_result, code_of, read_json, result_of, write_json
from evaluation import futurebench
from evaluation.necessity import necessity_report
from evaluation.report import RunReports, html_page, markdown_page, paired_rows

NECESSITY = "reports/latent_necessity"
INTERVENED = "reports/intervened_answers"
COMPARISON = "reports/comparison"
PAGE = "comparison.html"
TEXT = "comparison.md"

NECESSITY_CODE = code_of("evaluation/necessity.py", "evaluation/statistics.py")
COMPARISON_CODE = code_of("evaluation/report.py", "evaluation/figures.py")


def sampled_items(items: pl.DataFrame, n: int | None) -> pl.DataFrame:
    """`n` of the items that can be asked, the same on every machine: those whose id hashes lowest."""
    asked = items.filter(pl.col("problem").is_null())
    hashed = asked["id"].map_elements(lambda name: hashlib.sha256(name.encode()).hexdigest(), return_dtype=pl.String)
    return asked.with_columns(hashed.alias("order")).sort("order").drop("order").head(n or asked.height)


def report_assets(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str
) -> list[dg.AssetsDefinition]:
    return [_latent_necessity(settings, checkpoints, seed, device), _comparison(checkpoints)]


def _latent_necessity(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str
) -> dg.AssetsDefinition:
    run, chosen = settings.futurebench, settings.necessity
    code = f"{NECESSITY_CODE}-{FUTURE_CODE}-{ANSWERING_CODE}"

    @dg.op(
        name="intervene_on_latents",
        pool="gpu",
        ins={"items": dg.In(dg.Nothing), "answers": dg.In(dg.Nothing)},
        out={"report": dg.Out(dg.Nothing, code_version=code)},
        description="The same items answered with something else in place of the model's own latents.",
    )
    def intervene_on_latents(
        context: dg.AssetExecutionContext, store: dg.ResourceParam[AssetStore], launcher: dg.ResourceParam[Launcher]
    ) -> Iterator[dg.MaterializeResult[None]]:
        items = store.current(FUTURE_ITEMS)
        prompts = partial(_sampled_prompts, store, settings)
        wanted = {}
        for model in context.partition_keys:
            name, partition = checkpoints.artifact(model)
            checkpoint = store.current(name, partition)
            config = {
                "answers": run.answers.model_dump(mode="json"),
                "interventions": chosen.interventions,
                "n": chosen.n,
                "seed": seed,
            }
            work = store.work(INTERVENED, {FUTURE_ITEMS: items, "checkpoint": checkpoint}, config, code, model)
            jobs = [Job(i, checkpoint.path / MODEL, prompts, run.answers, seed, i) for i in chosen.interventions]
            wanted[f"{INTERVENED}/{model}"] = Asked(work, jobs)
        answers = answer_all(context, store, launcher, device, wanted)

        def compare(workspace: Path, model: str) -> dict[str, Any]:
            table = sampled_items(pl.read_parquet(items.file(ITEM_TABLE)), chosen.n)
            graded = partial(futurebench.graded, table, parser=run.recipe.parser)
            own = graded(answers=pl.read_parquet(store.current(FUTURE_ANSWERS, model).file("answers.parquet")))
            changed = answers[f"{INTERVENED}/{model}"]
            report = necessity_report(
                own,
                {i: graded(answers=pl.read_parquet(changed.file(f"{i}.parquet"))) for i in chosen.interventions},
            )
            write_json(workspace / REPORT, report)
            return {
                "verdict": report["verdict"],
                "own_accuracy": report["own"]["accuracy"],
                **{f"accuracy_{i}": row["accuracy"]["accuracy"] for i, row in report["interventions"].items()},
                "n": report["own"]["n"],
            }

        reports = {}
        for model in context.partition_keys:
            inputs = {
                INTERVENED: answers[f"{INTERVENED}/{model}"],
                FUTURE_ANSWERS: store.current(FUTURE_ANSWERS, model),
            }
            work = store.work(NECESSITY, inputs, {"parser": run.recipe.parser}, code, model)
            reports[model] = work.do(partial(compare, model=model))
        yield batch_result(context, NECESSITY, reports)

    assets = dg.AssetsDefinition.from_op(
        intervene_on_latents,
        keys_by_input_name={
            "items": dg.AssetKey(FUTURE_ITEMS.split("/")),
            "answers": dg.AssetKey(FUTURE_ANSWERS.split("/")),
        },
        keys_by_output_name={"report": dg.AssetKey(NECESSITY.split("/"))},
        group_name="reports",
        partitions_def=checkpoints.model_partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    return assets.map_asset_specs(lambda spec: spec.replace_attributes(owners=TEAM, kinds={"torch", "json"}))


def _sampled_prompts(store: AssetStore, settings: BenchmarkSettings) -> pl.DataFrame:
    items = sampled_items(pl.read_parquet(store.current(FUTURE_ITEMS).file(ITEM_TABLE)), settings.necessity.n)
    return futurebench.prompts(items, settings.futurebench.recipe)


def run_reports(store: AssetStore, checkpoints: Checkpoints) -> RunReports:
    """What is reported of this profile's models, from the artifacts that are current."""

    def reports(key: str) -> dict[str, dict[str, Any]]:
        return {
            model: read_json(store.current(key, model).file(REPORT))
            for model in checkpoints.models
            if store.has(key, model)
        }

    future = reports(FUTURE_REPORT)
    graded = {model: pl.read_parquet(store.current(FUTURE_REPORT, model).file(GRADED_TABLE)) for model in future}
    everything = store.everything()
    seconds: dict[str, float] = {}
    for name, artifact in everything.items():
        asset = "/".join(name.split("/")[:2])
        seconds[asset] = seconds.get(asset, 0.0) + artifact.provenance["seconds"]
    return RunReports(
        curation=store.current(CURATED).provenance["counts"],
        futurebench=future,
        twiffbench=reports(TWIFF_REPORT),
        necessity=reports(NECESSITY),
        paired=paired_rows(graded, checkpoints.rl),
        seconds=seconds,
        provenance={name: artifact.version for name, artifact in everything.items()},
    )


def _comparison(checkpoints: Checkpoints) -> dg.AssetsDefinition:
    @dg.asset(
        key=dg.AssetKey(COMPARISON.split("/")),
        deps=[dg.AssetKey(key.split("/")) for key in (FUTURE_REPORT, TWIFF_REPORT, NECESSITY, CURATED)],
        group_name="reports",
        kinds={"html", "matplotlib"},
        owners=TEAM,
        code_version=COMPARISON_CODE,
        description="Our models beside the published rows: tables, figures and provenance on one self-contained page.",
    )
    def reports_comparison(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        reports = run_reports(store, checkpoints)
        if not reports.futurebench:
            raise dg.Failure("no model has a FutureBench report yet: materialise some", allow_retries=False)

        def write(workspace: Path) -> dict[str, Any]:
            title, subtitle = "Future-L1: comparison", f"Models: {', '.join(reports.futurebench)}"
            text = markdown_page(reports, title, subtitle)
            (workspace / PAGE).write_text(html_page(reports, title, subtitle))
            (workspace / TEXT).write_text(text)
            write_json(workspace / REPORT, reports.model_dump(mode="json"))
            return {"models": list(reports.futurebench)}

        inputs = {
            name: version
            for name, version in reports.provenance.items()
            if name == CURATED or name.startswith((f"{FUTURE_REPORT}/", f"{TWIFF_REPORT}/", f"{NECESSITY}/"))
        }
        artifact = store.work(COMPARISON, inputs, {"models": checkpoints.models}, COMPARISON_CODE).do(write)
        result = result_of(artifact)
        page = {
            "page": dg.MetadataValue.path(artifact.file(PAGE)),
            "report": dg.MetadataValue.md(artifact.file(TEXT).read_text()),
        }
        return result._replace(metadata={**(result.metadata or {}), **page})

    return reports_comparison
