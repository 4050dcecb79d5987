"""The page's lineage from a small store: two shards, two sets, an SFT and an RL checkpoint, one benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.framework.store import AssetStore
from assets.lineage import Lineage, follow
from assets.lineage_page import followed
from evaluation.reports.followed import Followed
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
        return self.made("curation/sft_sets", inputs, {}, chosen=rows), self.made("curation/rl_sets", inputs, {},
                                                                                  twiff=rows[1:])  # fmt: skip


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
    shown = {"question_type": "hop1", "options": ["red", "blue", "green", "pink"], "answer": "C"}
    items = store.made(
        "inputs/futurebench_items", {}, {}, items=[{"id": name, "video": f"seen/{name}.mp4", **shown} for name in "xyz"]
    )
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
        store.made(f"benchmarks/futurebench_report/{model}", inputs, {"average": {"n": 3}}, graded=graded)
    return store


def told(store: AssetStore, best: str = "rl") -> Followed:
    return followed(Lineage(store.everything()), MODELS, best)


def test_a_report_goes_back_through_both_trainings_to_the_shards_and_their_revision(store: AssetStore) -> None:
    chain = next(chain for chain in told(store).chains if chain.model == "rl")
    steps = {step.kind: [(link.artifact, link.note) for link in step.links] for step in chain.steps}
    assert steps == {
        "reports": [("benchmarks/futurebench_report/rl", "n = 3")],
        "answers": [("benchmarks/futurebench_answers/rl", "3 answers")],
        "checkpoint": [("checkpoints/rl/rl", "")],
        "trained from": [
            ("checkpoints/sft/sft", ""),
            ("curation/rl_sets/twiff", "2 rows"),
            ("curation/sft_sets/chosen", "3 rows"),
            ("inputs/base_model", ""),
        ],
        "curated set": [("curation/future_l1_50k", "2 of 40 scored rows")],
        "scored": [("curation/visual_gain", "2 shards")],
        "source": [("trajectories/twiff_rows", "2 shards, revision abc123")],
    }
    everything = store.everything()
    for link in (link for step in chain.steps for link in step.links if link.version):
        holder = link.artifact if link.artifact in everything else link.artifact.rpartition("/")[0]
        assert link.version == everything[holder].version


def test_a_model_that_learnt_from_nothing_of_ours_ends_with_its_checkpoint(store: AssetStore) -> None:
    (chain, *_) = told(store).chains
    assert [step.kind for step in chain.steps] == ["reports", "answers", "checkpoint"]


def test_rows_have_their_verdicts_shard_frames_and_the_models_that_learnt_from_them(store: AssetStore) -> None:
    rl_b, rl_c, sft_a, sft_b = told(store).rows
    assert [one.row_id for one in (rl_b, rl_c, sft_a, sft_b)] == ["row-b", "row-c", "row-a", "row-b"]
    assert (rl_b.set, sft_a.set) == ("curation/rl_sets/twiff", "curation/sft_sets/chosen")
    assert sft_a.trained == ["sft", "rl"], "the RL model started from the SFT model that read it"
    assert rl_b.trained == ["sft", "rl"]
    assert sft_a.verdicts == {"plain": {"incorrect": 2, "unjudged": 1}, "hint": {"correct": 1, "incorrect": 1}}
    assert rl_c.verdicts == {}
    assert (sft_a.shard, sft_a.revision, sft_a.clip, sft_a.p_t, sft_a.p_v) == ("a", "abc123", "row-a.mp4", 1, 8)
    assert (sft_a.seen, sft_a.imagined) == ([1, 9], [57]), "frames of the clip, not key frames"


def test_of_items_that_models_disagree_on_the_first_of_a_split_is_shown(store: AssetStore) -> None:
    (item,) = told(store).items
    assert (item.id, item.clip, item.right) == ("y", "y.mp4", "C (green)")
    everything = store.everything()
    assert [(one.model, one.correct, one.read_as) for one in item.answers] == [
        ("base", False, None), ("sft", False, None), ("rl", True, "C"),
    ]  # fmt: skip
    for one in item.answers:
        assert one.checkpoint == MODELS[one.model] and one.said == f"{one.model} on y"
        assert one.checkpoint_version == everything[one.checkpoint].version
        assert one.answers == everything[f"benchmarks/futurebench_answers/{one.model}"].version


def test_a_set_that_was_curated_again_is_said_to_be_not_current(store: Store) -> None:
    before = told(store)
    fewer = {"curation/visual_gain/a": store.current("curation/visual_gain", "a")}
    store.sets(fewer, [row("row-a", "a", 7, 1), row("row-d", "a", 6, 2)])
    after = told(store, best="sft")
    chain = next(chain for chain in after.chains if chain.model == "sft")
    trained = chain.steps[-1]
    assert trained.kind == "trained from", "nothing is known of what a set was made from that is not there any more"
    assert [(link.artifact, link.note) for link in trained.links] == [
        ("curation/sft_sets/chosen", "not current any more"), ("inputs/base_model", ""),
    ]  # fmt: skip
    assert after.rows == []
    assert before.rows, "it was followed while it was current"


def test_an_assets_page_has_the_command_and_the_page(store: AssetStore) -> None:
    artifact = store.everything()["curation/future_l1_50k"]
    metadata = follow(store, artifact)
    assert metadata["lineage"].value == f"`future-l1 lineage {artifact.version}`"
    page = Path(str(metadata["lineage_page"].value))
    assert page == store.artifacts.root / "reports" / "comparison" / "current" / "report.html"
