"""From rows to Future-L1-50K: answers with and without the hint, verdicts, visual gain, and selection."""

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.curation.card import COMPOSITION_FIGURE, GAIN_FIGURE, gain_figure
from assets.curation.contamination import BenchmarkIndex, benchmark_index
from assets.curation.prompts import answer_prompts, prompts_hash
from assets.curation.publication import CARD, CHANGE, CURATED_TABLE, EXCLUDED_TABLE, POOL_TABLE, publish
from assets.curation.selection import SelectionSettings
from assets.curation.settings import CurationSettings, SelectionConfig
from assets.curation.storyboards import REJECTED, STORYBOARDS, TOP_ROWS, highest, write_shown
from assets.curation.usable import usable_rows
from assets.curation.visual_gain import (
    VerdictTable,
    gain_report,
    given_gain,
    verdict_digest,
    verdicts,
    visual_gain,
)
from assets.framework.code import code_of
from assets.framework.columns import GIVEN_GAIN
from assets.framework.define import Asset, asset, op_assets
from assets.framework.metadata import batch_result, result_of
from assets.framework.partitions import BY_SHARD, SHARDS
from assets.framework.resources import JudgeAccess
from assets.framework.retries import after_outages
from assets.framework.store import AssetStore, Work
from assets.generation import PROGRAM, Asked, Job, Scored, Server, again, answer_all
from assets.launching.launcher import Launcher
from assets.trajectories.assets import CLIPS, TRAJECTORIES
from assets.trajectories.repeats import repeated_elsewhere
from evaluation.generation.image_factor import QWEN3_VL, image_factor, unknown_factor
from training.chat.endpoint import EndpointSettings
from training.grading.judge import Judge
from training.storage.artifacts import MODEL, Artifact
from training.storage.hashing import digest
from training.storage.parquet import read_parquet, scan_parquet

BASE = "checkpoints/base"
ANSWERS = "curation/answers"
GAIN = "curation/visual_gain"
CURATED = "curation/future_l1_50k"
SFT_SETS = "curation/sft_sets"
RL_SETS = "curation/rl_sets"

ANSWER_TABLE = "answers.parquet"
GAIN_TABLE = "visual_gain.parquet"
VERDICT_TABLE = "verdicts.parquet"
ITEM_TABLE = "items.parquet"

ANSWERS_CODE = code_of("assets.curation.prompts", "assets.curation.usable", PROGRAM)
GAIN_CODE = code_of(
    *(f"assets.curation.{name}" for name in ("card", "storyboards", "usable", "visual_gain")), "training.grading.judge"
)
SELECTION_CODE = code_of(*(f"assets.curation.{name}" for name in ("contamination", "publication", "storyboards")))
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8))
"""Future-L1-50K is curated again weekly: a day after one week it is late, a day after two it is stale, also where the
source had nothing new: then somebody should look at the source."""
STORYBOARDS_OF_THE_SET, STORYBOARDS_OF_A_SHARD = 4, 2  # every materialisation keeps its picture in the event log


def curation_assets(settings: CurationSettings, seed: int, device: str, base: Path) -> list[dg.AssetsDefinition]:
    return [
        *([] if settings.given else [_answers(settings, seed, device, base)]),
        _visual_gain(settings),
        _future_l1_50k(settings),
    ]


def _with_image_factor(context: dg.AssetExecutionContext, endpoint: EndpointSettings, base: Path) -> EndpointSettings:
    """The endpoint with the size of its model's vision tokens; a guess is told."""
    if guess := unknown_factor(endpoint, base):
        context.log.warning(guess)
    return endpoint.model_copy(update={"image_factor": image_factor(endpoint, base)})


