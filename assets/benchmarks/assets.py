"""Benchmarks of every model: items, answers (one program for all that is missing), and reports."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.answering import CODE as ANSWERING_CODE
from assets.answering import Asked, Job, answer_all
from assets.checkpoints.assets import BASE, MODEL, RL, SFT
from assets.code import code_of
from assets.configs import TriedAnswers, TriedJudging
from assets.define import Asset, asset, op_assets
from assets.launcher import Launcher
from assets.metadata import batch_result, result_of
from assets.partitions import Checkpoints
from assets.resources import JudgeAccess
from assets.retries import after_outages
from assets.settings import BenchmarkSettings, SourceSettings
from assets.store import AssetStore, write_json
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
    "evaluation/statistics.py",
    "training/grading/parsers.py",
)
TWIFF_CODE = code_of(
    *(f"evaluation/benchmarks/{name}.py" for name in ("cleanup", "cost", "judged", "twiffbench")),
    "evaluation/statistics.py",
    "training/grading",
)
PLOTS_CODE = code_of("evaluation/reports/plots")
FUTURE_REPORT_CODE = f"{FUTURE_CODE}-{code_of('evaluation/reports/storyboard.py')}-{PLOTS_CODE}"
TWIFF_REPORT_CODE = f"{TWIFF_CODE}-{PLOTS_CODE}"
SPLITS_FIGURE, CATEGORIES_FIGURE = "splits.png", "categories.png"


def benchmark_assets(
    settings: BenchmarkSettings,
    source: SourceSettings,
    checkpoints: Checkpoints,
    upstream: tuple[str, ...],
    seed: int,
    device: str,
) -> list[dg.AssetsDefinition]:
    return [
        _futurebench_items(settings, source, upstream),
        _twiffbench_items(source, upstream),
        _answers(settings, checkpoints, seed, device),
        _futurebench_report(settings, checkpoints),
        _twiffbench_report(settings, checkpoints),
    ]


def _futurebench_items(
    settings: BenchmarkSettings, source: SourceSettings, upstream: tuple[str, ...]
) -> dg.AssetsDefinition:
    declared = Asset(
        FUTURE_ITEMS,
        "FutureBench's four-way items with the clips of their observed parts.",
        kinds=("polars", "parquet"),
        code=FUTURE_CODE,
        upstream=upstream,
        table=ITEM_TABLE,
    )

    @asset(declared)
    def futurebench_items(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        folder, recipe = source.futurebench.resolve(), settings.futurebench.recipe

        def read(workspace: Path) -> dict[str, Any]:
            return _write_items(workspace, futurebench.items(folder, recipe), "question_type")

        inputs = {"futurebench.json": file_digest(_existing(folder / "futurebench.json"))}
        config = {"folder": str(folder), "recipe": recipe.model_dump(mode="json")}
        return result_of(store, declared, store.work(FUTURE_ITEMS, inputs, config, FUTURE_CODE).do(read))

    return futurebench_items


def _twiffbench_items(source: SourceSettings, upstream: tuple[str, ...]) -> dg.AssetsDefinition:
    declared = Asset(
        TWIFF_ITEMS,
        "TwiFF-Bench's items with their embedded images and reference reasoning.",
        kinds=("polars", "parquet"),
        code=TWIFF_CODE,
        upstream=upstream,
        table=ITEM_TABLE,
    )

    @asset(declared)
    def twiffbench_items(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        folder = _existing(source.twiffbench.resolve())

        def read(workspace: Path) -> dict[str, Any]:
            return _write_items(workspace, twiffbench.items(folder), "category")

        inputs = {path.name: file_digest(path) for path in sorted(folder.glob("test-*.parquet"))}
        return result_of(store, declared, store.work(TWIFF_ITEMS, inputs, {}, TWIFF_CODE).do(read))

    return twiffbench_items


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

    common: dict[str, Any] = {
        "kinds": ("torch", "parquet"), "upstream": (FUTURE_ITEMS, TWIFF_ITEMS, BASE, SFT, RL),
        "cut": checkpoints.by_model, "table": ANSWER_TABLE,
    }  # fmt: skip
    declared = {
        FUTURE_ANSWERS: Asset(
            FUTURE_ANSWERS,
            "Every model's answers to FutureBench, greedy, with their latents.",
            code=future_code,
            **common,
        ),
        TWIFF_ANSWERS: Asset(
            TWIFF_ANSWERS,
            "Every model's answers to TwiFF-Bench, greedy, with their latents.",
            code=twiff_code,
            **common,
        ),
    }

    @op_assets(
        "answer_benchmarks", *declared.values(), pool="gpu", says="Every model answers both benchmarks, greedily."
    )
    def answer_benchmarks(
        context: dg.AssetExecutionContext,
        config: TriedAnswers,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
    ) -> Iterator[dg.MaterializeResult[None]]:
        future, twiff, tried = settings.futurebench, settings.twiffbench, config.values()
        future_prompts = cache(lambda: _prompts(store, FUTURE_ITEMS, futurebench.prompts, future.recipe))
        twiff_prompts = cache(lambda: _prompts(store, TWIFF_ITEMS, twiffbench.prompts, twiff.recipe))
        benchmarks = [
            (FUTURE_ANSWERS, FUTURE_ITEMS, future_prompts, future.answers.model_copy(update=tried), future_code),
            (TWIFF_ANSWERS, TWIFF_ITEMS, twiff_prompts, twiff.answers.model_copy(update=tried), twiff_code),
        ]
        wanted = {}
        for model in context.partition_keys:
            name, partition = checkpoints.artifact(model)
            checkpoint = store.current(name, partition)
            for key, items, prompts, asked, code in benchmarks:
                inputs = {items: store.current(items), "checkpoint": checkpoint}
                told = {"answers": asked.model_dump(mode="json"), "seed": seed}
                sampling = asked.model_dump(mode="json", exclude={"batch_size", "samples"})
                about = {"model": checkpoint.version, "sampling": sampling, "seed": seed}
                ledger = store.ledger("benchmarks", about) / f"{key.partition('/')[0]}.jsonl"
                wanted[f"{key}/{model}"] = Asked(
                    store.work(key, inputs, told, code, model),
                    [Job("answers", checkpoint.path / MODEL, prompts, asked, seed, keep_latents=True, ledger=ledger)],
                )
        artifacts = answer_all(context, store, launcher, device, wanted)
        for key, *_ in benchmarks:
            own = {model: artifacts[f"{key}/{model}"] for model in context.partition_keys}
            yield batch_result(context, store, declared[key], own)

    return answer_benchmarks


def _prompts(store: AssetStore, items: str, make: Any, recipe: Any) -> pl.DataFrame:
    return keyed(make(pl.read_parquet(store.current(items).file(ITEM_TABLE)), recipe))


def _futurebench_report(settings: BenchmarkSettings, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    recipe = settings.futurebench.recipe
    declared = Asset(
        FUTURE_REPORT,
        "FutureBench accuracy by split and on average with counts and intervals, spans by depth, and cost.",
        kinds=("polars", "json"),
        code=FUTURE_REPORT_CODE,
        upstream=(FUTURE_ITEMS, FUTURE_ANSWERS),
        cut=checkpoints.by_model,
        table=GRADED_TABLE,
        shown=(SPLITS_FIGURE, *BOARDS),
        links={"report": REPORT},
    )

    @asset(declared)
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
        code=TWIFF_REPORT_CODE,
        upstream=(TWIFF_ITEMS, TWIFF_ANSWERS),
        cut=checkpoints.by_model,
        table=GRADED_TABLE,
        shown=(CATEGORIES_FIGURE,),
        retry=after_outages(),
        links={"report": REPORT},
    )

    @asset(declared)
    def twiffbench_report(
        context: dg.AssetExecutionContext,
        config: TriedJudging,
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
                table = pl.read_parquet(items.file(ITEM_TABLE))
                answers = pl.read_parquet(store.current(TWIFF_ANSWERS, model).file(ANSWER_TABLE))
                scores = twiffbench.judged(table, answers, asked, recipe)
                report = twiffbench.report(table, scores, recipe, asked)
            scores.write_parquet(workspace / GRADED_TABLE)
            write_json(workspace / REPORT, report)
            (workspace / CATEGORIES_FIGURE).write_bytes(_categories_figure(model, report))
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
    from evaluation.reports.plots.scores import accuracy_by_hop

    return accuracy_by_hop({model: report})


def _categories_figure(model: str, report: Mapping[str, Any]) -> bytes:
    """Marks of all items and of each category, with intervals."""
    from evaluation.reports.plots.scores import judged_marks

    categories = {name: {**marks, "status": "complete"} for name, marks in report["categories"].items()}
    return judged_marks({model: report, **categories})
