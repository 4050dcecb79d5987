"""A normal install works: the wheel, beside its dependencies, from a folder that holds nothing of the project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assets.framework.code import code_of
from evaluation.lmms_eval import TASKS
from tests.reduced import smallest_demo, write_overlay
from tests.wheel import build_wheel, install_wheel
from training.runtime.project import PROJECT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment into which the project's wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    wheels, environment = folder / "wheels", folder / "environment"
    wheels.mkdir()
    wheel = build_wheel(wheels)
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    (packages,) = environment.glob("lib/python*/site-packages")
    beside = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(beside))
    install_wheel(wheel, environment / "bin" / "python")
    return environment / "bin"


def run(command: list[str], folder: Path | None = None, **variables: str) -> str:
    """What a command prints, started as a person would start it; an assertion with all of it if it fails."""
    plain = {name: value for name, value in os.environ.items()
             if name not in ("PYTHONPATH", "SEED") and not name.startswith(("FUTURE_L1_", "DAGSTER_"))}  # fmt: skip
    done = subprocess.run(command, cwd=folder, env={**plain, **variables}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_command_line_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "future-l1")
    assert "Usage: future-l1" in run([command, "--help"], tmp_path)
    assert "✓ base model" in run([command, "check"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_from_a_checkout_is_not_made_again(installed: Path, tmp_path: Path) -> None:
    script = "from assets.framework.code import code_of as v; print(v('evaluation.reports.report'), v('training.rl'))"
    version = run([str(installed / "python"), "-c", script], tmp_path)
    assert version.split() == [code_of("evaluation.reports.report"), code_of("training.rl")]


def test_a_profile_of_the_project_is_named_where_there_is_none(installed: Path, tmp_path: Path) -> None:
    script = "import sys, pathlib, pipelines.profile as p; [p.load_profile(f, pathlib.Path()) for f in sys.argv[1:]]"
    load = [str(installed / "python"), "-c", script]
    ended = subprocess.run([*load, "mine.toml"], cwd=tmp_path, capture_output=True, text=True)
    examples = sorted(Path(ended.stderr.strip().rpartition(" in ")[2]).glob("*.toml"))
    assert [path.name for path in examples] == sorted(path.name for path in (PROJECT / "profiles").glob("*.toml"))
    run([*load, *map(str, examples)], tmp_path)


def test_the_files_of_the_explorers_page_are_installed(installed: Path) -> None:
    (folder,) = installed.parent.glob("lib/python*/site-packages/evaluation/explorer")
    assert {"page.html", "page.css", "page.js"} <= {path.name for path in folder.iterdir()}


def test_lmms_eval_is_offered_the_model_and_the_tasks(installed: Path, tmp_path: Path) -> None:
    script = "from importlib.metadata import entry_points as e; print(*(p.load() for p in e(group='lmms_eval.models')))"
    assert "function manifest" in run([str(installed / "python"), "-c", script], tmp_path)
    tasks = Path(run([str(installed / "python"), "-m", "evaluation.lmms_eval"], tmp_path).strip())
    assert {path.name for path in tasks.glob("*.yaml")} == {path.name for path in TASKS.glob("*.yaml")} != set()


def test_a_small_demo_runs_in_the_current_folder(installed: Path, tmp_path: Path) -> None:
    write_overlay(tmp_path / "small.toml", smallest_demo(tmp_path))
    run([str(installed / "future-l1"), "demo"], tmp_path, FUTURE_L1_PROFILE="small.toml", OMP_NUM_THREADS="1")
    home = tmp_path / ".future-l1"
    page = (home / "artifacts/reports/comparison/current/report.html").read_text(encoding="utf-8")
    assert "future_l1" in page and "<html" in page
    assert json.loads((home / "summary.json").read_text())
    provenance = (home / "artifacts/checkpoints/sft/future_l1/current/model/provenance.json").read_text()
    assert json.loads(provenance)["code"]["version"]
