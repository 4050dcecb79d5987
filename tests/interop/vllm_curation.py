"""Curation against vLLM's server of the base model, which gives the answers once, and the verdicts once."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from assets.curation.scored import gain_tables, scored_shards
from assets.framework.store import AssetStore
from pipelines.curate import SUMMARY, WORK
from tests.interop.dataset import curate
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_server import SERVED_NAME, served
from training.grading.judge import Judge, JudgeItem, JudgeSettings
from training.storage.files import read_json
from training.storage.parquet import read_parquet

ROWS = 40
ANSWERS = 16
"""Answers to a row, half of them with the hint, where none is saved."""
FULL = ("--full-sampling-fraction", "1")
STANDARD_ERRORS = 4
PROGRAM = "vLLM's server"


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    with served(demo, demo.profile.base, work) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUTURE_L1_ENDPOINT_API_KEY", server.key)
        patch.setenv("FUTURE_L1_JUDGE_API_KEY", server.key)
        endpoint = ("--endpoint", server.url, "--model", SERVED_NAME, "--image-factor", "16", *FULL)
        ours = curate(demo, work / "local", ROWS, "--base", demo.profile.base, *FULL)
        theirs = curate(demo, work / "served", ROWS, *endpoint)
        scored = read_json(ours / SUMMARY)["scored"]
        yield Check("curation: answers", PROGRAM, read_json(theirs / SUMMARY)["generations"], ANSWERS * scored)
        for condition in ("plain", "hint"):
            shares = [_share_correct(folder, condition) for folder in (ours, theirs)]
            mean = sum(shares) / 2
            error = (2 * mean * (1 - mean) / (scored * ANSWERS / 2)) ** 0.5
            title = f"curation: right answers, {condition}: {shares[1]:.2f} (ours {shares[0]:.2f})"
            yield Check(title, PROGRAM, int(abs(shares[0] - shares[1]) <= STANDARD_ERRORS * error), 1)
        judge = Judge(JudgeSettings(base_url=server.url, model=SERVED_NAME))
        items = [JudgeItem("Which colour is it?", colour, "red") for colour in map(str, range(ROWS))]
        verdicts = judge.verdicts(items)
        yield Check("judging: verdicts that can be read", PROGRAM, judge.counts["judged"], len(verdicts))


def _share_correct(folder: Path, condition: str) -> float:
    """The share of right answers among all that were graded."""
    gains = pl.concat([read_parquet(path) for path in gain_tables(scored_shards(AssetStore(folder / WORK)))])
    correct, graded = (gains[f"n_{what}_{condition}"].sum() for what in ("correct", "graded"))
    return float(correct / graded)
