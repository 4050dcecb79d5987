"""Curation and judging by vLLM's server of the base model: its answers are those of the base model that is loaded
here, and its verdicts can be read.  An untrained judge's verdicts mean nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from assets.checkpoints.assets import BASE
from assets.curation.prompts import answer_prompts
from assets.curation.scored import gain_tables, scored_shards
from assets.framework.store import AssetStore
from assets.trajectories.assets import TRAJECTORIES
from assets.trajectories.usable import usable_rows
from evaluation.generation.jobs import AnswerJob, GenerateConfig
from evaluation.generation.program import generate
from pipelines.curate import SUMMARY, WORK
from tests.interop.dataset import curate
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_server import SERVED_NAME, Server, served
from training.chat.endpoint import ENDPOINT_KEYS, JUDGE_KEYS, EndpointSettings
from training.grading.judge import Judge, JudgeItem, JudgeSettings
from training.storage.artifacts import MODEL
from training.storage.files import read_json
from training.storage.parquet import read_parquet

GREEDY_ROWS = 200
SAMPLED_ROWS = 40
ANSWERS = 16
"""Answers to a row, half of them with the hint, where none is saved."""
FULL = ("--full-sampling-fraction", "1")
IMAGE_FACTOR = 16
"""Pixels a side of the base model's merged vision tokens."""
COMPACT_JSON = ("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}))
"""Without it a schema allows white space without end, and an untrained judge writes nothing else."""
STANDARD_ERRORS = 4
PROGRAM = "vLLM's server"


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    with served(demo, demo.profile.base, work, *COMPACT_JSON) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT_KEYS[0], server.key)
        patch.setenv(JUDGE_KEYS[0], server.key)
        yield _greedy(demo, server, work)
        yield from _sampled(demo, server, work)
        yield from _judged(demo, server, work)


def _greedy(demo: Demo, server: Server, work: Path) -> Check:
    """The same prompts to both, each answered once."""
    rows = usable_rows(demo.store, demo.store.partitions(TRAJECTORIES)[0]).head(GREEDY_ROWS)
    prompts = work / "prompts.parquet"
    answer_prompts(rows, demo.profile.curation.prompts).write_parquet(prompts)
    generation = demo.profile.curation.answers.model_copy(update={"samples": 1, "temperature": 0.0})
    endpoint = EndpointSettings(base_urls=(server.url,), model=SERVED_NAME, image_factor=IMAGE_FACTOR)
    tables = []
    for name, checkpoint, servers in (
        ("local", demo.store.current(BASE).folder(MODEL), None), ("served", None, endpoint),
    ):  # fmt: skip
        job = AnswerJob(name=name, checkpoint=checkpoint, prompts=prompts, generation=generation)
        generate(GenerateConfig(out=work / name, device="cpu", jobs=[job], endpoint=servers))
        tables.append(read_parquet(work / name / f"{name}.parquet"))
    same = tables[0].join(tables[1], on=("prompt_id", "text"), how="semi")
    return Check("curation, greedy: answers word for word", PROGRAM, same.height, 2 * GREEDY_ROWS)


def _sampled(demo: Demo, server: Server, work: Path) -> Iterator[Check]:
    """`future-l1 curate`, by each."""
    endpoint = ("--endpoint", server.url, "--model", SERVED_NAME, "--image-factor", str(IMAGE_FACTOR))
    ours = curate(demo, work / "ours", SAMPLED_ROWS, "--base", str(demo.profile.base), *FULL)
    theirs = curate(demo, work / "theirs", SAMPLED_ROWS, *endpoint, *FULL)
    scored = read_json(ours / SUMMARY)["scored"]
    yield Check("curation: answers", PROGRAM, read_json(theirs / SUMMARY)["generations"], ANSWERS * scored)
    for condition in ("plain", "hint"):
        shares = [_share_correct(folder, condition) for folder in (ours, theirs)]
        mean = sum(shares) / 2
        error = (2 * mean * (1 - mean) / (scored * ANSWERS / 2)) ** 0.5
        title = f"curation, {condition}: {shares[1]:.3f} right, ours {shares[0]:.3f}, at most {STANDARD_ERRORS} errors"
        yield Check(title, PROGRAM, int(abs(shares[0] - shares[1]) <= STANDARD_ERRORS * error), 1)


def _judged(demo: Demo, server: Server, work: Path) -> Iterator[Check]:
    """Verdicts, each of another request, and once more from the stored replies."""
    settings = JudgeSettings(base_url=server.url, model=SERVED_NAME, cache=work / "replies.jsonl")
    items = [JudgeItem("Which colour is it?", colour, "red") for colour in map(str, range(SAMPLED_ROWS))]
    judge, again = Judge(settings), Judge(settings)
    verdicts = judge.verdicts(items)
    title = "judging: verdicts in the schema, at the first try (they mean nothing)"
    yield Check(title, PROGRAM, judge.counts["judged"], max(len(items), judge.counts["requests"]))
    stored = sum(map(str.__eq__, verdicts, again.verdicts(items)))
    yield Check("judging: verdicts that are stored", PROGRAM, stored - again.counts["requests"], len(items))


def _share_correct(folder: Path, condition: str) -> float:
    """The share of right answers among all that were graded."""
    gains = pl.concat([read_parquet(path) for path in gain_tables(scored_shards(AssetStore(folder / WORK)))])
    correct, graded = (gains[f"n_{what}_{condition}"].sum() for what in ("correct", "graded"))
    return float(correct / graded)
