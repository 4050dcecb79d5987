"""Run overrides make an artifact of their own; the profile's values reuse the first one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.checkpoints.settings import RecipeConfig
from assets.curation.assets import CURATED, RL_SETS, SFT_SETS
from assets.curation.set_assets import _model_name
from assets.framework.partitions import SHARDS, range_tags
from assets.framework.settings import SeedConfig, refuse_unknown_names
from assets.framework.store import AssetStore
from pipelines.definitions import build_definitions
from pipelines.profile import demo, overlaid
from tests.assets.trajectories.shard_rows import published_row, write
from tests.footage import FOOTAGE

QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
COUNTS = [(0, 8), (1, 7), (2, 6), (3, 5), (6, 8), (7, 8), (4, 5), (0, 2)]
SELECT = "curation__future_l1_50k"


class Curated:
    """A source that brings its own counts, scored and selected by the real jobs."""

    def __init__(self, folder: Path) -> None:
        for name in ("twiff", "clips"):
            (folder / name).mkdir(parents=True)
        rows = []
        for number, (p_t, p_v) in enumerate(COUNTS):
            name = f"{number:011d}_0.mp4"
            shutil.copy(FOOTAGE / "carphone_pristine.mp4", folder / "clips" / name)
            counts = {"correct_in_8_base": p_t, "correct_in_8_hint": p_v, "gain": p_v - p_t}
            rows.append(published_row(video=name, answer=f"it stops at {number}", **counts))
        write(folder / "twiff" / "part.jsonl", rows)
        profile = overlaid(
            demo(folder / "home").model_copy(update={"toyworld": None}),
            {
                "source": {"trajectories": folder / "twiff", "clips": (folder / "clips",)},
                "curation": {
                    "use_source_counts": True,
                    "disjoint_from": (),
                    "selection": {"top": 4},
                    "rl_avoids_sft": False,
                },
            },
        )
        self.store, self.definitions = AssetStore(profile.home), build_definitions(profile)
        self.instance = dg.DagsterInstance.ephemeral()
        self.run("01_list_source")
        shards = self.instance.get_dynamic_partitions(str(SHARDS.name))
        for job in ("03_ingest", "04_score"):
            assert self.run(job, partition_key=shards[0], tags=range_tags(shards)).success

    def run(self, job: str, config: dict[str, Any] | None = None, **more: Any) -> dg.ExecuteInProcessResult:
        """`config`: by op."""
        ops = {"ops": {name: {"config": values} for name, values in (config or {}).items()}}
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config=QUIET | ops, raise_on_error=False, **more
        )

    def select(self, **config: Any) -> dg.ExecuteInProcessResult:
        return self.run("05_select", {SELECT: config})

    def rows(self) -> list[tuple[int, int]]:
        """p_t and gain of the rows that are published now, in order of rank."""
        table = pl.read_parquet(self.store.current(CURATED).file("future_l1_50k.parquet")).sort("rank")
        return list(table.select("p_t", "gain").iter_rows())


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curated]:
    yield Curated(tmp_path_factory.mktemp("given"))


def failure_of(result: dg.ExecuteInProcessResult) -> Any:
    """Of the only step that failed."""
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    return failed.step_failure_data


def test_other_thresholds_make_another_artifact_and_the_profiles_find_the_first(curated: Curated) -> None:
    assert curated.select().success
    first = curated.store.current(CURATED)
    assert [gain for _, gain in curated.rows()] == [8, 6, 4, 2] and first.provenance["config"]["top"] == 4
    result = curated.select(top=2, max_p_t=1)
    overridden = curated.store.current(CURATED)
    assert result.success and curated.rows() == [(0, 8), (1, 6)]
    assert overridden.provenance["config"] == {"max_p_t": 1, "min_gain": 2, "top": 2}
    obeys = next(one for one in result.get_asset_check_evaluations() if one.check_name == "rows_obey_the_rule")
    assert obeys.passed and obeys.metadata["rule"].value == "max_p_t: 1, min_gain: 2, top: 2"  # not the profile's
    assert curated.select().success
    assert curated.store.current(CURATED).version == first.version != overridden.version
    assert len(curated.store.artifacts.versions(CURATED)) == 2


def test_the_card_says_what_was_scored_and_by_whom(curated: Curated) -> None:
    assert curated.select().success
    card = curated.store.current(CURATED).file("README.md").read_text()
    assert "| files that are on no hub | 1 shards, 8 rows |" in card
    assert "right answers among 8, of the model that the source was scored with, without" in card


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"endpoint": {"base_urls": ["http://127.0.0.1/v1"], "model": "lab/model-8b"}}, "lab/model-8b"),
        ({"endpoint": {"base_urls": ["http://127.0.0.1/v1"], "model": "/srv/models/Qwen3-VL"}}, "Qwen3-VL"),
        ({}, "base"),
        ({"use_source_counts": True}, None),
    ],
)
def test_a_card_names_the_model_that_answered_and_no_folder(settings: dict[str, Any], name: str | None) -> None:
    profile = overlaid(demo(Path("/home")), {"curation": settings})
    assert _model_name(profile.curation, profile.base) == name


def test_another_seed_draws_other_sets_of_the_same_selection(curated: Curated) -> None:
    assert curated.select().success
    before = {key: curated.store.current(key).version for key in (CURATED, SFT_SETS, RL_SETS)}
    overrides = {"curation__sft_sets": {"seed": 7}, "curation__rl_sets": {"seed": 7}}
    assert curated.run("05_select", overrides).success
    assert curated.store.current(CURATED).version == before[CURATED]
    for key in (SFT_SETS, RL_SETS):
        assert curated.store.current(key).provenance["config"]["seed"] == 7
        assert curated.store.current(key).version != before[key]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"top": 0}, "run config: top must be at least 1; found 0"),
        ({"max_p_t": -1}, "run config: max_p_t must be at least 0; found -1"),
        ({"min_gain": 9}, "run config: min_gain is 9, and a row has 8 answers a condition"),
    ],
)
def test_a_value_that_cannot_be_fails_at_once_with_a_sentence(
    curated: Curated, config: dict[str, int], message: str
) -> None:
    failed = failure_of(curated.select(**config)).user_failure_data
    assert failed is not None and failed.description == message


def test_a_misspelt_value_is_refused_before_anything_runs(curated: Curated) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="topp"):
        curated.select(topp=3)


def test_rows_that_were_cut_short_cannot_be_kept_by_a_looser_rule(curated: Curated) -> None:
    scored = curated.store.everything()["curation/visual_gain/part"]
    assert curated.select(max_p_t=8).success  # the source's own counts: no row was cut short
    manifest = scored.path / "manifest.json"
    whole = manifest.read_text()
    assert '"cut": 0' in whole
    try:
        manifest.write_text(whole.replace('"cut": 0', '"cut": 3'))
        failed = failure_of(curated.select(min_gain=1)).user_failure_data
        assert failed is not None and "choose no looser values" in str(failed.description)
        assert curated.select(min_gain=3).success
    finally:
        manifest.write_text(whole)


def test_the_launchpad_shows_the_profiles_values_typed_and_described(tmp_path: Path) -> None:
    profile = overlaid(demo(tmp_path), {"benchmarks": {"necessity": {"n": 7}}})
    definitions, defaults = build_definitions(profile), {}
    for job in ("05_select", "06_train_sft", "07_train_rl", "08_evaluate", "09_intervene"):
        graph = definitions.resolve_job_def(job).graph
        for name, op in ((node.name, node.definition) for node in graph.nodes):
            for field, schema in getattr(op.config_schema.config_type, "fields", {}).items():
                assert schema.description and schema.description.endswith("."), (name, field)
                defaults[name, field] = schema.default_value
    assert defaults == {
        ("curation__future_l1_50k", "top"): 2400,
        ("curation__future_l1_50k", "max_p_t"): 6,
        ("curation__future_l1_50k", "min_gain"): 2,
        ("curation__sft_sets", "seed"): 0,
        ("curation__rl_sets", "seed"): 0,
        ("checkpoints__sft", "seed"): 0,
        ("checkpoints__sft", "max_steps"): {"text_only": 1000, "future_l1": 1000},
        ("checkpoints__rl", "seed"): 0,
        ("checkpoints__rl", "max_steps"): {"la_dapo": 48},
        ("benchmarks__answers", "max_new_tokens"): {"futurebench": 48, "twiffbench": 48},
        ("benchmarks__answers", "batch_size"): {"futurebench": 256, "twiffbench": 256},
        ("benchmarks__twiffbench_report", "judge_samples"): 1,
        ("reports__latent_retrieval", "seed"): 0,
        ("reports__intervened_answers", "n"): 7,
    }


def test_a_value_below_its_least_or_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0; found -1"):
        SeedConfig(seed=-1).values()
    with pytest.raises(ValueError, match="max_steps must be at least 1; found 0"):
        RecipeConfig(seed=0, max_steps={"text_only": 5, "future_l1": 0}).values()
    with pytest.raises(ValueError, match="max_steps has 'futur_l1'; it may have text_only, future_l1"):
        refuse_unknown_names("max_steps", {"futur_l1": 3}, ["text_only", "future_l1"])
