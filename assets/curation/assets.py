"""From rows to visual gain: answers with and without the hint, verdicts, and what the hint gains."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.curation.card import GAIN_FIGURE, gain_figure
from assets.curation.previews import REJECTED, STORYBOARDS, TOP_ROWS, write_previews
from assets.curation.prompts import answer_prompts, prompts_hash
from assets.curation.scored import GAIN, GAIN_TABLE, VERDICT_TABLE
from assets.curation.settings import CurationSettings
from assets.curation.visual_gain import (
    GainTable,
    VerdictTable,
    gain_from_source_counts,
    gain_report,
    verdict_digest,
    verdicts,
    visual_gain,
)
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result
from assets.framework.partitions import SHARD_PARTITIONING
from assets.framework.resources import JudgeAccess
from assets.framework.retries import retry_on_outage
from assets.framework.store import AssetStore, Work
from assets.generation import AnswerWork, generate_answers, next_work
from assets.launching.launcher import Launcher
from assets.trajectories.assets import CLIPS, TRAJECTORIES
from assets.trajectories.usable import UsableTable, repeats_of_earlier_shards, usable_rows
from evaluation.generation.image_factor import QWEN3_VL, image_factor, unknown_factor
from evaluation.generation.jobs import AnswerJob, VisualGainScoring
from evaluation.generation.program import PROGRAM
from training.chat.endpoint import EndpointSettings
from training.data.prompts import AnswerTable
from training.grading.judge import Judge
from training.storage.artifacts import MODEL, Artifact
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

BASE = "inputs/base_model"
ANSWERS = "curation/gain_answers"
CURATED = "curation/future_l1_50k"
SFT_SETS = "curation/sft_sets"
RL_SETS = "curation/rl_sets"

ANSWER_TABLE = "answers.parquet"

ANSWERS_CODE = code_of("assets.curation.prompts", "assets.trajectories.usable", PROGRAM)
GAIN_CODE = code_of(
    *(f"assets.curation.{name}" for name in ("card", "previews", "visual_gain")),
    "assets.trajectories.usable",
    "training.grading.judge",
)
STORYBOARDS_OF_A_SHARD = 2  # every materialisation keeps its picture in the event log


def curation_assets(settings: CurationSettings, seed: int, device: str, base: Path) -> list[dg.AssetsDefinition]:
    return [
        *([] if settings.use_source_counts else [_answers(settings, seed, device, base)]),
        _visual_gain(settings),
    ]


def _with_image_factor(context: dg.AssetExecutionContext, endpoint: EndpointSettings, base: Path) -> EndpointSettings:
    """The endpoint with the size of its model's vision tokens; a guess is logged as a warning."""
    if guess := unknown_factor(endpoint, base):
        context.log.warning(guess)
    return endpoint.model_copy(update={"image_factor": image_factor(endpoint, base)})


