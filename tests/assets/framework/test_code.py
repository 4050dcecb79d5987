"""An asset's code version changes with all that decides what is in it, and with nothing else."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from assets.framework.code import NEVER_COUNT, ROOMS, Code, code_of
from training.runtime.project import PROJECT

RECORD = """
import json, sys
from pathlib import Path
import assets.framework.code

calls, code_of = [], assets.framework.code.code_of

def recorded(*roots):
    calls.append((sys._getframe(1).f_globals["__name__"], roots, code_of(*roots)))
    return calls[-1][2]

assets.framework.code.code_of = recorded
from pipelines.definitions import build_definitions
from pipelines.profile import demo, overlaid

home = Path(sys.argv[1])
graph = build_definitions(demo(home)).resolve_asset_graph()
build_definitions(overlaid(demo(home), {"source": {"seedbench": home}, "hub": {"models": "lab/{model}"}}))
roots = {version: roots for _, roots, version in calls}
by_asset = {n.key.to_user_string(): roots[n.code_version] for n in graph.asset_nodes if n.is_materializable}
by_module = {module: [r for m, roots, _ in calls if m == module for r in roots] for module, *_ in calls}
print(json.dumps([by_asset, by_module]))
"""
BESIDE_THE_ROOMS = {"training.adapters", "training.arguments", "training.trainer"}
"""Modules in no room of their own that count; what runs programs and keeps work is in NEVER_COUNT."""
OF_NO_VERSION = {
    "assets.benchmarks.assets": {"evaluation.reports.parts"},  # the format of a score in metadata
    "assets.benchmarks.necessity": {"evaluation.latents.retrieval_report"},  # a file's name
    "assets.checkpoints.assets": {"evaluation.drawing.run_plots"},  # curves: another picture trains nothing again
    "assets.curation.set_assets": {"assets.curation.visual_gain"},  # a schema
    "assets.model_hub": {"training.model.latent_config"},  # the check of what is pushed
    "assets.toyworld.assets": {"assets.trajectories.shards"},  # partitions' names
}
"""What a module that declares assets uses of others beside what is in their artifacts."""

Change = Callable[..., set[str]]
Record = tuple[dict[str, list[str]], dict[str, list[str]]]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The roots of each asset's code version, and those that each module names."""
    command = [sys.executable, "-c", RECORD, str(tmp_path_factory.mktemp("home"))]
    by_asset, by_module = json.loads(subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE).stdout)
    return by_asset, by_module


@pytest.fixture(scope="module")
def changed(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Change:
    """The assets whose code version changes with files of the project."""
    copy = tmp_path_factory.mktemp("copy")
    for room in ROOMS:
        shutil.copytree(PROJECT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    before = versions(copy, record[0])

    def change(*files: str) -> set[str]:
        for file in files:
            with (copy / file).open("a") as source:
                source.write("\nCHANGED = True\n")
        after = versions(copy, record[0])
        for file in files:
            shutil.copy(PROJECT / file, copy / file)
        return {asset for asset in before if after[asset] != before[asset]}

    return change


def versions(project: Path, roots: Mapping[str, list[str]]) -> dict[str, str]:
    code = Code(project)
    return {asset: code.version(*names) for asset, names in roots.items()}


def source_of(module: str, name: str) -> str:
    """The file that defines what a module has by this name."""
    defined = getattr(importlib.import_module(module), name).__module__
    return f"{defined.replace('.', '/')}.py"


def test_a_copy_of_the_project_has_its_versions(changed: Change) -> None:
    assert changed() == set()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("training.data.trajectory", "parse_row"),
        ("training.data.row_fields", "text_of"),
        ("training.data.keyframes", "key_frame_number"),
    ],
)
def test_how_rows_are_read_is_part_of_all_that_is_made_of_rows(changed: Change, module: str, name: str) -> None:
    made_of_rows = {"trajectories/twiff_rows", "trajectories/twiff_clips", "inputs/twiffbench_items",
                    "curation/future_l1_50k", "curation/sft_sets", "curation/rl_sets"}  # fmt: skip
    if name != "parse_row":  # FutureBench's items are questions, no trajectories
        made_of_rows.add("inputs/futurebench_items")
    assert changed(source_of(module, name)) >= made_of_rows


