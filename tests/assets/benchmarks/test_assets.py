"""A benchmark's assets: SEED-Bench-R1 is there where the profile names its folder, and is scored by level."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    FUTURE_ITEMS,
    GRADED_TABLE,
    ITEM_TABLE,
    REPORT,
    SEED_ANSWERS,
    SEED_ITEMS,
    SEED_REPORT,
    SPLITS_FIGURE,
    _scores,
)
from assets.benchmarks.latents import LATENT_RETRIEVAL
from assets.benchmarks.necessity import INTERVENED, _check_engines
from assets.framework.links import COMPARISON_URL
from assets.framework.partitions import key_of
from assets.framework.store import AssetStore
from assets.generation import AnswerWork
from evaluation.latents.retrieval_report import MEAN_FILE
from pipelines.definitions import build_definitions
from pipelines.jobs import stages
from pipelines.profile import Profile, demo, overlaid
from tests.evaluation.answers import answer_table
from tests.evaluation.benchmarks.test_seedbench import record, write
from training.storage.artifacts import MODEL
from training.storage.files import read_json

SEED_KEYS = {SEED_ITEMS, SEED_ANSWERS, SEED_REPORT}


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    folder = tmp_path / "seedbench"
    folder.mkdir()
    write(folder, L1=[record(1), record(2)], L3=[record(1), record(2, choice_d=None)])
    return overlaid(demo(tmp_path / "home"), {"source": {"seedbench": folder}})


def keys(profile: Profile) -> set[str]:
    graph = build_definitions(profile).resolve_asset_graph()
    return {key.to_user_string() for key in graph.get_all_asset_keys()}


def test_seed_bench_has_assets_checks_and_jobs_only_where_its_folder_is_named(profile: Profile, tmp_path: Path) -> None:
    assert keys(profile) - keys(demo(tmp_path / "home")) == SEED_KEYS
    made = [key for stage in stages(profile) for key in stage.assets]
    assert set(made) >= SEED_KEYS
    assert not SEED_KEYS & {key for stage in stages(demo(tmp_path)) for key in stage.assets}


def materialised(profile: Profile, job: str, key: str, model: str | None = None) -> dg.ExecuteInProcessResult:
    return (
        build_definitions(profile)
        .resolve_job_def(job)
        .execute_in_process(
            instance=dg.DagsterInstance.ephemeral(),
            partition_key=model,
            asset_selection=[key_of(key)],
            raise_on_error=False,
        )
    )


def test_seed_bench_is_read_graded_once_and_reported_by_level(profile: Profile) -> None:
    checked = materialised(profile, "02_prepare", SEED_ITEMS).get_asset_check_evaluations()
    assert [(check.check_name, check.passed) for check in checked] == [("items_are_usable", False)]
    store = AssetStore(profile.home)
    counts = store.current(SEED_ITEMS).provenance["counts"]
    assert (counts["items"], counts["unusable"], counts["by_level"]) == (4, 1, {"L1": 2, "L3": 2})
    answers = answer_table({"L1-1": "<answer>B</answer>", "L1-2": "<answer>A</answer>", "L3-1": "<answer>B</answer>"})
    for model in ("base", "text_only"):
        store.work(SEED_ANSWERS, {}, {}, "code", model).do(
            lambda folder: answers.write_parquet(folder / ANSWER_TABLE) or {}
        )
        result = materialised(profile, "08_evaluate", SEED_REPORT, model)
        assert result.success
    [event] = [event for event in result.all_events if event.is_step_materialization]
    metadata = event.step_materialization_data.materialization.metadata
    assert [record.data["name"] for record in metadata["all_models"].records] == ["base", "text_only"]
    assert metadata["all_models"].records[0].data["average"] == "66.7 % (20.8–93.9, n = 3)"
    assert metadata["comparison_page"].value == COMPARISON_URL
    artifact = store.current(SEED_REPORT, "base")
    report = read_json(artifact.file(REPORT))
    assert {level: score["correct"] for level, score in report["splits"].items()} == {"L1": 1, "L2": 0, "L3": 1}
    assert (report["status"], report["average"]["n"], artifact.provenance["counts"]["unparsed"]) == ("partial", 3, 0)
    assert pl.read_parquet(artifact.file(GRADED_TABLE))["correct"].to_list() == [True, False, True]
    assert artifact.file(SPLITS_FIGURE).read_bytes().startswith(b"\x89PNG")


def test_a_judged_report_is_beside_the_others_with_its_marks() -> None:
    mean = {"mean": 4.0, "n": 3, "interval": [3.0, 5.0]}
    counts = {"cot": mean, "answer": mean, "average": mean, "splits": {"camera": {"cot": mean}}, "coverage": {}}
    assert _scores(counts) == {"cot": mean, "answer": mean, "average": mean}


def test_a_folder_without_the_benchmark_says_what_to_do(tmp_path: Path) -> None:
    profile = overlaid(demo(tmp_path / "home"), {"source": {"seedbench": tmp_path}})
    failed = materialised(profile, "02_prepare", SEED_ITEMS)
    assert not failed.success
    [event] = [event for event in failed.all_events if event.is_step_failure]
    assert "download SEED-Bench-R1" in str(event.step_failure_data.user_failure_data.description)


@pytest.mark.parametrize("is_served", [True, False])
def test_the_changed_answers_of_a_served_model_are_kept_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    """A prompt may be pending; else each job's ledger goes with the job."""
    endpoint = {"future_l1": {"base_urls": ("http://127.0.0.1:1/v1",)}} if is_served else {}
    profile = overlaid(demo(tmp_path / "home"), {"generation": {"endpoint": endpoint}})
    store, items = AssetStore(profile.home), pl.DataFrame({"id": ["1"], "problem": pl.Series([None], dtype=pl.String)})
    store.work(FUTURE_ITEMS, {}, {}, "code").do(lambda folder: items.write_parquet(folder / ITEM_TABLE) or {})
    store.work("checkpoints/sft", {}, {}, "code", "future_l1").do(lambda folder: (folder / MODEL).mkdir() or {})
    store.work(LATENT_RETRIEVAL, {}, {}, "code", "future_l1").do(lambda folder: (folder / MEAN_FILE).touch() or {})
    wanted: dict[str, AnswerWork] = {}

    def capture(*arguments: Any) -> None:
        wanted.update(arguments[-1])
        raise dg.Failure("enough", allow_retries=False)

    monkeypatch.setattr("assets.benchmarks.necessity.generate_answers", capture)
    assert not materialised(profile, "09_intervene", INTERVENED, "future_l1").success
    ledgers = [make.keywords.get("ledger") for make in wanted["future_l1"].jobs.values()]
    assert len(ledgers) > 2 and len(set(ledgers)) == (len(ledgers) if is_served else 1)
    assert (None in ledgers) != is_served


def test_answers_of_two_engines_are_not_compared() -> None:
    local, served = {"seed": 0}, {"seed": 0, "engine": "vllm"}
    _check_engines("la_dapo", local, local)
    _check_engines("la_dapo", served, served)
    with pytest.raises(dg.Failure, match="engine this project's, the changed ones of vllm"):
        _check_engines("la_dapo", local, served)
