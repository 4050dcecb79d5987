"""The lineage on the report's page: two shards, two sets, an SFT and an RL checkpoint, one benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.framework.store import AssetStore
from assets.lineage.report import lineage_report
from assets.lineage.trace import Lineage
from evaluation.reports.run_reports import LineageReport
from training.storage.artifacts import Artifact

MODELS = {"base": "inputs/base_model", "sft": "checkpoints/sft/sft", "rl": "checkpoints/rl/rl"}


def row(row_id: str, shard: str, gain: int, rank: int) -> dict[str, Any]:
    return {
        "row_id": row_id, "source": shard, "video": f"folder/{row_id}.mp4", "observed": [1, 2], "future": [5],
        "frame_count": 100, "p_t": 1, "p_v": 1 + gain, "gain": gain, "rank": rank,
    }  # fmt: skip


class Store(AssetStore):
    def made(
        self, name: str, inputs: Mapping[str, Artifact | str], counts: Mapping[str, Any], **tables: Any
    ) -> Artifact:
        def write(workspace: Path) -> Mapping[str, Any]:
            for table, rows in tables.items():
                pl.DataFrame(rows).write_parquet(workspace / f"{table}.parquet")
            return counts

        stage, noun, *partition = name.split("/")
        return self.work(f"{stage}/{noun}", inputs, {}, "code", partition[0] if partition else None).do(write)

    def sets(self, scored: Mapping[str, Artifact], rows: list[dict[str, Any]]) -> tuple[Artifact, Artifact]:
        curated = self.made("curation/future_l1_50k", scored, {"kept": 2, "scored": 40}, future_l1_50k=rows)
        inputs = {"curation/future_l1_50k": curated, **scored}
        sft = self.made("curation/sft_sets", inputs, {"sets": {"chosen": len(rows)}}, chosen=rows)
        return sft, self.made("curation/rl_sets", inputs, {"sets": {"twiff": len(rows) - 1}}, twiff=rows[1:])


def table_of(sets: Artifact, file: str) -> str:
    return str(sets.manifest["files"][file]["sha256"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    scored = {}
    for shard in ("a", "b"):
        pulled = store.made(
            f"trajectories/twiff_rows/{shard}", {"inputs/twiff_source": f"of {shard}"}, {"revision": "abc123"}
        )
        verdicts = [
            {"row_id": f"row-{shard}", "condition": condition, "verdict": verdict}
            for condition, several in (("plain", ["incorrect", "incorrect", None]), ("hint", ["correct", "incorrect"]))
            for verdict in several
        ]
        inputs = {"trajectories/twiff_rows": pulled}
        scored[f"curation/visual_gain/{shard}"] = store.made(
            f"curation/visual_gain/{shard}", inputs, {}, verdicts=verdicts
        )
    sft_sets, rl_sets = store.sets(scored, [row("row-a", "a", 7, 1), row("row-b", "b", 3, 2), row("row-c", "b", 1, 3)])
    base = store.made("inputs/base_model", {"config.json": "0"}, {})
    inputs = {"inputs/base_model": base, "curation/sft_sets/chosen": table_of(sft_sets, "chosen.parquet")}
    sft = store.made("checkpoints/sft/sft", inputs, {})
    inputs = {"checkpoints/sft/sft": sft, "curation/rl_sets/twiff": table_of(rl_sets, "twiff.parquet")}
    checkpoints = {"base": base, "sft": sft, "rl": store.made("checkpoints/rl/rl", inputs, {})}
    fields = {"question_type": "hop1", "options": ["red", "blue", "green", "pink"], "answer": "C"}
    rows = [{"id": name, "video": f"seen/{name}.mp4", **fields} for name in "xyz"]
    items = store.made("inputs/futurebench_items", {}, {}, items=rows)
    for number, (model, checkpoint) in enumerate(checkpoints.items()):
        inputs = {"checkpoint": checkpoint, "inputs/futurebench_items": items}
        answers = store.made(f"benchmarks/futurebench_answers/{model}", inputs, {"answers": 3},
                             answers=[{"prompt_id": name, "text": "C"} for name in "xyz"])  # fmt: skip
        graded = [
            {
                "id": name,
                "text": f"{model} on {name}",
                "parsed": "C" if right else None,
                "correct": right,
                "spans": number,
            }
            for name, right in (("x", True), ("y", model == "rl"), ("z", model == "base"))
        ]
        inputs = {"benchmarks/futurebench_answers": answers, "inputs/futurebench_items": items}
        correct = sum(row["correct"] for row in graded)
        counts = {"accuracy": correct / 3, "average": {"correct": correct, "n": 3, "accuracy": correct / 3}}
        store.made(f"benchmarks/futurebench_report/{model}", inputs, counts, graded=graded)
    return store


def report(store: AssetStore) -> LineageReport:
    return lineage_report(Lineage(store.everything()), MODELS)


def test_a_report_goes_back_through_both_trainings_to_the_shards_and_their_revision(store: AssetStore) -> None:
    trace = report(store).models["rl"]
    assert list(trace.artifacts) == ["benchmarks/futurebench_report/rl"]
    assert {name: trace.notes.get(name, "") for name in (*trace.artifacts, *trace.upstream)} == {
        "benchmarks/futurebench_report/rl": "66.7 % correct (2 of 3)",
        "benchmarks/futurebench_answers/rl": "3 answers",
        "inputs/futurebench_items": "",
        "checkpoints/rl/rl": "",
        "checkpoints/sft/sft": "",
        "curation/rl_sets": "twiff 2 rows",
        "curation/sft_sets": "chosen 3 rows",
        "inputs/base_model": "",
        "curation/future_l1_50k": "2 of 40 scored rows",
        "curation/visual_gain": "2 partitions",
        "trajectories/twiff_rows": "2 partitions, revision abc123",
    }
    everything = store.everything()
    assert all(version == everything[name].version for name, version in trace.upstream.items() if version)
    assert [name for name, version in trace.upstream.items() if not version] == [
        "curation/visual_gain", "trajectories/twiff_rows",
    ]  # fmt: skip
    ends = {end for edge in trace.made_from for end in (edge.artifact, edge.input)}
    assert {name for name in ends if name.endswith(("/a", "/b"))} == set(), "there may be thousands of shards"
    assert trace.outdated == {}


def test_a_model_that_was_trained_on_none_of_our_sets_ends_with_its_checkpoint(store: AssetStore) -> None:
    assert list(report(store).models["base"].upstream) == [
        "benchmarks/futurebench_answers/base", "inputs/futurebench_items", "inputs/base_model",
    ]  # fmt: skip


def test_examples_of_rows_have_their_numbers_and_the_models_that_were_trained_on_them(store: AssetStore) -> None:
    sft_a, row_b, rl_c = report(store).rows
    assert [one.id for one in (sft_a, row_b, rl_c)] == ["row-a", "row-b", "row-c"], "the first of each set, once"
    for trace in (sft_a, row_b):
        assert set(trace.checkpoints) == {"checkpoints/sft/sft", "checkpoints/rl/rl"}, "the RL model started from it"
    tables = {one.artifact: one.rows for one in sft_a.tables}
    assert [row["verdict"] for row in tables["curation/visual_gain/a"]] == [
        "incorrect", "incorrect", None, "correct", "incorrect",
    ]  # fmt: skip
    (row,) = tables["curation/sft_sets"]
    assert (row["p_t"], row["p_v"], row["observed"], row["future"], row["frame_count"]) == (1, 8, [1, 2], [5], 100)


def test_of_items_that_models_disagree_on_the_first_of_a_split_is_an_example(store: AssetStore) -> None:
    (item,) = report(store).items
    assert item.id == "y"
    rows = {one.artifact: one.rows[0] for one in item.tables}
    for model, correct in (("base", False), ("sft", False), ("rl", True)):
        row = rows[f"benchmarks/futurebench_report/{model}"]
        assert (row["correct"], row["parsed"], row["text"]) == (correct, "C" if correct else None, f"{model} on y")


def test_a_set_that_was_curated_again_is_outdated(store: Store) -> None:
    before = report(store)
    fewer = {"curation/visual_gain/a": store.current("curation/visual_gain", "a")}
    store.sets(fewer, [row("row-a", "a", 7, 1), row("row-d", "a", 6, 2)])
    after = report(store)
    trace = after.models["sft"]
    assert list(trace.outdated) == ["curation/sft_sets/chosen"]
    assert not [name for name in trace.upstream if name.startswith(("curation/", "trajectories/"))], "none is known"
    assert before.rows and after.rows == []