def _answers(settings: CurationSettings, seed: int, device: str, base: Path) -> dg.AssetsDefinition:
    served = settings.endpoint is not None
    declared = Asset(
        ANSWERS,
        "The base model answers each row several times, plainly and with the true future as the hint.",
        kinds=("openai" if served else "torch", "parquet"),
        code=ANSWERS_CODE,
        upstream=(CLIPS,) if served else (CLIPS, BASE),
        cut=BY_SHARD,
        table=ANSWER_TABLE,
        retry=after_outages() if served else None,
    )

    @op_assets("answer_shards", declared, pool="endpoint" if served else "gpu")
    def answer_shards(
        context: dg.AssetExecutionContext,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> Iterator[dg.MaterializeResult[None]]:
        local = None if served else store.current(BASE)
        model = local.version if local else settings.endpoint.model  # type: ignore[union-attr]
        sampling = settings.answers.model_dump(mode="json", exclude={"batch_size", "samples"})
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
        repeats = repeated_elsewhere(store, context.partition_keys)
        usable = lru_cache(maxsize=1)(partial(usable_rows, store))  # prompts and references come from one reading
        wanted = {}
        for shard in context.partition_keys:
            repeated = repeats.filter(shard=shard)["row_id"].to_list()
            inputs: dict[str, Artifact | str] = {
                TRAJECTORIES: store.current(TRAJECTORIES, shard), CLIPS: store.current(CLIPS, shard), "model": model,
                "repeated": digest(repeated),
            }  # fmt: skip
            rows = partial(usable, shard)

            def work(more: Mapping[str, str], shard: str = shard, inputs: dict[str, Artifact | str] = inputs) -> Work:
                return store.work(ANSWERS, inputs | dict(more), config, ANSWERS_CODE, shard)

            wanted[shard] = Asked(
                again(work, settings.retry_refused),
                [
                    Job(
                        "answers",
                        local.folder(MODEL) if local else None,
                        lambda rows=rows: answer_prompts(rows(), settings.prompts),  # type: ignore[misc]
                        settings.answers,
                        seed,
                        ledger=ledger / f"{shard}.jsonl",
                        scored=Scored(settings.rule, rows, settings.parser),
                    )
                ],
            )
        with judge.settings() as address:
            server = Server(endpoint, address)
            artifacts = answer_all(context, store, launcher, device, wanted, server)
        yield batch_result(context, store, declared, artifacts)

    return answer_shards


def _visual_gain(settings: CurationSettings) -> dg.AssetsDefinition:
    rule = settings.rule
    declared = Asset(
        GAIN,
        "A verdict on each answer (the rule first, then the judge), and per row p_t, p_v and the gain.",
        kinds=("polars", "openai"),
        code=GAIN_CODE,
        upstream=(CLIPS if settings.given else ANSWERS,),
        cut=BY_SHARD,
        table=GAIN_TABLE,
        retry=None if settings.given else after_outages(),
        columns=GIVEN_GAIN if settings.given else None,
        shown=(GAIN_FIGURE, STORYBOARDS, TOP_ROWS, REJECTED),
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
            told = VerdictTable.create_empty() if graded is None else graded
            write_shown(workspace, table, told, report, STORYBOARDS_OF_A_SHARD)
            (workspace / GAIN_FIGURE).write_bytes(gain_figure(report))
            return report | ({"judge": spent} if spent else {})

        scored = {}
        config = {"parser": settings.parser, "rule": rule.model_dump(), "judge": judge.name}
        for shard in context.partition_keys:
            started = time.monotonic()
            rows = usable_rows(store, shard)
            if settings.given:
                inputs: dict[str, Artifact | str] = {CLIPS: store.current(CLIPS, shard)}
                table, graded, spent = given_gain(rows, rule), None, None
            else:
                answers = store.current(ANSWERS, shard)
                told = read_parquet(answers.file(ANSWER_TABLE))
                with judge.settings() as address:
                    asked = Judge(address, on_outage="raise") if address else None
                    graded = verdicts(rows, told, settings.parser, asked)
                spent = asked.spent() if asked else None
                table = visual_gain(rows, graded, rule)
                # What no judge could settle is asked again each time: the verdicts are part of the version.
                inputs = {ANSWERS: answers, "verdicts": verdict_digest(graded)}
            work = store.work(GAIN, inputs, config, GAIN_CODE, shard)
            make = partial(write, table=table, graded=graded, spent=spent)
            scored[shard] = work.do(make, spent_before=time.monotonic() - started)
        return batch_result(context, store, declared, scored)

    return curation_visual_gain


def scored_shards(context: dg.AssetExecutionContext, store: AssetStore) -> dict[str, Artifact]:
    """The shards that have a visual gain; a failure if none has."""
    names = sorted(context.instance.get_dynamic_partitions(str(SHARDS.name)))
    scored = {name: store.current(GAIN, name) for name in names if store.has(GAIN, name)}
    if not scored:
        raise dg.Failure("no shard is scored: materialise curation/visual_gain first", allow_retries=False)
    return scored


def gain_tables(scored: Mapping[str, Artifact]) -> list[Path]:
    """The rows of the scored shards."""
    return [artifact.file(GAIN_TABLE) for artifact in scored.values()]


def verdict_tables(scored: Mapping[str, Artifact]) -> list[Path]:
    """The verdicts of the scored shards; none where the source brought its own counts."""
    return [a.file(VERDICT_TABLE) for a in scored.values() if VERDICT_TABLE in a.manifest["files"]]


def items_of(settings: CurationSettings, store: AssetStore) -> dict[str, Artifact]:
    """The items of the benchmarks that the published set must not touch, by benchmark."""
    return {name: store.current(f"{name}/items") for name in settings.disjoint_from}


def index_of(items: Mapping[str, Artifact]) -> BenchmarkIndex:
    return benchmark_index({name: artifact.file(ITEM_TABLE) for name, artifact in items.items()})


def upstream_of(settings: CurationSettings, *keys: str) -> tuple[str, ...]:
    """The keys, and those of the benchmarks' items."""
    return (*keys, *(f"{name}/items" for name in settings.disjoint_from))


def inputs_of(scored: Mapping[str, Artifact], items: Mapping[str, Artifact]) -> dict[str, Artifact | str]:
    """What a selection is made from, as a version has it."""
    shards: dict[str, Artifact | str] = {f"{GAIN}/{shard}": artifact for shard, artifact in scored.items()}
    return shards | {f"{name}/items": artifact for name, artifact in items.items()}


def _were_scored_for(rule: SelectionSettings, scored: Mapping[str, Artifact]) -> None:
    """Raises ValueError where rows were cut short that the rule might keep: nobody knows their gain."""
    for shard, artifact in scored.items():
        made_for = artifact.provenance["config"]["rule"]
        looser = rule.max_p_t > made_for["max_p_t"] or rule.min_gain < made_for["min_gain"]
        if looser and artifact.provenance["counts"]["cut"]:
            raise ValueError(
                f"shard {shard} was scored to keep rows with p_t at most {made_for['max_p_t']} and a gain of at least "
                f"{made_for['min_gain']}, and others were cut short; max_p_t {rule.max_p_t} and min_gain "
                f"{rule.min_gain} might keep some of them: choose no looser values, or score again with these in the "
                "profile"
            )


def _future_l1_50k(settings: CurationSettings) -> dg.AssetsDefinition:
    declared = Asset(
        CURATED,
        "The rows that the hint makes answerable, ranked by gain, with the numbers that selected them.",
        kinds=("duckdb", "parquet"),
        code=SELECTION_CODE,
        upstream=upstream_of(settings, GAIN),
        table=CURATED_TABLE,
        shown=(GAIN_FIGURE, COMPOSITION_FIGURE, STORYBOARDS, TOP_ROWS, REJECTED, CHANGE),
        fresh=FRESH,
        links={"card": CARD, "pool": POOL_TABLE, "excluded": EXCLUDED_TABLE},
    )

    @asset(declared)
    def curation_future_l1_50k(
        context: dg.AssetExecutionContext, config: SelectionConfig, store: dg.ResourceParam[AssetStore]
    ) -> dg.MaterializeResult[None]:
        scored, items = scored_shards(context, store), items_of(settings, store)
        rule = config.over(settings.selection, settings.rule.samples)
        _were_scored_for(rule, scored)

        def make(workspace: Path) -> dict[str, Any]:
            before = store.current(CURATED) if store.has(CURATED) else None
            report = publish(
                workspace,
                gain_tables(scored),
                rule,
                index_of(items),
                (before.version, before.file(CURATED_TABLE)) if before else None,
            )
            best = highest(read_parquet(workspace / CURATED_TABLE), STORYBOARDS_OF_THE_SET)
            told = pl.concat(
                [
                    VerdictTable.create_empty(),
                    *(
                        scan_parquet(path).filter(pl.col("row_id").is_in(best["row_id"].implode())).collect()
                        for path in verdict_tables(scored)
                    ),
                ]
            )
            write_shown(workspace, best, told, report, STORYBOARDS_OF_THE_SET)
            return {**report, "shards": len(scored)}

        work = store.work(CURATED, inputs_of(scored, items), rule.model_dump(mode="json"), SELECTION_CODE)
        artifact = work.do(make)
        store.artifacts.prune(CURATED, settings.versions_kept)
        return result_of(store, declared, artifact)

    return curation_future_l1_50k
