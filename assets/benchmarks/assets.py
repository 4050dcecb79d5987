"""Benchmarks of every model, from one factory: items, answers by one program for all that is missing, and reports."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl

from assets.benchmarks.settings import AnswersConfig, BenchmarkSettings, Endpoints, JudgeConfig
from assets.checkpoints.assets import BASE, RL, SFT
from assets.curation.set_assets import items_key
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.display import NAME, table
from assets.framework.links import COMPARISON_URL
from assets.framework.metadata import batch_result, result_of
from assets.framework.partitions import Checkpoints
from assets.framework.resources import JudgeAccess, JudgeParam
from assets.framework.retries import retry_on_outage
from assets.framework.settings import refuse_unknown_names
from assets.framework.store import AssetStore, StoreParam
from assets.generation import AnswerWork, answers_pool, engine_of, generate_answers, next_work
from assets.launching.launcher import LauncherParam
from assets.trajectories.settings import SourceSettings
from evaluation.benchmarks import choice, twiffbench
from evaluation.benchmarks.benchmark import Benchmark, StoredAnswers
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.benchmarks.judged import JudgedBenchmark
from evaluation.benchmarks.seedbench import SeedBench
from evaluation.benchmarks.twiffbench import TwiffBench
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import AnswerJob
from evaluation.generation.ledger import keyed
from evaluation.generation.program import PROGRAM
from evaluation.reports.parts import percent
from evaluation.reports.storyboards import BOARDS, write_storyboards
from training.data.prompts import BenchmarkAnswerTable, ServedAnswerTable
from training.grading.judge import Judge
from training.storage.artifacts import MODEL, Artifact
from training.storage.files import write_json
from training.storage.hashing import file_digest
from training.storage.parquet import read_parquet

FUTURE_ITEMS, TWIFF_ITEMS, SEED_ITEMS = (items_key(name) for name in ("futurebench", "twiffbench", "seedbench"))
FUTURE_ANSWERS, TWIFF_ANSWERS = "benchmarks/futurebench_answers", "benchmarks/twiffbench_answers"
FUTURE_REPORT, TWIFF_REPORT = "benchmarks/futurebench_report", "benchmarks/twiffbench_report"
SEED_ANSWERS, SEED_REPORT = "benchmarks/seedbench_answers", "benchmarks/seedbench_report"

ITEM_TABLE = "items.parquet"
ANSWER_TABLE = "answers.parquet"
GRADED_TABLE = "graded.parquet"
REPORT = "report.json"
SPLITS_FIGURE = "splits.png"

SCORING_FIELDS = {"judge_sees_images", "judge_samples", "ground_truth"}
"""Fields of a benchmark's recipe that no item and no prompt depends on."""


@dataclass(frozen=True)
class BenchmarkRun:
    """A benchmark of the profile: its folder, how models answer it, and what is written about its assets."""

    benchmark: Benchmark
    folder: Path
    answers: GenerationConfig
    title: str
    items_description: str
    report_description: str
    graded_table: type[dy.Schema]
    storyboards: bool = False

    @property
    def items_key(self) -> str:
        return items_key(self.benchmark.name)

    @property
    def answers_key(self) -> str:
        return f"benchmarks/{self.benchmark.name}_answers"

    @property
    def report_key(self) -> str:
        return f"benchmarks/{self.benchmark.name}_report"

    @property
    def module(self) -> str:
        return type(self.benchmark).__module__


