"""The lineage of an id in a small store: two shards, a set of two files, two checkpoints, a benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.framework.store import AssetStore
from assets.lineage import Lineage
from evaluation.reports.run_reports import Trace
from training.storage.artifacts import Artifact

GREEN, BLUE = "0" * 16, "1" * 16


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    store = AssetStore(tmp_path)

    def made(key: str, inputs: Mapping[str, Artifact | str], partition: str | None = None, **tables: Any) -> Artifact:
        def write(workspace: Path) -> dict[str, Any]:
            for name, rows in tables.items():
                pl.DataFrame(rows).write_parquet(workspace / f"{name}.parquet")
            (workspace / "tokenizer.json").write_text("the same in every model")
            return {"revision": "57364a4b"} if key == "trajectories/twiff_rows" else {}

        return store.work(key, inputs, {}, "code", partition).do(write)

    rows = {
        "a": {"row_id": GREEN, "video": "green.mp4", "row": 3},
        "b": {"row_id": BLUE, "video": "blue.mp4", "row": 5},
    }
    gains = {}
    base = made("inputs/base_model", {})
    for shard, row in rows.items():
        source = made(
            "trajectories/twiff_rows", {"inputs/twiff_source": f"digest of {shard}"}, shard, trajectories=[row]
        )
        clip = {"video": row["video"], "path": f"/clips/{row['video']}", "frames": 16}
        clips = made("trajectories/twiff_clips", {"trajectories/twiff_rows": source}, shard, clips=[clip])
        gain = {"row_id": row["row_id"], "p_t": 0, "p_v": 8}
        inputs = {"trajectories/twiff_rows": source, "trajectories/twiff_clips": clips, "inputs/base_model": base}
        gains[shard] = made("curation/visual_gain", inputs, shard, visual_gain=[gain])
    sets = made("curation/sft_sets", {f"curation/visual_gain/{s}": g for s, g in gains.items()},
                chosen=[rows["a"]], all=[*rows.values()])  # fmt: skip
    items = made("inputs/futurebench_items", {}, items=[{"id": "hop1-7", "video": "red.mp4"}])
    for name, file in (("small", "chosen"), ("large", "all")):
        inputs = {
            "inputs/base_model": base,
            f"curation/sft_sets/{file}": sets.manifest["files"][f"{file}.parquet"]["sha256"],
        }
        model = made("checkpoints/sft", inputs, name)
        answers = made("benchmarks/futurebench_answers", {"checkpoint": model, "inputs/futurebench_items": items}, name,
                       answers=[{"prompt_id": "hop1-7", "text": "A"}])  # fmt: skip
        inputs = {"benchmarks/futurebench_answers": answers, "inputs/futurebench_items": items}
        made("benchmarks/futurebench_report", inputs, name,
             graded=[{"id": "hop1-7", "correct": name == "large"}])  # fmt: skip
    return store


def traced(store: AssetStore, identifier: str) -> Trace:
    return Lineage(store.everything()).trace(identifier)


def test_a_row_back_to_its_shard_and_clip_and_on_to_what_was_trained_and_reported(store: AssetStore) -> None:
    trace = traced(store, BLUE)
    assert [(one.artifact, one.file) for one in trace.tables] == [
        ("trajectories/twiff_rows/b", "trajectories.parquet"),
        ("trajectories/twiff_clips/b", "clips.parquet"),
        ("curation/visual_gain/b", "visual_gain.parquet"),
        ("curation/sft_sets", "all.parquet"),
    ]
    assert [one.revision for one in trace.tables] == ["57364a4b", None, None, None]
    assert trace.tables[1].rows == [{"video": "blue.mp4", "path": "/clips/blue.mp4", "frames": 16}]
    assert trace.tables[2].rows == [{"row_id": BLUE, "p_t": 0, "p_v": 8}]
    assert set(trace.upstream) == {"inputs/base_model"}, "nothing of the other shard, nor of the benchmark"
    assert set(trace.checkpoints) == {"checkpoints/sft/large"}, "the other one did not read its file"
    assert set(trace.reports) == {"benchmarks/futurebench_report/large"}
    assert set(traced(store, GREEN).checkpoints) == {"checkpoints/sft/large", "checkpoints/sft/small"}


def test_a_clip_to_its_rows_and_what_was_trained_on_them(store: AssetStore) -> None:
    trace = traced(store, "green.mp4")
    assert [one.artifact for one in trace.tables] == [
        "trajectories/twiff_rows/a", "trajectories/twiff_clips/a", "curation/sft_sets", "curation/sft_sets",
    ]  # fmt: skip
    assert set(trace.checkpoints) == {"checkpoints/sft/large", "checkpoints/sft/small"}


def test_a_benchmark_item_back_to_the_rows_that_its_models_were_trained_on(store: AssetStore) -> None:
    trace = traced(store, "hop1-7")
    assert {one.artifact: one.rows for one in trace.tables}["benchmarks/futurebench_report/large"] == [
        {"id": "hop1-7", "correct": True}
    ]
    assert {"checkpoints/sft/large", "curation/sft_sets", "curation/visual_gain/a", "trajectories/twiff_rows/b"} <= set(
        trace.upstream
    )
    assert set(trace.reports) == {"benchmarks/futurebench_report/large", "benchmarks/futurebench_report/small"}


def test_an_artifact_by_name_and_by_version(store: AssetStore) -> None:
    version = store.current("checkpoints/sft", "small").version
    by_name, by_version = traced(store, "checkpoints/sft/small"), traced(store, version)
    assert by_name.artifacts == by_version.artifacts == {"checkpoints/sft/small": version}
    assert list(by_name.upstream)[:2] == ["curation/sft_sets", "inputs/base_model"], "the nearest first"
    assert "checkpoints/sft/large" not in by_name.upstream, "models share files that are no data"
    assert set(by_name.reports) == {"benchmarks/futurebench_report/small"}


def test_an_unknown_id_is_an_error(store: AssetStore) -> None:
    with pytest.raises(ValueError, match="'nobody' is no artifact's name or version, and no table has it"):
        traced(store, "nobody")
