"""A home folder may have any name, and what lies where a command is given is not run."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.instance import dagster_home, ready_instance
from training.runtime.project import python_variables

NAMES = ("runs (final?)", "100%", "%20", "a[1]*", "-x", "a:b", "一 二", "a#b&c", "a=1")


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_kept_in_a_home_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    home = tmp_path / name
    ready_instance(home)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("shards", ["a"])
    assert dagster_home(home).resolve() == home / "dagster"
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("shards") == ["a"]
    assert {path.name for path in tmp_path.iterdir()} <= {name, "cache"}
    assert (home / "dagster" / "history" / "runs.db").is_file()


@pytest.mark.parametrize("before", ["", ":", "/nowhere:"])
def test_a_child_does_not_import_what_lies_where_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", before)
    (tmp_path / "training" / "runtime").mkdir(parents=True)
    for name in ("queue.py", "training/__init__.py", "training/runtime/project.py"):
        (tmp_path / name).write_text("raise SystemExit(7)")
    code = "import queue, training.runtime.project, subprocess, sys; print(training.runtime.project.PROJECT)"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    environment = {**os.environ, **python_variables()}
    for source in (code, grandchild):
        subprocess.run([sys.executable, "-c", source], cwd=tmp_path, env=environment, check=True)
    supervisor = [sys.executable, "-m", "training.runtime.supervisor", "1", "1"]
    subprocess.run([*supervisor, sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True,
                   stdin=subprocess.DEVNULL)  # fmt: skip