def benchmark_runs(settings: BenchmarkSettings, source: SourceSettings) -> list[BenchmarkRun]:
    """The benchmarks of a profile; SEED-Bench-R1 only where the source names its folder."""
    runs = [
        BenchmarkRun(
            FutureBench(settings.futurebench.recipe),
            source.futurebench,
            settings.futurebench.answers,
            "FutureBench",
            "FutureBench's four-way items with the clips of their observed parts.",
            "FutureBench accuracy by split and on average with counts and intervals, spans by depth, and cost.",
            choice.GradedTable,
            storyboards=True,
        ),
        BenchmarkRun(
            TwiffBench(settings.twiffbench.recipe),
            source.twiffbench,
            settings.twiffbench.answers,
            "TwiFF-Bench",
            "TwiFF-Bench's items with their embedded images and reference reasoning.",
            "TwiFF-Bench's CoT and answer marks with counts and intervals, by category; coverage of the judge.",
            twiffbench.ScoreTable,
        ),
    ]
    if source.seedbench is None:
        return runs
    seed_bench = BenchmarkRun(
        SeedBench(settings.seedbench.recipe),
        source.seedbench,
        settings.seedbench.answers,
        "SEED-Bench-R1",
        "SEED-Bench-R1's four-way items with their observations and videos.",
        "SEED-Bench-R1 accuracy by level and on average with counts and intervals, spans by level, and cost.",
        choice.GradedTable,
    )
    return [*runs, seed_bench]


def benchmark_assets(
    runs: list[BenchmarkRun],
    checkpoints: Checkpoints,
    upstream: tuple[str, ...],
    seed: int,
    device: str,
    endpoints: Endpoints,
) -> list[dg.AssetsDefinition]:
    return [
        *(_items(run, upstream) for run in runs),
        _answers(runs, checkpoints, seed, device, endpoints),
        *(_report(run, checkpoints) for run in runs),
    ]


def _items(run: BenchmarkRun, upstream: tuple[str, ...]) -> dg.AssetsDefinition:
    code = code_of(run.module)
    declared = Asset(
        run.items_key,
        run.items_description,
        kinds=("polars", "parquet"),
        code_version=code,
        deps=upstream,
        table=ITEM_TABLE,
        columns=(run.benchmark.item_table,),
    )

    @asset(declared)
    def benchmark_items(store: StoreParam) -> dg.MaterializeResult[None]:
        folder, recipe = run.folder.resolve(), run.benchmark.settings
        try:
            files = run.benchmark.files(folder)
        except ValueError as error:
            remedy = f"download {run.title}, or materialise inputs/toyworld_source in the demo"
            raise ValueError(f"{error}: {remedy}") from error

        def read(workspace: Path) -> dict[str, Any]:
            items = run.benchmark.items(folder)
            items.write_parquet(workspace / ITEM_TABLE)
            return _item_counts(items, run.benchmark.split_column)

        inputs = {path.name: file_digest(path) for path in files}
        config = {"folder": str(folder), "recipe": recipe.model_dump(mode="json", exclude=SCORING_FIELDS)}
        return result_of(store, declared, store.work(run.items_key, inputs, config, code).do(read))

    return benchmark_items


def _item_counts(items: pl.DataFrame, split_column: str) -> dict[str, Any]:
    problems = items["problem"].drop_nulls()
    return {
        "items": items.height,
        "unusable": len(problems),
        "problems": dict(problems.value_counts(sort=True).iter_rows()),
        f"by_{split_column}": dict(items[split_column].drop_nulls().value_counts(sort=True).iter_rows()),
    }


