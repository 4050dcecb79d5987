"""`reports/latent_necessity`: what becomes of answers when latents are replaced, or the model is shown less."""

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
    ANSWER_TABLE,
    FUTURE_ANSWERS,
    FUTURE_CODE,
    FUTURE_ITEMS,
    ITEM_TABLE,
    REPORT,
    TEAM,
)
from assets.benchmarks.imagination import IMAGINATION, MEAN
from assets.checkpoints.assets import MODEL
from assets.launcher import Launcher
from assets.partitions import BASE, Checkpoints
from assets.settings import BenchmarkSettings
from assets.store import AssetStore, batch_result, code_of, write_json
from evaluation import futurebench
from evaluation.necessity import necessity_report

NECESSITY = "reports/latent_necessity"
INTERVENED = "reports/intervened_answers"

NECESSITY_CODE = code_of(
    *(f"evaluation/{name}.py" for name in ("choice", "collapse", "imagination", "necessity", "phrases", "statistics"))
)


def sampled_items(items: pl.DataFrame, n: int | None) -> pl.DataFrame:
    """`n` of the items that can be asked, the same on every machine: those whose id hashes lowest."""
    asked = items.filter(pl.col("problem").is_null())
    hashed = asked["id"].map_elements(lambda name: hashlib.sha256(name.encode()).hexdigest(), return_dtype=pl.String)
    return asked.with_columns(hashed.alias("order")).sort("order").drop("order").head(n or asked.height)


def necessity_asset(
    settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str
) -> dg.AssetsDefinition:
    run, chosen = settings.futurebench, settings.necessity
    code = f"{NECESSITY_CODE}-{FUTURE_CODE}-{ANSWERING_CODE}"

    @dg.op(
        name="intervene_on_latents",
        pool="gpu",
        ins={"items": dg.In(dg.Nothing), "answers": dg.In(dg.Nothing), "means": dg.In(dg.Nothing)},
        out={"report": dg.Out(dg.Nothing, code_version=code)},
        description="The same items answered with something else in place of the model's own latents, or shown less.",
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
            means = store.current(IMAGINATION, model)
            config = {
                "answers": run.answers.model_dump(mode="json"),
                "interventions": chosen.interventions,
                "controls": chosen.controls,
                "n": chosen.n,
                "seed": seed,
            }
            inputs = {FUTURE_ITEMS: items, "checkpoint": checkpoint, IMAGINATION: means}
            work = store.work(INTERVENED, inputs, config, code, model)
            on_latents = () if model == BASE else chosen.interventions  # an untaught model has none
            job = partial(Job, checkpoint=checkpoint.path / MODEL, prompts=prompts, settings=run.answers, seed=seed)
            mean = {"mean": means.file(MEAN)}
            jobs = [job(name=i, intervention=i, reference_latents=mean.get(i)) for i in on_latents]
            jobs += [job(name=control, control=control) for control in chosen.controls]
            wanted[f"{INTERVENED}/{model}"] = Asked(work, jobs)
        answers = answer_all(context, store, launcher, device, wanted)

        def compare(workspace: Path, model: str) -> dict[str, Any]:
            table = sampled_items(pl.read_parquet(items.file(ITEM_TABLE)), chosen.n)
            graded = partial(futurebench.graded, table, parser=run.recipe.parser)
            own = pl.read_parquet(store.current(FUTURE_ANSWERS, model).file(ANSWER_TABLE))
            changed = answers[f"{INTERVENED}/{model}"]
            found = {
                name: graded(answers=pl.read_parquet(changed.file(f"{name}.parquet")), control=control)
                for name, control in [*((i, "none") for i in chosen.interventions), *((c, c) for c in chosen.controls)]
                if f"{name}.parquet" in changed.manifest["files"]
            }
            report = necessity_report(
                graded(answers=own),
                {name: rows for name, rows in found.items() if name not in chosen.controls},
                {name: rows for name, rows in found.items() if name in chosen.controls},
                own,
            )
            write_json(workspace / REPORT, report)
            return {
                "verdict": report["verdict"],
                "own_accuracy": report["own"]["accuracy"],
                **{
                    f"accuracy_{name}": row["accuracy"]["accuracy"]
                    for name, row in (report["interventions"] | report["controls"]).items()
                },
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
            "means": dg.AssetKey(IMAGINATION.split("/")),
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
