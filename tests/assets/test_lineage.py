"""The lineage of an id in a small store: two shards, a set of two files, two checkpoints, a benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.framework.store import AssetStore
from assets.lineage.trace import Lineage
from evaluation.reports.edges import KINDS, kind_of, partition_of
from evaluation.reports.run_reports import Trace
from training.storage import artifacts
from training.storage.artifacts import Artifact
from training.storage.hashing import file_digest

GREEN, BLUE, REJECTED = "0" * 16, "1" * 16, "2" * 16


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
        "a": {"row_id": GREEN, "video": "green.mp4", "row": 3, "source": "a"},
        "b": {"row_id": BLUE, "video": "blue.mp4", "row": 5, "source": "b"},
    }
    gains = {}
    base = made("inputs/base_model", {})
    for shard, row in rows.items():
        rejected = [row | {"row_id": REJECTED}] if shard == "b" else []
        source = made("trajectories/twiff_rows", {"inputs/twiff_source": f"digest of {shard}"}, shard,
                      trajectories=[row, *rejected])  # fmt: skip
        clip = {"video": row["video"], "path": f"/clips/{row['video']}", "frames": 16}
        clips = made("trajectories/twiff_clips", {"trajectories/twiff_rows": source}, shard, clips=[clip])
        gain = {"row_id": row["row_id"], "p_t": 0, "p_v": 8}
        inputs = {"trajectories/twiff_rows": source, "trajectories/twiff_clips": clips, "model": base}
        gains[shard] = made("curation/visual_gain", inputs, shard, visual_gain=[gain])
    items = made("inputs/futurebench_items", {"futurebench.json": "0123"}, items=[{"id": "hop1-7", "video": "red.mp4"}])
    scored = {f"curation/visual_gain/{s}": g for s, g in gains.items()} | {"inputs/futurebench_items": items}
    sets = made("curation/sft_sets", scored | {"verdicts": "4567"}, chosen=[rows["a"]], all=[*rows.values()])
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
    assert traced(store, version[:8]).artifacts == by_name.artifacts, "as the page shows it"
    assert list(by_name.upstream)[:2] == ["curation/sft_sets", "inputs/base_model"], "the nearest first"
    assert "checkpoints/sft/large" not in by_name.upstream, "models share files that are no data"
    assert set(by_name.reports) == {"benchmarks/futurebench_report/small"}


def test_items_that_a_selection_excluded_were_trained_on_by_nobody(store: AssetStore) -> None:
    trace = traced(store, "inputs/futurebench_items")
    assert trace.checkpoints == {}
    assert {(edge.artifact, edge.kind) for edge in trace.used_by if edge.direct} == {
        ("curation/sft_sets", "excluded by"),
        *((f"benchmarks/futurebench_{noun}/{model}", "evaluated on") for noun in ("answers", "report")
          for model in ("small", "large")),
    }  # fmt: skip
    assert not [edge for edge in trace.used_by if edge.artifact.startswith("checkpoints/")]
    (file,) = trace.made_from
    assert (file.kind, file.input, file.version) == ("read by", "futurebench.json", "0123")
    assert set(trace.reports) == {"benchmarks/futurebench_report/large", "benchmarks/futurebench_report/small"}


def test_the_kinds_of_a_models_inputs_and_which_are_direct(store: AssetStore) -> None:
    trace = traced(store, "checkpoints/sft/small")
    direct = {(edge.kind, edge.input, edge.file) for edge in trace.made_from if edge.direct}
    assert direct == {("started from", "inputs/base_model", ""), ("trained on", "curation/sft_sets", "chosen.parquet")}
    further = {(edge.artifact, edge.kind, edge.input) for edge in trace.made_from if not edge.direct}
    assert ("curation/sft_sets", "excluded by", "inputs/futurebench_items") in further
    assert ("trajectories/twiff_rows/a", "read by", "inputs/twiff_source") in further
    assert not [edge for edge in further if edge[2] in ("futurebench.json", "verdicts")], "what was kept out ends there"
    (rows,) = trace.training_sets
    assert (rows.rows, rows.shards, rows.clips, rows.examples[0]["row_id"]) == (1, 1, 1, GREEN)


def test_who_answered_or_selected_rows_is_not_what_a_model_was_trained_on(store: AssetStore) -> None:
    """The base model scored the rows: the checkpoints started from it, and are trained on none of its."""
    trace = traced(store, "inputs/base_model")
    assert trace.checkpoints == {}
    assert {edge.artifact for edge in trace.used_by if edge.kind == "started from"} == {
        "checkpoints/sft/small", "checkpoints/sft/large",
    }  # fmt: skip


def test_of_a_shard_only_models_whose_set_has_rows_of_it_were_trained_on_it(store: AssetStore) -> None:
    """Both sets are in one artifact, which was selected from both shards; one of them has no row of the second."""
    for key in ("trajectories/twiff_clips", "curation/visual_gain"):
        trace = traced(store, f"{key}/b")
        assert set(trace.checkpoints) == {"checkpoints/sft/large"}
        assert set(trace.reports) == {"benchmarks/futurebench_report/large"}
        assert "checkpoints/sft/small" not in {edge.artifact for edge in trace.used_by}
        assert set(traced(store, key).checkpoints) == {"checkpoints/sft/small", "checkpoints/sft/large"}


@pytest.mark.parametrize("identifier", [BLUE, REJECTED, "blue.mp4"])
def test_a_row_or_a_clip_is_looked_for_in_its_own_shard_alone(store: AssetStore, identifier: str) -> None:
    """There may be thousands of the others."""
    other = store.current("curation/visual_gain", "a")
    (other.path / "visual_gain.parquet").write_bytes(b"")
    lineage = Lineage(store.everything())
    shards = {partition_of(table.artifact) for table in lineage.trace(identifier).tables}
    assert "b" in shards and "a" not in shards and lineage.damaged == {}
    lineage.trace("hop1-7")
    assert list(lineage.damaged) == [other.path / "visual_gain.parquet"], "a benchmark's item may be anywhere"


def test_only_tables_that_have_the_id_are_read_whole(store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[Path] = []
    monkeypatch.setattr(artifacts, "file_digest", lambda path: digested.append(path) or file_digest(path))
    lineage = Lineage(store.everything())
    tables = lineage.trace("hop1-7").tables
    assert set(digested) == {lineage.artifacts[table.artifact].path / table.file for table in tables}


def test_an_input_that_was_renewed_is_outdated_whoever_asks(store: AssetStore) -> None:
    """A base model that is not the one that a checkpoint started from."""
    store.work("inputs/base_model", {}, {"another": True}, "code").do(lambda workspace: {})
    lineage = Lineage(store.everything())
    assert lineage.outdated("checkpoints/sft/small") == ["inputs/base_model"]
    assert "inputs/base_model" in traced(store, "checkpoints/sft/small").outdated


@pytest.mark.parametrize(
    ("name", "artifacts"),
    [
        ("curation/visual_gain", {"curation/visual_gain/a", "curation/visual_gain/b"}),
        ("curation / visual_gain / a", {"curation/visual_gain/a"}),
        ("curation / sft_sets", {"curation/sft_sets"}),
        ("sft_sets", {"curation/sft_sets"}),
        ("futurebench_report", {"benchmarks/futurebench_report/small", "benchmarks/futurebench_report/large"}),
        ("sft / small", {"checkpoints/sft/small"}),
        ("a", {f"{key}/a" for key in ("trajectories/twiff_rows", "trajectories/twiff_clips", "curation/visual_gain")}),
        ("small", {"benchmarks/futurebench_answers/small", "benchmarks/futurebench_report/small",
                   "checkpoints/sft/small"}),
        ("inputs/twiff_source", set()),
        ("twiff_source", set()),
    ],
)  # fmt: skip
def test_names_as_the_ui_shows_them(store: AssetStore, name: str, artifacts: set[str]) -> None:
    trace = traced(store, name)
    assert set(trace.artifacts) == artifacts and trace.tables == []
    if not artifacts:
        users = {edge.artifact for edge in trace.used_by if edge.direct}
        assert users == {"trajectories/twiff_rows/a", "trajectories/twiff_rows/b"}


def test_every_name_that_is_recorded_has_a_kind_and_no_kind_is_unused() -> None:
    """The graph's own edges, in `KINDS`."""
    edges = [
        ("checkpoints/sft/future_l1", "curation/sft_sets/future_l1", "trained on"),
        ("checkpoints/rl/la_dapo", "checkpoints/sft/future_l1", "started from"),
        ("curation/future_l1_50k", "inputs/twiffbench_items", "excluded by"),
        ("curation/gain_answers/a", "model", "answered by"),
        ("curation/gain_answers/a", "trajectories/twiff_clips", "answered in"),
        ("curation/visual_gain/a", "curation/gain_answers", "scored by"),
        ("curation/rl_sets", "curation/future_l1_50k", "selected by"),
        ("benchmarks/futurebench_answers/base", "checkpoint", "answered by"),
        ("benchmarks/futurebench_answers/base", "inputs/futurebench_items", "evaluated on"),
        ("benchmarks/futurebench_report/base", "benchmarks/futurebench_answers", "scored by"),
        ("reports/latent_retrieval/base", "curation/sft_sets", "fitted on"),
        ("reports/latent_necessity/base", "reports/intervened_answers", "scored by"),
        ("reports/comparison", "benchmarks/futurebench_report/base", "reported by"),
        ("inputs/futurebench_items", "futurebench.json", "read by"),
    ]
    assert [kind_of(artifact, name) for artifact, name, _ in edges] == [kind for *_, kind in edges]
    assert {kind for *_, kind in edges} == set(KINDS)


def test_an_unknown_id_is_an_error(store: AssetStore) -> None:
    with pytest.raises(ValueError, match="'nobody' is no asset, no partition, no artifact's name or version, and no"):
        traced(store, "nobody")