def _answers(
    runs: list[BenchmarkRun], checkpoints: Checkpoints, seed: int, device: str, endpoints: Endpoints
) -> dg.AssetsDefinition:
    """All benchmarks in one op: what any model still has to answer is answered by one start of the program."""
    codes = {run.answers_key: code_of(run.module, PROGRAM) for run in runs}
    declared = {
        run.answers_key: Asset(
            run.answers_key,
            f"Every model's answers to {run.title}, greedy, with their latents.",
            kinds=("torch", "parquet"),
            code_version=codes[run.answers_key],
            deps=(*(other.items_key for other in runs), BASE, SFT, RL),
            partitions=checkpoints.model_partitioning(),
            table=ANSWER_TABLE,
            columns=(BenchmarkAnswerTable, ServedAnswerTable),
            retry_policy=retry_on_outage() if endpoints else None,
        )
        for run in runs
    }

    @asset(
        *declared.values(),
        pool=answers_pool(checkpoints.models, endpoints),
        name="benchmarks__answers",
        description="Every model answers the benchmarks, greedily.",
        config=AnswersConfig(
            max_new_tokens={run.benchmark.name: run.answers.max_new_tokens for run in runs},
            batch_size={run.benchmark.name: run.answers.batch_size for run in runs},
        ),
    )
    def answer_benchmarks(
        context: dg.AssetExecutionContext, config: AnswersConfig, store: StoreParam, launcher: LauncherParam
    ) -> Iterator[dg.MaterializeResult[None]]:
        prompts = {run.answers_key: cache(partial(_prompts, store, run)) for run in runs}
        limits, wanted = config.values(), {}
        for field, by_name in limits.items():
            refuse_unknown_names(field, by_name, [run.benchmark.name for run in runs])
        for run, model in product(runs, context.partition_keys):
            checkpoint = store.current(*checkpoints.artifact(model))
            name = run.benchmark.name
            chosen = {field: by_name[name] for field, by_name in limits.items() if name in by_name}
            generation = run.answers.model_copy(update=chosen)
            engine = engine_of(model, endpoints)
            ledger = {"model": checkpoint.version, "sampling": generation.sampling(), "seed": seed, **engine}
            job = partial(
                AnswerJob,
                checkpoint=checkpoint.folder(MODEL),
                endpoint=endpoints.get(model),
                generation=generation,
                seed=seed,
                keep_latents=True,
                ledger=store.ledger("benchmarks", ledger) / f"{name}.jsonl",
            )
            inputs = {run.items_key: store.current(run.items_key), "checkpoint": checkpoint}
            values = {"answers": generation.model_dump(mode="json"), "seed": seed, **engine}
            work = partial(store.work, run.answers_key, config=values, code=codes[run.answers_key], partition=model)
            wanted[f"{run.answers_key}/{model}"] = AnswerWork(
                next_work(work, inputs), prompts[run.answers_key], {"answers": job}
            )
        artifacts = generate_answers(context, store, launcher, device, wanted)
        for key, declaration in declared.items():
            by_model = {model: artifacts[f"{key}/{model}"] for model in context.partition_keys}
            yield batch_result(context, store, declaration, by_model)

    return answer_benchmarks


def _prompts(store: AssetStore, run: BenchmarkRun) -> pl.DataFrame:
    return keyed(run.benchmark.prompts(read_parquet(store.current(run.items_key).file(ITEM_TABLE))))


def _report(run: BenchmarkRun, checkpoints: Checkpoints) -> dg.AssetsDefinition:
    benchmark = run.benchmark
    judged = isinstance(benchmark, JudgedBenchmark)
    storyboards = ("evaluation.reports.storyboards",) if run.storyboards else ()
    declared = Asset(
        run.report_key,
        run.report_description,
        kinds=("openai" if judged else "polars", "json"),
        code_version=code_of(run.module, "evaluation.drawing.score_plots", *storyboards),
        deps=(run.items_key, run.answers_key),
        partitions=checkpoints.model_partitioning(),
        table=GRADED_TABLE,
        columns=(run.benchmark.item_table, run.graded_table),
        previews=(SPLITS_FIGURE, *(BOARDS if run.storyboards else ())),
        links={"report": REPORT},
        retry_policy=retry_on_outage() if judged else None,
    )
    if not isinstance(benchmark, JudgedBenchmark):

        @asset(declared)
        def parsed_report(context: dg.AssetExecutionContext, store: StoreParam) -> dg.MaterializeResult[None]:
            return _score_models(context, store, declared, run, checkpoints)

        return parsed_report

    @asset(declared, config=JudgeConfig(judge_samples=benchmark.settings.judge_samples))
    def judged_report(
        context: dg.AssetExecutionContext, config: JudgeConfig, store: StoreParam, judge: JudgeParam
    ) -> dg.MaterializeResult[None]:
        settings = benchmark.settings.model_copy(update=config.values())
        judged_run = replace(run, benchmark=replace(benchmark, settings=settings))
        return _score_models(context, store, declared, judged_run, checkpoints, judge)

    return judged_report