def test_how_clips_are_probed_is_part_of_all_that_reads_clips(changed: Change) -> None:
    reads_clips = {"inputs/futurebench_items", "trajectories/twiff_clips", "curation/gain_answers", "checkpoints/sft"}
    assert changed(source_of("training.data.video", "probe")) >= reads_clips


def test_an_objective_of_rl_is_part_of_rl_only(changed: Change) -> None:
    assert changed("training/rl/losses.py") == {"checkpoints/rl"}
    assert changed("training/sft/trainer.py") == {"checkpoints/sft"}


def test_a_program_that_answers_is_part_of_what_it_answers(changed: Change) -> None:
    assert changed("evaluation/generate.py") == {
        "curation/gain_answers",
        "benchmarks/futurebench_answers",
        "benchmarks/twiffbench_answers",
        "reports/intervened_answers",
    }


def test_a_template_is_part_of_the_page(changed: Change) -> None:
    assert changed("evaluation/reports/report.html.j2") == {"reports/comparison"}
    assert changed("evaluation/reports/published.json") == {"reports/comparison"}


def test_plumbing_is_part_of_nothing(changed: Change) -> None:
    plumbing = (
        "assets/framework/retries.py", "assets/launching/launcher.py", "assets/launching/local.py",
        "assets/launching/slurm.py", "assets/framework/store.py", "assets/framework/define.py",
        "assets/framework/partitions.py", "assets/curation/assets.py", "assets/checkpoints/checks.py",
        "assets/trajectories/settings.py", "assets/curation/settings.py", "assets/checkpoints/settings.py",
        "assets/benchmarks/settings.py",
        "pipelines/driver.py", "training/runtime/programs.py", "training/runtime/callbacks.py",
        "training/runtime/supervisor.py", "training/runtime/interrupts.py", "training/runtime/devices.py",
        "training/recipes.py", "training/chat/endpoint.py",
    )  # fmt: skip
    assert changed(*plumbing) == set()


@pytest.fixture(scope="module")
def code() -> Code:
    return Code(PROJECT)


def test_every_name_that_never_counts_is_there(code: Code) -> None:
    assert [name for name in NEVER_COUNT if name not in code.modules()] == []


def test_a_module_beside_the_rooms_counts_or_never_counts(code: Code) -> None:
    beside = {name for name, file in code.modules().items() if file.count("/") == 1 and "." in name}
    counting = {name for name in beside if code.counts(name) and not name.startswith("evaluation.")}
    assert counting == BESIDE_THE_ROOMS, "say in assets/framework/code.py that it never counts, or here that it does"


def test_a_module_of_a_stage_that_imports_dagster_declares_assets_or_checks(code: Code) -> None:
    beside = ("assets/framework/", "assets/launching/")
    wiring = [file for name, file in code.modules().items() if file.count("/") == 2 and not code.counts(name)
              and file.startswith("assets/") and not file.startswith(beside)
              and not file.endswith("/settings.py")]  # fmt: skip
    assert wiring
    for file in wiring:
        text = (PROJECT / file).read_text()
        assert "assets.framework.define" in text or "asset_check" in text, f"{file}: no version counts it"


def test_what_an_asset_uses_is_in_a_version_of_its_module(code: Code, record: Record) -> None:
    declaring = [name for name in code.modules() if "assets.framework.define:Asset" in code.syntax(name).imports
                 and not name.startswith("assets.framework.")]  # fmt: skip
    assert len(declaring) >= len(record[1])
    for module in declaring:
        used = {name for name in code.references(module) if code.counts(name) and not is_package(code, name)}
        reached = code.reached(*record[1].get(module, ()))
        missing = {name for name in used if code.modules()[name] not in reached}
        assert missing == OF_NO_VERSION.get(module, set()), f"{module} has no code_of() that reaches them"


