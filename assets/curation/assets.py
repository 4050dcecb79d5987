"""From rows to visual gain: answers with and without the hint, verdicts, and what the hint gains."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.curation.previews import GAIN_FIGURE, REJECTED, STORYBOARDS, TOP_ROWS, gain_figure, write_previews
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
from assets.framework.resources import JudgeParam
from assets.framework.retries import retry_on_outage
from assets.framework.store import StoreParam
from assets.generation import AnswerWork, generate_answers, next_work
from assets.launching.launcher import LauncherParam
from assets.trajectories.assets import CLIPS, TRAJECTORIES
from assets.trajectories.usable import UsableTable, repeats_of_earlier_shards, usable_rows
from evaluation.generation.image_factor import QWEN3_VL, image_factor, unknown_factor
from evaluation.generation.jobs import AnswerJob, VisualGainScoring
from evaluation.generation.program import PROGRAM
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
    *(f"assets.curation.{name}" for name in ("previews", "visual_gain")),
    "assets.trajectories.usable",
    "training.grading.judge",
)
STORYBOARDS_OF_A_SHARD = 2  # every materialisation keeps its picture in the event log


def curation_assets(settings: CurationSettings, seed: int, device: str, base: Path) -> list[dg.AssetsDefinition]:
    return [
        *([] if settings.use_source_counts else [_answers(settings, seed, device, base)]),
        _visual_gain(settings),
    ]


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
        context: dg.AssetExecutionContext, store: StoreParam, launcher: LauncherParam, judge: JudgeParam
    ) -> Iterator[dg.MaterializeResult[None]]:
        local = None if served else store.current(BASE)
        endpoint, sampling = settings.endpoint, settings.answers.sampling()
        if endpoint:
            if guess := unknown_factor(endpoint, base):
                context.log.warning(guess)
            endpoint = endpoint.model_copy(update={"image_factor": image_factor(endpoint, base)})
            if endpoint.image_factor != QWEN3_VL:  # older ledgers are of that one
                sampling["image_factor"] = endpoint.image_factor
        model = local.version if local else endpoint.model  # type: ignore[union-attr]
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

        def answers_of(shard: str) -> AnswerWork:
            inputs: dict[str, Artifact | str] = {
                TRAJECTORIES: store.current(TRAJECTORIES, shard), CLIPS: store.current(CLIPS, shard), "model": model,
                "repeated": digest(repeats.filter(shard=shard)["row_id"].to_list()),
            }  # fmt: skip
            job = partial(
                AnswerJob, checkpoint=local.folder(MODEL) if local else None, generation=settings.answers, seed=seed,
                ledger=ledger / f"{shard}.jsonl",
                gain=VisualGainScoring(
                    rule=settings.rule, parser=settings.parser, judge_replies=judge.replies(GAIN, shard)
                ),
            )  # fmt: skip
            work = partial(store.work, ANSWERS, config=config, code=ANSWERS_CODE, partition=shard)
            return AnswerWork(
                next_work(work, inputs, settings.retry_refused),
                lambda: answer_prompts(usable_rows(store, shard), settings.prompts),
                {"answers": job},
            )

        wanted = {shard: answers_of(shard) for shard in context.partition_keys}
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
        context: dg.AssetExecutionContext, store: StoreParam, judge: JudgeParam
    ) -> dg.MaterializeResult[None]:
        def write(folder: Path, table: pl.DataFrame, graded: pl.DataFrame | None, spent: Any) -> dict[str, Any]:
            if graded is not None:
                graded.write_parquet(folder / VERDICT_TABLE)
            table.write_parquet(folder / GAIN_TABLE)
            report = gain_report([table], rule)
            listed = VerdictTable.create_empty() if graded is None else graded
            write_previews(folder, table, listed, report, STORYBOARDS_OF_A_SHARD)
            (folder / GAIN_FIGURE).write_bytes(gain_figure(report))
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
                samples = read_parquet(answers.file(ANSWER_TABLE), columns=("prompt_id", "sample", "text"))
                with judge.settings(judge.replies(GAIN, shard)) as address:
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
