"""The asset graph is what DESIGN says it is: keys, dependencies, groups, partitions, pools, jobs."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pytest

from assets.framework.partitions import ranges
from pipelines.definitions import IMPORTED, build_definitions
from pipelines.jobs import plan
from pipelines.profile import Profile, demo, overlaid, paper
from training.runtime.project import PROJECT


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return demo(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def definitions(profile: Profile) -> dg.Definitions:
    return build_definitions(profile)


@pytest.fixture(scope="module")
def nodes(definitions: dg.Definitions) -> dict:
    graph = definitions.resolve_asset_graph()
    return {node.key.to_user_string(): node for node in graph.asset_nodes}


@pytest.mark.parametrize("make", [demo, paper])
def test_everything_that_a_profile_has_can_be_loaded(tmp_path: Path, make: Callable[[Path], Profile]) -> None:
    dg.Definitions.validate_loadable(build_definitions(make(tmp_path)))


def test_every_asset_has_a_description_and_an_owner(nodes: dict) -> None:
    assert len({key.partition("/")[2] for key in nodes}) == len(nodes), "last names are unique"
    for key, node in nodes.items():
        assert node.group_name == key.partition("/")[0], key
        assert node.description and node.description[0].isupper() and node.description.endswith("."), key
        assert len(node.description) > 20 and node.owners and 1 <= len(node.kinds) <= 3, key
        assert node.code_version or not node.is_materializable, key


def test_an_op_and_its_assets_have_separate_descriptions(definitions: dg.Definitions, nodes: dict) -> None:
    op = definitions.resolve_job_def("06_train_sft").graph.node_named("checkpoints__sft").definition
    assert op.description == nodes["checkpoints/sft"].description
    both = definitions.resolve_job_def("08_evaluate").graph.node_named("benchmarks__answers").definition
    assert both.description == "Every model answers the benchmarks, greedily."
    assert "FutureBench" in nodes["benchmarks/futurebench_answers"].description
    assert "TwiFF-Bench" in nodes["benchmarks/twiffbench_answers"].description


def test_every_stage_has_a_check_that_reads_as_a_sentence(definitions: dg.Definitions, nodes: dict) -> None:
    checks = list(definitions.resolve_asset_graph().asset_check_nodes)
    for check in checks:
        assert check.description and check.description[0].isupper() and check.description.endswith("."), check.key
    checked = {nodes[check.key.asset_key.to_user_string()].group_name for check in checks}
    assert checked == {node.group_name for node in nodes.values()}


def test_a_model_is_made_from_its_own_checkpoint_and_rl_from_its_sft(nodes: dict, profile: Profile) -> None:
    checkpoints = profile.checkpoints
    rl = checkpoints.rl_partitions.get_partition_keys()
    mapping = checkpoints.rl_partitioning(1).mappings["checkpoints/sft"]
    upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(
        checkpoints.rl_partitions.subset_with_partition_keys(["la_dapo"]),
        checkpoints.rl_partitions,
        checkpoints.sft_partitions,
    )
    assert rl == ["la_dapo"]
    assert set(upstream.partitions_subset.get_partition_keys()) == {"future_l1"}


def test_latents_are_examined_of_the_models_that_the_profile_names(nodes: dict, tmp_path: Path) -> None:
    for key in ("latent_retrieval", "intervened_answers", "latent_necessity"):
        assert nodes[f"reports/{key}"].partitions_def.get_partition_keys() == ["future_l1", "la_dapo"]
    none = overlaid(demo(tmp_path), {"benchmarks": {"necessity": {"models": ()}}})
    dg.Definitions.validate_loadable(build_definitions(none))
    assert "09_intervene" not in [step.stage.job for step in plan(none)]


def test_the_plan_makes_every_asset_once_it_can_be_made(profile: Profile, nodes: dict) -> None:
    made: set[str] = set()
    for step in plan(profile):
        wanted = set(step.stage.assets)
        for key in wanted:
            parents = {parent.to_user_string() for parent in nodes[key].parent_keys}
            assert parents <= made | wanted, f"{step.stage.job} comes before what {key} is made of"
        made |= wanted
    assert made == set(nodes)


def test_every_job_of_the_plan_exists(profile: Profile, definitions: dg.Definitions) -> None:
    for step in plan(profile):
        job = definitions.resolve_job_def(step.stage.job)
        assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(step.stage.assets)


def test_one_run_takes_neighbouring_partitions() -> None:
    assert list(ranges("abcd", ["b", "c"])) == [("b", "c")]
    assert list(ranges("abcd", ["d", "a", "b"])) == [("a", "b"), ("d",)]
    assert list(ranges("abcde", "abcde", 2)) == [("a", "b"), ("c", "d"), ("e",)]
    assert list(ranges("abcd", [])) == []


def test_a_served_model_needs_no_checkpoint_and_a_source_with_counts_no_answers(tmp_path: Path) -> None:
    endpoint = {"base_urls": ("http://127.0.0.1:1/v1",), "model": "m"}
    served = build_definitions(overlaid(paper(tmp_path), {"curation": {"endpoint": endpoint}}))
    answers = served.resolve_asset_graph().get(dg.AssetKey(["curation", "gain_answers"]))
    assert {key.to_user_string() for key in answers.parent_keys} == {"trajectories/twiff_clips"}
    assert answers.pools == {"endpoint"}
    with_counts = overlaid(paper(tmp_path), {"curation": {"use_source_counts": True}})
    graph = build_definitions(with_counts).resolve_asset_graph()
    gain = graph.get(dg.AssetKey(["curation", "visual_gain"]))
    assert {key.to_user_string() for key in gain.parent_keys} == {"trajectories/twiff_clips"}
    assert dg.AssetKey(["curation", "gain_answers"]) not in {node.key for node in graph.asset_nodes}
    dg.Definitions.validate_loadable(build_definitions(with_counts))


def test_pushes_are_jobs_where_the_profile_names_repositories(tmp_path: Path, nodes: dict) -> None:
    pushes = {"curation/dataset_hub": "publish", "checkpoints/model_hub": "publish_models"}
    assert not pushes.keys() & nodes.keys()
    profile = overlaid(demo(tmp_path), {"hub": {"dataset": "lab/set", "models": "lab/future-l1-{model}"}})
    definitions = build_definitions(profile)
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    models = graph.get(dg.AssetKey(["checkpoints", "model_hub"]))
    assert models.partitions_def == profile.checkpoints.model_partitions and models.group_name == "hub"
    before: dict[str, set[str]] = defaultdict(set)
    for node in graph.asset_nodes:
        before[str(node.group_name)] |= {str(graph.get(key).group_name) for key in node.parent_keys}
    order = TopologicalSorter({group: groups - {group} for group, groups in before.items()}).static_order()
    assert next(iter(order)) == "inputs", "groups have no cycle"
    for key, job in pushes.items():
        made = definitions.resolve_job_def(job).asset_layer.executable_asset_keys
        assert {one.to_user_string() for one in made} == {key}
        assert not any(key in step.stage.assets for step in plan(profile)), "by hand only"


def test_the_code_location_and_the_commands_load_without_the_libraries_of_the_programs() -> None:
    heavy = [
        "torch",
        "torchvision",
        "transformers",
        "trl",
        "accelerate",
        "peft",
        "datasets",
        "decord",
        "av",
        "openai",
        "matplotlib",
        "duckdb",
        "fsspec",
        "huggingface_hub",
        "jinja2",
        "pyarrow",
        "scipy",
    ]
    code = f"import sys, pipelines.cli.main; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_what_is_imported_before_steps_are_forked_is_there() -> None:
    """Python passes over names that are not."""
    assert [name for name in IMPORTED if find_spec(name) is None] == []