def test_every_module_is_part_of_a_version_or_of_a_command(code: Code, record: Record) -> None:
    reached = {file for roots in record[1].values() for file in code.reached(*roots)}
    by_name = ("pipelines", "training.engines")  # vLLM loads the engine's modules by their names
    waiting = [name for name in code.modules() if name.startswith(by_name)] + ["training.tiny.__main__"]
    commands: set[str] = set()
    while waiting:
        if (name := waiting.pop()) not in commands:
            commands.add(name)
            waiting += [one for one in code.references(name) if code.counts(one)]
    left = {file for name, file in code.modules().items() if code.counts(name) and name not in commands}
    assert left - reached == set(), "no code_of() reaches them: an asset that uses them would be stale"


def test_every_data_file_is_named_by_a_module_beside_it(code: Code) -> None:
    files = {path.relative_to(PROJECT).as_posix() for room in ROOMS for path in (PROJECT / room).rglob("*")
             if path.is_file() and path.suffix not in (".py", ".pyc") and path.parent.name != "base"
             and "lmms_eval" not in path.parts}  # fmt: skip
    assert files == {file for module in code.modules() for file in code.data(module)} - set(code.modules().values())


def is_package(code: Code, name: str) -> bool:
    return code.modules()[name].endswith("__init__.py")


def tree(project: Path, files: Mapping[str, str]) -> Code:
    for room in ROOMS:
        (project / room).mkdir(exist_ok=True)
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Code(project)


def test_dependencies_are_followed_wherever_they_are_named(tmp_path: Path) -> None:
    code = tree(tmp_path, {
        "assets/logic.py": "import training.a\nfrom training import b\nimport os.path",
        "training/__init__.py": "", "training/a.py": "def f():\n    from training.c import g",
        "training/b.py": "import subprocess\nsubprocess.run(['python', '-m', 'training.d'])",
        "training/c/__init__.py": "from training import e\ng = 1", "training/d/__init__.py": "",
        "training/d/__main__.py": "from evaluation.f import g as h\nopen(FOLDER / 'text.txt')",
        "training/d/text.txt": "A text.", "training/d/other.txt": "Another.", "training/e.py": "import assets.logic",
        "evaluation/f.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import evaluation.h",
        "evaluation/h.py": "", "training/i.py": "",
    })  # fmt: skip
    assert sorted(code.reached("assets.logic")) == [
        "assets/logic.py", "evaluation/f.py", "training/__init__.py", "training/a.py", "training/b.py",
        "training/c/__init__.py", "training/d/__init__.py", "training/d/__main__.py", "training/d/text.txt",
        "training/e.py",
    ]  # fmt: skip


def test_what_never_counts_leads_nowhere(tmp_path: Path) -> None:
    files = {
        "assets/logic.py": "import assets.wiring, training.runtime.programs",
        "assets/wiring.py": "import dagster, training.a",
        "training/runtime/programs.py": "import training.b", "training/a.py": "", "training/b.py": "",
    }  # fmt: skip
    assert list(tree(tmp_path, files).reached("assets.logic")) == ["assets/logic.py"]


def test_a_version_is_of_sources_and_of_their_paths(tmp_path: Path) -> None:
    before = tree(tmp_path, {"assets/a.py": "from assets.b import c", "assets/b.py": "c = 1"}).version("assets.a")
    assert tree(tmp_path, {"assets/b.py": "c = 1  # one"}).version("assets.a") == before
    assert tree(tmp_path, {"assets/b.py": "c = 2"}).version("assets.a") != before
    (tmp_path / "assets/b.py").unlink()
    assert tree(tmp_path, {"assets/b/__init__.py": "c = 1"}).version("assets.a") != before


@pytest.mark.parametrize(
    "root", ["training.nothing", "assets", "evaluation.reports", "assets.framework.store", "training.storage.files"]
)
def test_a_root_is_code_that_decides(root: str) -> None:
    with pytest.raises(ValueError, match=f"'{root}' is no module of the project that decides"):
        code_of(root)
