"""Benchmarks of every model: items, and answers by one program for all that is missing."""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.benchmarks.settings import AnswersConfig, BenchmarkSettings
from assets.checkpoints.assets import BASE, RL, SFT
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result, result_of
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore
from assets.generation import PROGRAM, AnswerWork, generate_answers
from assets.launching.launcher import Launcher
from assets.trajectories.settings import SourceSettings
from evaluation.benchmarks import futurebench, twiffbench
from evaluation.generation.jobs import AnswerJob
from evaluation.generation.ledger import keyed
from training.data.prompts import BenchmarkAnswerTable
from training.storage.artifacts import MODEL
from training.storage.hashing import file_digest
from training.storage.parquet import read_parquet

FUTURE_ITEMS, TWIFF_ITEMS = "inputs/futurebench_items", "inputs/twiffbench_items"
FUTURE_ANSWERS, TWIFF_ANSWERS = "benchmarks/futurebench_answers", "benchmarks/twiffbench_answers"
FUTURE_REPORT, TWIFF_REPORT = "benchmarks/futurebench_report", "benchmarks/twiffbench_report"

ITEM_TABLE = "items.parquet"
ANSWER_TABLE = "answers.parquet"
GRADED_TABLE = "graded.parquet"
REPORT = "report.json"

FUTURE, TWIFF = "evaluation.benchmarks.futurebench", "evaluation.benchmarks.twiffbench"
FUTURE_CODE, TWIFF_CODE = code_of(FUTURE), code_of(TWIFF)
FUTURE_ANSWERS_CODE, TWIFF_ANSWERS_CODE = code_of(FUTURE, PROGRAM), code_of(TWIFF, PROGRAM)


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
    ]


def _futurebench_items(
    settings: BenchmarkSettings, source: SourceSettings, upstream: tuple[str, ...]
) -> dg.AssetsDefinition:
    declared = Asset(
        FUTURE_ITEMS,
        "FutureBench's four-way items with the clips of their observed parts.",
        kinds=("polars", "parquet"),
        code_version=FUTURE_CODE,
        deps=upstream,
        table=ITEM_TABLE,
        columns=(futurebench.ItemTable,),
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
        code_version=TWIFF_CODE,
        deps=upstream,
        table=ITEM_TABLE,
        columns=(twiffbench.ItemTable,),
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
        what_to_do = "download it, or materialise inputs/toyworld_source in the demo"
        raise dg.Failure(f"the benchmark is not at {path}: {what_to_do}", allow_retries=False)
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
    common: dict[str, Any] = {
        "kinds": ("torch", "parquet"), "deps": (FUTURE_ITEMS, TWIFF_ITEMS, BASE, SFT, RL),
        "partitions": checkpoints.model_partitioning(), "table": ANSWER_TABLE,
        "columns": (BenchmarkAnswerTable,),
    }  # fmt: skip
    declared = {
        FUTURE_ANSWERS: Asset(
            FUTURE_ANSWERS,
            "Every model's answers to FutureBench, greedy, with their latents.",
            code_version=FUTURE_ANSWERS_CODE,
            **common,
        ),
        TWIFF_ANSWERS: Asset(
            TWIFF_ANSWERS,
            "Every model's answers to TwiFF-Bench, greedy, with their latents.",
            code_version=TWIFF_ANSWERS_CODE,
            **common,
        ),
    }

    @asset(
        *declared.values(),
        pool="gpu",
        name="benchmarks__answers",
        description="Every model answers both benchmarks, greedily.",
    )
    def answer_benchmarks(
        context: dg.AssetExecutionContext,
        config: AnswersConfig,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
    ) -> Iterator[dg.MaterializeResult[None]]:
        future, twiff, tried = settings.futurebench, settings.twiffbench, config.values()
        future_prompts = cache(lambda: _prompts(store, FUTURE_ITEMS, futurebench.prompts, future.recipe))
        twiff_prompts = cache(lambda: _prompts(store, TWIFF_ITEMS, twiffbench.prompts, twiff.recipe))
        benchmarks = [
            (FUTURE_ANSWERS, FUTURE_ITEMS, future_prompts, future.answers, FUTURE_ANSWERS_CODE),
            (TWIFF_ANSWERS, TWIFF_ITEMS, twiff_prompts, twiff.answers, TWIFF_ANSWERS_CODE),
        ]
        wanted = {}
        for model in context.partition_keys:
            name, partition = checkpoints.artifact(model)
            checkpoint = store.current(name, partition)
            for key, items, prompts, answers, code in benchmarks:
                generation = answers.model_copy(update=tried)
                inputs = {items: store.current(items), "checkpoint": checkpoint}
                told = {"answers": generation.model_dump(mode="json"), "seed": seed}
                about = {"model": checkpoint.version, "sampling": generation.sampling(), "seed": seed}
                ledger = store.ledger("benchmarks", about) / f"{key.rpartition('/')[2].removesuffix('_answers')}.jsonl"
                job = partial(
                    AnswerJob, checkpoint=checkpoint.folder(MODEL), generation=generation, seed=seed,
                    keep_latents=True, ledger=ledger,
                )  # fmt: skip
                work = store.work(key, inputs, told, code, model)
                wanted[f"{key}/{model}"] = AnswerWork(work, prompts, {"answers": job})
        artifacts = generate_answers(context, store, launcher, device, wanted)
        for key, *_ in benchmarks:
            own = {model: artifacts[f"{key}/{model}"] for model in context.partition_keys}
            yield batch_result(context, store, declared[key], own)

    return answer_benchmarks


def _prompts(store: AssetStore, items: str, make: Any, recipe: Any) -> pl.DataFrame:
    return keyed(make(read_parquet(store.current(items).file(ITEM_TABLE)), recipe))
