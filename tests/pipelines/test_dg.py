"""Dagster's own command line finds this project: `dg check defs`, `dg list defs`, and so `dg dev`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.definitions import build_definitions
from pipelines.profile import demo
from training.runtime.project import PROJECT


def dg_command(*arguments: str, profile: str, home: Path) -> str:
    """Standard output of `dg`, run in the project's folder."""
    variables = {"FUTURE_L1_PROFILE": profile, "FUTURE_L1_HOME": str(home), "VIRTUAL_ENV": sys.prefix}
    result = subprocess.run(
        [sys.executable, "-m", "dagster_dg_cli.cli", *arguments], cwd=PROJECT, env=os.environ | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_dg_checks_the_definitions_of_a_profile(tmp_path: Path, profile: str) -> None:
    assert "All definitions loaded successfully" in dg_command("check", "defs", profile=profile, home=tmp_path)


def test_dg_lists_what_the_project_defines(tmp_path: Path) -> None:
    listed = json.loads(dg_command("list", "defs", "--json", profile="demo", home=tmp_path))
    keys = {node.key.to_user_string() for node in build_definitions(demo(tmp_path)).resolve_asset_graph().asset_nodes}
    assert {asset["asset_key"] for asset in listed["assets"]} == keys