def _answers(settings: CurationSettings, seed: int, device: str, base: Path) -> dg.AssetsDefinition:
    served = settings.endpoint is not None
    declared = Asset(
        ANSWERS,
        "The base model answers each row several times, plainly and with the true future as the hint.",
        kinds=("openai" if served else "torch", "parquet"),
        code_version=ANSWERS_CODE,
        deps=(CLIPS,) if served else (CLIPS, BASE),
        partitions=SHARD_PARTITIONING,
        table=ANSWER_TABLE,
        columns=(AnswerTable,),
        retry_policy=retry_on_outage() if served else None,
    )

    @asset(declared, pool="endpoint" if served else "gpu")
    def answer_shards(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> Iterator[dg.MaterializeResult[None]]:
        local = None if served else store.current(BASE)
        model = local.version if local else settings.endpoint.model  # type: ignore[union-attr]
        sampling = settings.answers.sampling()
        endpoint = settings.endpoint and _with_image_factor(context, settings.endpoint, base)
        if endpoint and endpoint.image_factor != QWEN3_VL:  # older ledgers are of that one
            sampling["image_factor"] = endpoint.image_factor
        ledger = store.ledger("answers", {"model": model, "sampling": sampling, "seed": seed})
        config = {
            "sampling": sampling,
            "prompts": prompts_hash(settings.prompts),
            "rule": settings.rule.model_dump(),
            "parser": settings.parser,
            "judge": judge.name,
            "seed": seed,
        }
        repeats = repeats_of_earlier_shards(store, context.partition_keys)
        wanted = {}
        for shard in context.partition_keys:
            repeated = repeats.filter(shard=shard)["row_id"].to_list()
            inputs: dict[str, Artifact | str] = {
                TRAJECTORIES: store.current(TRAJECTORIES, shard), CLIPS: store.current(CLIPS, shard), "model": model,
                "repeated": digest(repeated),
            }  # fmt: skip

            def work(more: Mapping[str, str], shard: str = shard, inputs: dict[str, Artifact | str] = inputs) -> Work:
                return store.work(ANSWERS, inputs | dict(more), config, ANSWERS_CODE, shard)

            job = partial(
                AnswerJob, checkpoint=local.folder(MODEL) if local else None, generation=settings.answers, seed=seed,
                ledger=ledger / f"{shard}.jsonl",
                gain=VisualGainScoring(rule=settings.rule, parser=settings.parser),
            )  # fmt: skip

            def prompts(shard: str = shard) -> pl.DataFrame:
                return answer_prompts(usable_rows(store, shard), settings.prompts)

            wanted[shard] = AnswerWork(next_work(work, settings.retry_refused), prompts, {"answers": job})
        with judge.settings() as judge_settings:
            artifacts = generate_answers(context, store, launcher, device, wanted, endpoint, judge_settings)
        yield batch_result(context, store, declared, artifacts)

    return answer_shards


def _visual_gain(settings: CurationSettings) -> dg.AssetsDefinition:
    rule = settings.rule
    declared = Asset(
        GAIN,
        "A verdict on each answer (the rule first, then the judge), and per row p_t, p_v and the gain.",
        kinds=("polars", "openai"),
        code_version=GAIN_CODE,
        deps=(CLIPS if settings.use_source_counts else ANSWERS,),
        partitions=SHARD_PARTITIONING,
        table=GAIN_TABLE,
        columns=(UsableTable, GainTable),
        retry_policy=None if settings.use_source_counts else retry_on_outage(),
        previews=(GAIN_FIGURE, STORYBOARDS, TOP_ROWS, REJECTED),
        links={"verdicts": VERDICT_TABLE},
    )

    @asset(declared)
    def curation_visual_gain(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[AssetStore],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> dg.MaterializeResult[None]:
        def write(
            workspace: Path, table: pl.DataFrame, graded: pl.DataFrame | None, spent: dict[str, Any] | None
        ) -> dict[str, Any]:
            if graded is not None:
                graded.write_parquet(workspace / VERDICT_TABLE)
            table.write_parquet(workspace / GAIN_TABLE)
            report = gain_report([table], rule)
            listed = VerdictTable.create_empty() if graded is None else graded
            write_previews(workspace, table, listed, report, STORYBOARDS_OF_A_SHARD)
            (workspace / GAIN_FIGURE).write_bytes(gain_figure(report))
            return report | ({"judge": spent} if spent else {})

        scored = {}
        config = {"parser": settings.parser, "rule": rule.model_dump(), "judge": judge.name}
        for shard in context.partition_keys:
            started = time.monotonic()
            rows = usable_rows(store, shard)
            if settings.use_source_counts:
                inputs: dict[str, Artifact | str] = {CLIPS: store.current(CLIPS, shard)}
                table, graded, spent = gain_from_source_counts(rows, rule), None, None
            else:
                answers = store.current(ANSWERS, shard)
                samples = read_parquet(answers.file(ANSWER_TABLE))
                with judge.settings() as address:
                    grader = Judge(address, on_outage="raise") if address else None
                    graded = verdicts(rows, samples, settings.parser, grader)
                spent = grader.spent() if grader else None
                table = visual_gain(rows, graded, rule)
                # Unjudged answers are judged again each time: the verdicts are part of the version.
                inputs = {ANSWERS: answers, "verdicts": verdict_digest(graded)}
            work = store.work(GAIN, inputs, config, GAIN_CODE, shard)
            make = partial(write, table=table, graded=graded, spent=spent)
            scored[shard] = work.do(make, spent_before=time.monotonic() - started)
        return batch_result(context, store, declared, scored)

    return curation_visual_gain
