"""The asset graph is what DESIGN says it is: keys, dependencies, groups, partitions, pools, jobs."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.definitions import build_definitions
from pipelines.jobs import consecutive, plan
from pipelines.picture import mermaid
from pipelines.profile import Profile, demo, overlaid, paper

ROOT = Path(__file__).parents[2]

ITEMS = "futurebench/items twiffbench/items"

# asset: (group, partitions, pool, what it is made of)
LINEAGE = {
    "toyworld/source": ("toyworld", None, None, ""),
    "twiff/source": ("trajectories", None, None, "toyworld/source"),
    "twiff/trajectories": ("trajectories", "shards", None, "twiff/source"),
    "twiff/clips": ("trajectories", "shards", None, "twiff/trajectories"),
    "curation/answers": ("curation", "shards", "gpu", "checkpoints/base twiff/clips"),
    "curation/visual_gain": ("curation", "shards", None, "curation/answers"),
    "curation/future_l1_50k": ("curation", None, None, f"curation/visual_gain {ITEMS}"),
    "curation/sft_sets": ("curation", None, None, f"curation/future_l1_50k curation/visual_gain {ITEMS}"),
    "curation/rl_sets": ("curation", None, None, f"curation/future_l1_50k curation/visual_gain {ITEMS}"),
    "checkpoints/base": ("checkpoints", None, None, ""),
    "checkpoints/sft": ("checkpoints", "sft", "gpu", "checkpoints/base curation/sft_sets"),
    "checkpoints/rl": ("checkpoints", "rl", "gpu", "checkpoints/sft curation/rl_sets"),
    "futurebench/items": ("benchmarks", None, None, "toyworld/source"),
    "twiffbench/items": ("benchmarks", None, None, "toyworld/source"),
    "futurebench/report": ("benchmarks", "models", None, "futurebench/answers futurebench/items"),
    "twiffbench/report": ("benchmarks", "models", None, "twiffbench/answers twiffbench/items"),
    "reports/imagination": ("reports", "models", "gpu", "curation/sft_sets twiffbench/answers twiffbench/items"),
    "reports/latent_necessity": (
        "reports",
        "models",
        "gpu",
        "futurebench/answers futurebench/items reports/imagination",
    ),
    "reports/comparison": (
        "reports",
        None,
        None,
        "curation/future_l1_50k futurebench/report reports/imagination reports/latent_necessity twiffbench/report",
    ),
} | dict.fromkeys(
    ("futurebench/answers", "twiffbench/answers"),
    (
        "benchmarks",
        "models",
        "gpu",
        "checkpoints/base checkpoints/rl checkpoints/sft futurebench/items twiffbench/items",
    ),
)


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


def test_the_assets_are_those_of_the_lineage(nodes: dict) -> None:
    assert set(nodes) == set(LINEAGE)


@pytest.mark.parametrize("key", sorted(LINEAGE))
def test_an_asset_stands_where_the_lineage_has_it(nodes: dict, profile: Profile, key: str) -> None:
    group, partitions, pool, parents = LINEAGE[key]
    node = nodes[key]
    assert node.group_name == group
    assert sorted(parent.to_user_string() for parent in node.parent_keys) == parents.split()
    assert node.pools == ({pool} if pool else set())
    assert len(node.description) > 20
    assert node.owners
    assert 1 <= len(node.kinds) <= 3
    known = {
        None: None,
        "sft": list(profile.checkpoints.sft),
        "rl": list(profile.checkpoints.rl),
        "models": list(profile.checkpoints.models),
    }
    if partitions == "shards":
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
    else:
        assert (node.partitions_def and node.partitions_def.get_partition_keys()) == known[partitions]


def test_every_stage_has_a_check(definitions: dg.Definitions, nodes: dict) -> None:
    checked = {key.asset_key.to_user_string() for key in definitions.resolve_asset_graph().asset_check_keys}
    assert {nodes[key].group_name for key in checked} == {group for group, *_ in LINEAGE.values()}


def test_a_model_is_made_from_its_own_checkpoint_and_rl_from_its_sft(nodes: dict, profile: Profile) -> None:
    checkpoints = profile.checkpoints
    rl = checkpoints.rl_partitions.get_partition_keys()
    upstream = checkpoints.sft_to_rl().get_upstream_mapped_partitions_result_for_partitions(
        checkpoints.rl_partitions.subset_with_partition_keys(["la_dapo"]),
        checkpoints.rl_partitions,
        checkpoints.sft_partitions,
    )
    assert rl == ["la_dapo"]
    assert set(upstream.partitions_subset.get_partition_keys()) == {"future_l1"}


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
    assert consecutive(["b", "c"], "abcd") == [("b", "c")]
    assert consecutive(["d", "a", "b"], "abcd") == [("a", "b"), ("d",)]
    assert consecutive([], "abcd") == []


def test_the_papers_size_is_the_same_lineage_without_the_toy_world(tmp_path: Path, nodes: dict) -> None:
    definitions = build_definitions(paper(tmp_path))
    dg.Definitions.validate_loadable(definitions)
    keys = {node.key.to_user_string() for node in definitions.resolve_asset_graph().asset_nodes}
    assert keys == set(nodes) - {"toyworld/source"}


def test_a_served_model_needs_no_checkpoint_and_a_source_with_counts_no_answers(tmp_path: Path) -> None:
    endpoint = {"base_urls": ("http://127.0.0.1:1/v1",), "model": "m"}
    served = build_definitions(overlaid(paper(tmp_path), {"curation": {"endpoint": endpoint}}))
    answers = served.resolve_asset_graph().get(dg.AssetKey(["curation", "answers"]))
    assert {key.to_user_string() for key in answers.parent_keys} == {"twiff/clips"}
    assert answers.pools == {"endpoint"}
    given = overlaid(paper(tmp_path), {"curation": {"given": True}})
    graph = build_definitions(given).resolve_asset_graph()
    gain = graph.get(dg.AssetKey(["curation", "visual_gain"]))
    assert {key.to_user_string() for key in gain.parent_keys} == {"twiff/clips"}
    assert dg.AssetKey(["curation", "answers"]) not in {node.key for node in graph.asset_nodes}
    dg.Definitions.validate_loadable(build_definitions(given))


def test_the_code_location_loads_without_the_libraries_of_the_programs() -> None:
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
    ]
    code = f"import sys, pipelines.definitions; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_imports_go_one_way() -> None:
    rooms = ["training", "evaluation", "assets", "pipelines"]
    for number, room in enumerate(rooms):
        later = {*rooms[number + 1 :], *(["dagster"] if room in ("training", "evaluation") else [])}
        for source in (ROOT / room).rglob("*.py"):
            imports = [
                line.split()[1] for line in source.read_text().splitlines() if line.startswith(("import ", "from "))
            ]
            assert not later & {name.split(".")[0] for name in imports}, source


def test_the_readme_shows_the_lineage_as_it_is(definitions: dg.Definitions) -> None:
    assert mermaid(definitions) in (ROOT / "README.md").read_text()
