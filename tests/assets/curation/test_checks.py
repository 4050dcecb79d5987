"""Curated rows are trained on only if they are decided, obey the rule and can be read; without Dagster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.curation import checks
from assets.curation.assets import RL_SETS, SFT_SETS
from assets.curation.scored import GAIN
from assets.framework.define import CheckOutcome
from assets.framework.store import AssetStore


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    return AssetStore(tmp_path)


def publish(
    store: AssetStore,
    key: str,
    counts: Mapping[str, Any],
    partition: str | None = None,
    config: Mapping[str, Any] | None = None,
    **tables: pl.DataFrame,
) -> None:
    def write(folder: Path) -> Mapping[str, Any]:
        for name, table in tables.items():
            table.write_parquet(folder / f"{name}.parquet")
        return counts

    store.work(key, {}, config or {}, "code", partition).do(write)


def test_one_row_in_twenty_may_be_pending_over_all_shards_of_a_run(store: AssetStore) -> None:
    for shard, pending in (("a", 0), ("b", 9), ("c", 3)):
        publish(store, GAIN, {"pending": pending, "rows": 100, "unjudged": pending}, shard)
    assert checks.few_rows_are_pending.function(store, GAIN, ["a", "b"]).passed
    outcome = checks.few_rows_are_pending.function(store, GAIN, ["b", "c"])
    assert not outcome.passed
    assert outcome.description.startswith("12 of 200 rows are pending, 12 answers have no verdict")
    assert "visual_gain.parquet" in outcome.description


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([(0, 8, 8), (6, 8, 2)], True),
        ([(7, 8, 1)], False),
        ([(6, 8, 3)], False),
        ([(6, 8, 2), (0, 8, 8)], False),
        ([(0, 8, 8)] * 3, False),
        ([], False),
    ],
    ids=["best first", "saturated", "another gain", "not in order", "too many", "none"],
)
def test_published_rows_obey_the_rule_that_selected_them(
    store: AssetStore, rows: list[tuple[int, int, int]], passed: bool
) -> None:
    table = pl.DataFrame(rows, schema=dict.fromkeys(("p_t", "p_v", "gain"), pl.Int64), orient="row")
    rule = {"max_p_t": 6, "min_gain": 2, "top": 2}
    publish(store, "curation/future_l1_50k", {}, config=rule, future_l1_50k=table)
    assert checks.rows_obey_the_rule.function(store, "curation/future_l1_50k").passed == passed


def test_rows_of_sft_sets_are_there_once_and_so_are_their_clips(store: AssetStore, tmp_path: Path) -> None:
    def outcome(*rows: tuple[str, str]) -> CheckOutcome:
        table = pl.DataFrame(rows, schema={"row_id": pl.String, "path": pl.String}, orient="row")
        publish(store, SFT_SETS, {"sets": {"random": len(rows)}}, config={"rows": rows}, random=table)
        return checks.sft_rows_can_be_read.function(store, SFT_SETS)

    (clip := tmp_path / "clip.mp4").touch()
    assert outcome(("a", str(clip)), ("b", str(clip))).passed
    assert outcome(("a", str(clip)), ("a", str(clip))).metadata["repeated"] == {"random": 1}
    assert not outcome(("a", str(clip)), ("a", str(clip))).passed
    gone = outcome(("a", str(clip)), ("b", "/gone.mp4"))
    assert not gone.passed and "1 of 2 clips are gone, /gone.mp4 first" in gone.description
    assert not outcome().passed


@pytest.mark.parametrize(("avoid_sft", "clip", "passed"), [(True, "b", True), (True, "a", False), (False, "a", True)])
def test_rl_rows_are_on_clips_that_sft_does_not_have_where_that_is_wanted(
    store: AssetStore, avoid_sft: bool, clip: str, passed: bool
) -> None:
    publish(store, SFT_SETS, {}, future_l1=pl.DataFrame({"video": ["a"]}))
    publish(
        store, RL_SETS, {"sets": {"twiff": 1}}, config={"avoid_sft": avoid_sft}, twiff=pl.DataFrame({"video": [clip]})
    )
    outcome = checks.rl_clips_are_new.function(store, RL_SETS)
    assert outcome.passed == passed and outcome.metadata["on_sft_clips"] == {"twiff": int(clip == "a")}
