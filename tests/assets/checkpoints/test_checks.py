"""A checkpoint is used only if it opens, decodes and holds finite numbers; its unreadable rows are reported."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.checkpoints.assets import RL, SFT
from assets.checkpoints.checks import (
    answers_stay_well_formed,
    groups_were_mixed,
    latents_are_finite,
    latents_have_not_collapsed,
    loads_and_decodes,
    loss_changes,
    loss_went_down,
    rows_were_readable,
    skipped_rows,
)
from assets.checkpoints.current_sets import current_sets_check
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore
from training.storage.artifacts import Artifact

SOUND = {
    "plain_class": "Qwen3VLForConditionalGeneration",
    "weights_missing": [],
    "weights_unknown": [],
    "row_id": "r1",
    "decoded_tokens": 4,
    "latents_finite": True,
    "states_finite": True,
}


def checkpoint(folder: Path = Path(), skipped: int = 0, **facts: Any) -> Artifact:
    counts = {"rows": 200, "skipped": skipped, "verified": {**SOUND, **facts}}
    return Artifact(folder, "v1", {"files": {}, "provenance": {"counts": counts}})


def test_a_sound_checkpoint_has_no_problems() -> None:
    assert (
        loads_and_decodes.problems(checkpoint())
        == latents_are_finite.problems(checkpoint())
        == rows_were_readable.problems(checkpoint())
        == []
    )


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"weights_missing": ["lm_head.weight", "norm"]}, "2 weights are missing, lm_head.weight first"),
        ({"weights_unknown": ["base_model.model.norm"]}, "1 weights are unknown, base_model.model.norm first"),
        ({"plain_class": "Qwen2VLForConditionalGeneration"}, "transformers takes it for a Qwen2VL"),
        ({"decoded_tokens": 0}, "it answered row r1 with nothing"),
    ],
)
def test_what_others_would_stumble_over_is_named(facts: dict[str, Any], sentence: str) -> None:
    (problem,) = loads_and_decodes.problems(checkpoint(**facts))
    assert problem.startswith(sentence)


@pytest.mark.parametrize(
    ("name", "sentence"), [("latents_finite", "latents of its own"), ("states_finite", "hidden states")]
)
def test_vectors_that_are_not_finite_are_problems(name: str, sentence: str) -> None:
    assert latents_are_finite.problems(checkpoint(**{name: False})) == [f"{sentence} over row r1 are not finite"]


@pytest.mark.parametrize(("key", "models"), [(SFT, "sft"), (RL, "no model yet"), (COMPARISON, "sft")])
def test_a_stage_is_checked_for_its_own_models_and_the_comparison_for_all(
    tmp_path: Path, key: str, models: str
) -> None:
    store = AssetStore(tmp_path)
    store.work(SFT, {}, {}, "code", "sft").do(lambda folder: {})
    checks = [current_sets_check(key, Checkpoints(sft=("sft",), rl={}))]
    job = dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks())
    definitions = dg.Definitions(asset_checks=checks, jobs=[job], resources={"store": store})
    (outcome,) = definitions.resolve_job_def("checks").execute_in_process().get_asset_check_evaluations()
    assert outcome.description == f"trained on the current sets: {models}"


def test_one_row_in_a_hundred_may_be_unreadable_and_no_more() -> None:
    assert rows_were_readable.problems(checkpoint(skipped=2)) == []
    assert rows_were_readable.problems(checkpoint(skipped=3)) == ["3 of 200 rows could not be used"]


def test_rows_that_several_processes_skipped_are_reported_once(tmp_path: Path) -> None:
    lines = [{"row_id": name, "reason": "no such file"} for name in ("a", "b", "a")]
    (tmp_path / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["row_id"] for row in skipped_rows(checkpoint(tmp_path))] == ["a", "b"]
    assert skipped_rows(checkpoint(tmp_path / "another")) == []


def with_metrics(folder: Path, lines: list[dict[str, Any]]) -> Artifact:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return checkpoint(folder)


def test_a_curve_is_judged_by_its_first_and_last_tenth(tmp_path: Path) -> None:
    reports = [{"step": step, "ce": 20.0 - step, "latent_mse": 1.0} for step in range(20)]
    reports[3].pop("latent_mse")  # no latents in this step
    changes = loss_changes(with_metrics(tmp_path, [*reports, {"step": 20, "train_runtime": 3.0}]))
    assert changes == {"ce": [19.5, 1.5], "latent_mse": [1.0, 1.0]}
    assert loss_changes(with_metrics(tmp_path, [{"step": 1, "ce": 3.0}])) == {"ce": [3.0, 3.0]}


def test_a_loss_that_did_not_fall_is_a_problem(tmp_path: Path) -> None:
    def run(*losses: float) -> Artifact:
        lines = [{"step": step, "ce": 2.0 - step, "latent_mse": loss} for step, loss in enumerate(losses)]
        return with_metrics(tmp_path, lines)

    assert loss_went_down.problems(run(1.0, 0.5)) == []
    assert loss_went_down.problems(run(1.0, 1.5)) == ["latent_mse went from 1 to 1.5"]
    assert loss_went_down.problems(checkpoint(tmp_path / "nowhere")) == ["the training reported no losses"]


def test_rl_is_judged_by_its_end(tmp_path: Path) -> None:
    def ended(form: float, alike: float) -> Artifact:
        good = [{"step": step, "rewards/format/mean": 0.2, "adjacent_cosine": 1.0} for step in range(18)]
        bad = [{"step": step, "rewards/format/mean": form, "adjacent_cosine": alike} for step in (18, 19)]
        lines = [*good, *bad, {"step": 20, "train_runtime": 3.0}]
        return with_metrics(tmp_path, lines)

    assert (
        answers_stay_well_formed.problems(ended(0.95, 0.3))
        == latents_have_not_collapsed.problems(ended(0.95, 0.3))
        == []
    )
    assert answers_stay_well_formed.problems(ended(0.85, 0.3)) == [
        "85.0% of the answers followed the grammar at the end"
    ]
    assert latents_have_not_collapsed.problems(ended(0.95, 0.995)) == [
        "a latent and the next one have a cosine of 0.995"
    ]
    (tmp_path / "metrics.jsonl").unlink()
    assert groups_were_mixed.problems(checkpoint(tmp_path)) == []
    assert answers_stay_well_formed.problems(checkpoint(tmp_path)) and not latents_have_not_collapsed.problems(
        checkpoint(tmp_path)
    )


def test_places_without_mixed_groups_are_counted_over_the_run(tmp_path: Path) -> None:
    def run(*shares: float) -> Artifact:
        lines = [{"step": step, "groups/unmixed_ratio": share} for step, share in enumerate(shares)] + [{"step": 9}]
        return with_metrics(tmp_path, lines)

    assert groups_were_mixed.problems(run(0.0, 0.4, 1.0)) == []
    assert groups_were_mixed.problems(run(0.2, 0.9, 1.0)) == ["70% of the groups were all correct or all incorrect"]
