"""Benchmarks of every model: items, answers (one program for all that is missing), and reports."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.answering import CODE as ANSWERING_CODE
from assets.answering import Asked, Job, answer_all
from assets.checkpoints.assets import MODEL
from assets.launcher import Launcher
from assets.partitions import Checkpoints
from assets.resources import JudgeAccess
from assets.settings import BenchmarkSettings, SourceSettings
from assets.store import AssetStore, batch_result, code_of, read_json, result_of, write_json
from evaluation.answering.ledger import keyed
from evaluation.benchmarks import futurebench, twiffbench
from evaluation.reports.storyboard import BOARDS, write_storyboards
from training.artifacts import file_digest
from training.grading.judge import Judge

FUTURE_ITEMS, FUTURE_ANSWERS, FUTURE_REPORT = "futurebench/items", "futurebench/answers", "futurebench/report"
TWIFF_ITEMS, TWIFF_ANSWERS, TWIFF_REPORT = "twiffbench/items", "twiffbench/answers", "twiffbench/report"

ITEM_TABLE = "items.parquet"
ANSWER_TABLE = "answers.parquet"
GRADED_TABLE = "graded.parquet"
REPORT = "report.json"

FUTURE_CODE = code_of(
    *(f"evaluation/benchmarks/{name}.py" for name in ("choice", "cost", "futurebench")),
    "evaluation/reports/storyboard.py",
    "evaluation/statistics.py",
    "training/grading/parsers.py",
)
TWIFF_CODE = code_of(
    *(f"evaluation/benchmarks/{name}.py" for name in ("cleanup", "cost", "judged", "twiffbench")),
    "evaluation/statistics.py",
    "training/grading",
)
TEAM = ["team:evaluation"]


def benchmark_assets(
    settings: BenchmarkSettings,
    source: SourceSettings,
    checkpoints: Checkpoints,
    upstream: list[dg.AssetKey],
    seed: int,
    device: str,
) -> list[dg.AssetsDefinition]:
    return [
        *_items(settings, source, upstream),
        _answers(settings, checkpoints, seed, device),
        _futurebench_report(settings, checkpoints),
        _twiffbench_report(settings, checkpoints),
    ]


def _items(
    settings: BenchmarkSettings, source: SourceSettings, upstream: list[dg.AssetKey]
) -> list[dg.AssetsDefinition]:
    def common(key: str, group: str, code: str) -> dict[str, Any]:
        return {
            "key": dg.AssetKey(key.split("/")), "deps": upstream, "group_name": group, "kinds": {"polars", "parquet"},
            "owners": TEAM, "code_version": code,
        }  # fmt: skip

    @dg.asset(
        **common(FUTURE_ITEMS, "benchmarks", FUTURE_CODE),
        description="FutureBench's four-way items with the clips of their observed parts.",
    )
    def futurebench_items(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        folder, recipe = source.futurebench.resolve(), settings.futurebench.recipe

        def read(workspace: Path) -> dict[str, Any]:
            return _write_items(workspace, futurebench.items(folder, recipe), "question_type")

        inputs = {"futurebench.json": file_digest(_existing(folder / "futurebench.json"))}
        config = {"folder": str(folder), "recipe": recipe.model_dump(mode="json")}
        return result_of(store.work(FUTURE_ITEMS, inputs, config, FUTURE_CODE).do(read), ITEM_TABLE)

    @dg.asset(
        **common(TWIFF_ITEMS, "benchmarks", TWIFF_CODE),
        description="TwiFF-Bench's items with their embedded images and reference reasoning.",
    )
    def twiffbench_items(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        folder = _existing(source.twiffbench.resolve())

        def read(workspace: Path) -> dict[str, Any]:
            return _write_items(workspace, twiffbench.items(folder), "category")

        inputs = {path.name: file_digest(path) for path in sorted(folder.glob("test-*.parquet"))}
        return result_of(store.work(TWIFF_ITEMS, inputs, {}, TWIFF_CODE).do(read), ITEM_TABLE)

    return [futurebench_items, twiffbench_items]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise dg.Failure(f"the benchmark is not at {path}: download it, or materialise toyworld/source in the demo",
                         allow_retries=False)  # fmt: skip
    return path


def _write_items(workspace: Path, items: pl.DataFrame, by: str) -> dict[str, Any]:
    items.write_parquet(workspace / ITEM_TABLE)
    problems = items["problem"].drop_nulls()
    return {
        "items": items.height,
        "cannot_be_asked": len(problems),
        "problems": dict(problems.value_counts(sort=True).iter_rows()),
        f"by_{by}": dict(items[by].drop_nulls().value_counts(sort=True).iter_rows()),
    }


def _answers(settings: BenchmarkSettings, checkpoints: Checkpoints, seed: int, device: str) -> dg.AssetsDefinition:
    """Both benchmarks in one op: what any model still owes is answered by one start of the program."""
    future_code, twiff_code = f"{FUTURE_CODE}-{ANSWERING_CODE}", f"{TWIFF_CODE}-{ANSWERING_CODE}"

    @dg.op(
        name="answer_benchmarks",
        pool="gpu",
        ins={name: dg.In(dg.Nothing) for name in ("future_items", "twiff_items", "base", "sft", "rl")},
        out={
            "futurebench": dg.Out(dg.Nothing, code_version=future_code),
            "twiffbench": dg.Out(dg.Nothing, code_version=twiff_code),
        },
        description="Every model answers both benchmarks, greedily.",
    )
    def answer_benchmarks(
        context: dg.AssetExecutionContext, store: dg.ResourceParam[AssetStore], launcher: dg.ResourceParam[Launcher]
    ) -> Iterator[dg.MaterializeResult[None]]:
        future, twiff = settings.futurebench, settings.twiffbench
        future_prompts = cache(lambda: _prompts(store, FUTURE_ITEMS, futurebench.prompts, future.recipe))
        twiff_prompts = cache(lambda: _prompts(store, TWIFF_ITEMS, twiffbench.prompts, twiff.recipe))
        benchmarks = [
            (FUTURE_ANSWERS, FUTURE_ITEMS, future_prompts, future.answers, future_code),
            (TWIFF_ANSWERS, TWIFF_ITEMS, twiff_prompts, twiff.answers, twiff_code),
        ]
        wanted = {}
        for model in context.partition_keys:
            name, partition = checkpoints.artifact(model)
            checkpoint = store.current(name, partition)
            for key, items, prompts, asked, code in benchmarks:
                inputs = {items: store.current(items), "checkpoint": checkpoint}
                config = {"answers": asked.model_dump(mode="json"), "seed": seed}
                sampling = asked.model_dump(mode="json", exclude={"batch_size", "samples"})
                about = {"model": checkpoint.version, "sampling": sampling, "seed": seed}
                ledger = store.ledger("benchmarks", about) / f"{key.partition('/')[0]}.jsonl"
                wanted[f"{key}/{model}"] = Asked(
                    store.work(key, inputs, config, code, model),
                    [Job("answers", checkpoint.path / MODEL, prompts, asked, seed, keep_latents=True, ledger=ledger)],
                )
        artifacts = answer_all(context, store, launcher, device, wanted)
        for key, *_ in benchmarks:
            own = {model: artifacts[f"{key}/{model}"] for model in context.partition_keys}
            yield batch_result(context, key, own, ANSWER_TABLE)

    answers = dg.AssetsDefinition.from_op(
        answer_benchmarks,
        keys_by_input_name={
            "future_items": dg.AssetKey(FUTURE_ITEMS.split("/")),
            "twiff_items": dg.AssetKey(TWIFF_ITEMS.split("/")),
            "base": dg.AssetKey(["checkpoints", "base"]),
            "sft": dg.AssetKey(["checkpoints", "sft"]),
            "rl": dg.AssetKey(["checkpoints", "rl"]),
        },
        keys_by_output_name={
            "futurebench": dg.AssetKey(FUTURE_ANSWERS.split("/")),
            "twiffbench": dg.AssetKey(TWIFF_ANSWERS.split("/")),
        },
        group_name="benchmarks",
        partitions_def=checkpoints.model_partitions,
        partition_mappings={"sft": checkpoints.sft_to_models(), "rl": checkpoints.rl_to_models()},
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    return answers.map_asset_specs(lambda spec: spec.replace_attributes(owners=TEAM, kinds={"torch", "parquet"}))


def _prompts(store: AssetStore, items: str, make: Any, recipe: Any) -> pl.DataFrame:
    return keyed(make(pl.read_parquet(store.current(items).file(ITEM_TABLE)), recipe))


def _futurebench_report(settings: BenchmarkSettings, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    recipe = settings.futurebench.recipe

    @dg.asset(
        key=dg.AssetKey(FUTURE_REPORT.split("/")),
        deps=[dg.AssetKey(FUTURE_ITEMS.split("/")), dg.AssetKey(FUTURE_ANSWERS.split("/"))],
        partitions_def=checkpoints.model_partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="benchmarks",
        kinds={"polars", "json"},
        owners=TEAM,
        code_version=FUTURE_CODE,
        description="FutureBench accuracy by split and on average with counts and intervals, spans by depth, and cost.",
    )
    def futurebench_report(
        context: dg.AssetExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.MaterializeResult[None]:
        items = store.current(FUTURE_ITEMS)

        def score(workspace: Path, model: str) -> dict[str, Any]:
            table = pl.read_parquet(items.file(ITEM_TABLE))
            answers = pl.read_parquet(store.current(FUTURE_ANSWERS, model).file(ANSWER_TABLE))
            report = futurebench.report(table, answers, recipe)
            futurebench.graded(table, answers, recipe.parser).write_parquet(workspace / GRADED_TABLE)
            write_json(workspace / REPORT, report)
            write_storyboards(items.file(ITEM_TABLE), workspace / GRADED_TABLE, workspace, model)
            return {"average": report["average"], "splits": report["splits"], "unparsed": report["unparsed"]["count"]}

        reports = {}
        for model in context.partition_keys:
            inputs = {FUTURE_ITEMS: items, FUTURE_ANSWERS: store.current(FUTURE_ANSWERS, model)}
            work = store.work(FUTURE_REPORT, inputs, recipe.model_dump(mode="json"), FUTURE_CODE, model)
            reports[model] = work.do(partial(score, model=model))
        result = batch_result(context, FUTURE_REPORT, reports, GRADED_TABLE, *BOARDS)
        for model, artifact in reports.items():
            accuracy = read_json(artifact.file(REPORT))["average"]["accuracy"]
            context.add_asset_metadata({"accuracy": accuracy}, partition_key=model)
        return result

    return futurebench_report


def _twiffbench_report(settings: BenchmarkSettings, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    recipe = settings.twiffbench.recipe

    @dg.asset(
        key=dg.AssetKey(TWIFF_REPORT.split("/")),
        deps=[dg.AssetKey(TWIFF_ITEMS.split("/")), dg.AssetKey(TWIFF_ANSWERS.split("/"))],
        partitions_def=checkpoints.model_partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="benchmarks",
        kinds={"openai", "json"},
        owners=TEAM,
        code_version=TWIFF_CODE,
        description="TwiFF-Bench's CoT and answer marks with counts and intervals, by category; what was judged.",
    )
    def twiffbench_report(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[AssetStore],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> dg.MaterializeResult[None]:
        items = store.current(TWIFF_ITEMS)

        def score(workspace: Path, model: str) -> dict[str, Any]:
            with judge.settings() as address:
                if address is None:
                    raise dg.Failure("TwiFF-Bench is scored by a judge: name one in the profile", allow_retries=False)
                asked = Judge(address)
                table = pl.read_parquet(items.file(ITEM_TABLE))
                answers = pl.read_parquet(store.current(TWIFF_ANSWERS, model).file(ANSWER_TABLE))
                scores = twiffbench.judged(table, answers, asked, recipe)
                report = twiffbench.report(table, scores, recipe, asked)
            scores.write_parquet(workspace / GRADED_TABLE)
            write_json(workspace / REPORT, report)
            return {mark: report[mark] for mark in twiffbench.MARKS} | {"coverage": report["coverage"]}

        config: Mapping[str, Any] = {"recipe": recipe.model_dump(mode="json"), "judge": judge.name}
        reports = {}
        for model in context.partition_keys:
            inputs = {TWIFF_ITEMS: items, TWIFF_ANSWERS: store.current(TWIFF_ANSWERS, model)}
            work = store.work(TWIFF_REPORT, inputs, config, TWIFF_CODE, model)
            reports[model] = work.do(partial(score, model=model))
        return batch_result(context, TWIFF_REPORT, reports, GRADED_TABLE)

    return twiffbench_report
