"""`benchmarks/futurebench_report` and `benchmarks/twiffbench_report`: what a model's answers are worth."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    FUTURE,
    FUTURE_ANSWERS,
    FUTURE_ITEMS,
    FUTURE_REPORT,
    GRADED_TABLE,
    ITEM_TABLE,
    REPORT,
    TWIFF,
    TWIFF_ANSWERS,
    TWIFF_ITEMS,
    TWIFF_REPORT,
)
from assets.benchmarks.settings import BenchmarkSettings, JudgeConfig
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import Checkpoints
from assets.framework.resources import JudgeAccess
from assets.framework.retries import after_outages
from assets.framework.store import AssetStore, write_json
from evaluation.benchmarks import futurebench, twiffbench
from evaluation.reports.storyboards import BOARDS, write_storyboards
from training.grading.judge import Judge
from training.storage.parquet import read_parquet

FUTURE_REPORT_CODE = code_of(FUTURE, "evaluation.drawing.score_plots", "evaluation.reports.storyboards")
TWIFF_REPORT_CODE = code_of(TWIFF, "evaluation.drawing.score_plots")
SPLITS_FIGURE, CATEGORIES_FIGURE = "splits.png", "categories.png"


def report_assets(settings: BenchmarkSettings, checkpoints: Checkpoints) -> list[dg.AssetsDefinition]:
    return [_futurebench_report(settings, checkpoints), _twiffbench_report(settings, checkpoints)]


def _futurebench_report(settings: BenchmarkSettings, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    recipe = settings.futurebench.recipe
    declared = Asset(
        FUTURE_REPORT,
        "FutureBench accuracy by split and on average with counts and intervals, spans by depth, and cost.",
        kinds=("polars", "json"),
        code_version=FUTURE_REPORT_CODE,
        deps=(FUTURE_ITEMS, FUTURE_ANSWERS),
        partitions=checkpoints.model_partitioning(),
        table=GRADED_TABLE,
        columns=(futurebench.GradedTable,),
        previews=(SPLITS_FIGURE, *BOARDS),
        links={"report": REPORT},
    )

    @asset(declared)
    def futurebench_report(
        context: dg.AssetExecutionContext, store: dg.ResourceParam[AssetStore]
    ) -> dg.MaterializeResult[None]:
        items = store.current(FUTURE_ITEMS)

        def score(workspace: Path, model: str) -> dict[str, Any]:
            table = read_parquet(items.file(ITEM_TABLE))
            answers = read_parquet(store.current(FUTURE_ANSWERS, model).file(ANSWER_TABLE))
            report = futurebench.report(table, answers, recipe)
            futurebench.graded(table, answers, recipe.parser).write_parquet(workspace / GRADED_TABLE)
            write_json(workspace / REPORT, report)
            (workspace / SPLITS_FIGURE).write_bytes(_splits_figure(model, report))
            write_storyboards(items.file(ITEM_TABLE), workspace / GRADED_TABLE, workspace, model)
            return {
                "accuracy": report["average"]["accuracy"],
                "average": report["average"],
                "splits": report["splits"],
                "unparsed": report["unparsed"]["count"],
            }

        reports = {}
        for model in context.partition_keys:
            inputs = {FUTURE_ITEMS: items, FUTURE_ANSWERS: store.current(FUTURE_ANSWERS, model)}
            work = store.work(FUTURE_REPORT, inputs, recipe.model_dump(mode="json"), FUTURE_REPORT_CODE, model)
            reports[model] = work.do(partial(score, model=model))
        return batch_result(context, store, declared, reports)

    return futurebench_report


def _twiffbench_report(settings: BenchmarkSettings, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    declared = Asset(
        TWIFF_REPORT,
        "TwiFF-Bench's CoT and answer marks with counts and intervals, by category; what was judged.",
        kinds=("openai", "json"),
        code_version=TWIFF_REPORT_CODE,
        deps=(TWIFF_ITEMS, TWIFF_ANSWERS),
        partitions=checkpoints.model_partitioning(),
        table=GRADED_TABLE,
        columns=(twiffbench.ScoreTable,),
        previews=(CATEGORIES_FIGURE,),
        retry_policy=after_outages(),
        links={"report": REPORT},
    )

    @asset(declared)
    def twiffbench_report(
        context: dg.AssetExecutionContext,
        config: JudgeConfig,
        store: dg.ResourceParam[AssetStore],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> dg.MaterializeResult[None]:
        items = store.current(TWIFF_ITEMS)
        recipe = settings.twiffbench.recipe.model_copy(update=config.values())

        def score(workspace: Path, model: str) -> dict[str, Any]:
            with judge.settings() as address:
                if address is None:
                    raise dg.Failure("TwiFF-Bench is scored by a judge: name one in the profile", allow_retries=False)
                asked = Judge(address, on_outage="raise")  # a report once made would not be asked for again
                table = read_parquet(items.file(ITEM_TABLE))
                answers = read_parquet(store.current(TWIFF_ANSWERS, model).file(ANSWER_TABLE))
                scores = twiffbench.judged(table, answers, asked, recipe)
                report = twiffbench.report(table, scores, recipe, asked)
            scores.write_parquet(workspace / GRADED_TABLE)
            write_json(workspace / REPORT, report)
            (workspace / CATEGORIES_FIGURE).write_bytes(_categories_figure(report))
            return {mark: report[mark] for mark in twiffbench.MARKS} | {
                "categories": report["categories"],
                "coverage": report["coverage"],
            }

        told = {"recipe": recipe.model_dump(mode="json"), "judge": judge.name}
        reports = {}
        for model in context.partition_keys:
            inputs = {TWIFF_ITEMS: items, TWIFF_ANSWERS: store.current(TWIFF_ANSWERS, model)}
            work = store.work(TWIFF_REPORT, inputs, told, TWIFF_REPORT_CODE, model)
            reports[model] = work.do(partial(score, model=model))
        return batch_result(context, store, declared, reports)

    return twiffbench_report


def _splits_figure(model: str, report: Mapping[str, Any]) -> bytes:
    """Accuracy by depth and on average, with intervals."""
    from evaluation.drawing.score_plots import accuracy_by_hop

    return accuracy_by_hop({model: report})


def _categories_figure(report: Mapping[str, Any]) -> bytes:
    """Marks of all items and of each category, with intervals."""
    from evaluation.drawing.score_plots import judged_marks

    categories = {name: {**marks, "status": "complete"} for name, marks in report["categories"].items()}
    return judged_marks({"all items": report, **categories})