def _score_models(
    context: dg.AssetExecutionContext,
    store: AssetStore,
    declared: Asset,
    run: BenchmarkRun,
    checkpoints: Checkpoints,
    access: JudgeAccess | None = None,
) -> dg.MaterializeResult[None]:
    items = store.current(run.items_key)
    config = {"recipe": run.benchmark.settings.model_dump(mode="json"), "judge": access.name if access else None}

    def score(workspace: Path, model: str, answers: Artifact) -> dict[str, Any]:
        table = read_parquet(items.file(ITEM_TABLE))
        with access.settings(access.replies(declared.key)) if access else nullcontext() as address:
            if access and address is None:
                raise ValueError(f"{run.title} is scored by a judge: name one in the profile")
            # An outage raises: a report once made would not ask the judge again.
            judge = Judge(address, on_outage="raise") if address else None
            stored = StoredAnswers(read_parquet(answers.file(ANSWER_TABLE)), judge=judge)
            graded = run.benchmark.grade(table, stored)
            report = run.benchmark.report(table, stored, graded)
        graded.write_parquet(workspace / GRADED_TABLE)
        write_json(workspace / REPORT, report)
        (workspace / SPLITS_FIGURE).write_bytes(_splits_figure(model, report))
        if run.storyboards:
            write_storyboards(items.file(ITEM_TABLE), workspace / GRADED_TABLE, workspace, model)
        return _report_counts(report)

    reports = {}
    for model in context.partition_keys:
        answers = store.current(run.answers_key, model)
        inputs = {run.items_key: items, run.answers_key: answers}
        work = store.work(run.report_key, inputs, config, str(declared.code_version), model)
        reports[model] = work.do(partial(score, model=model, answers=answers))
    shared = {
        "all_models": _all_models(store, run, checkpoints),
        "comparison_page": dg.MetadataValue.url(COMPARISON_URL),
    }
    return batch_result(context, store, declared, reports, shared)


def _all_models(store: AssetStore, run: BenchmarkRun, checkpoints: Checkpoints) -> dg.MetadataValue[Any]:
    """The scores of every model that has a report, so that any partition's page shows them side by side."""
    reported = [model for model in checkpoints.models if store.has(run.report_key, model)]
    counts = {model: store.current(run.report_key, model).provenance["counts"] for model in reported}
    return table([{NAME: model, **_scores(one)} for model, one in counts.items()])


def _scores(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy on average and, short enough for one row, by split; or the marks of a judge."""
    if "unparsed" in counts:
        return {"average": counts["average"]} | {name: percent(one).value for name, one in counts["splits"].items()}
    return {mark: counts[mark] for mark in ("cot", "answer", "average") if mark in counts}


def _report_counts(report: dict[str, Any]) -> dict[str, Any]:
    names = ("average", "cot", "answer", "splits", "coverage")
    counts = {name: report[name] for name in names if name in report}
    if "unparsed" in report:
        counts |= {"accuracy": report["average"]["accuracy"], "unparsed": report["unparsed"]["count"]}
    return counts


def _splits_figure(model: str, report: dict[str, Any]) -> bytes:
    """Accuracy by depth and on average, or marks of all items and of each split, with intervals."""
    from evaluation.drawing.score_plots import accuracy_by_hop, judged_marks

    if "parser" in report:
        if report["benchmark"] == FutureBench.name:
            return accuracy_by_hop({model: report})
        return accuracy_by_hop({model: report}, labels={name: name for name in (*report["splits"], "average")})
    return judged_marks({"all items": report} | {n: m | {"status": "complete"} for n, m in report["splits"].items()})
