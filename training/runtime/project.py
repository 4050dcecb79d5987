"""The folder of this project's sources, their commit, and how processes that are started elsewhere find them."""

import os
import subprocess
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
"""The folder of the packages, with profiles/ and instance/ beside them: a checkout, or site-packages."""
IS_CHECKOUT = (PROJECT / "pyproject.toml").is_file()
WORKSPACE = PROJECT / "instance" / "workspace.yaml"
"""Where Dagster's processes find the code location: the checkout's own workspace.yaml, which is copied into a wheel."""


def python_variables() -> dict[str, str]:
    """For a Python of ours, and what it starts: this checkout is found first (site-packages would be found before the
    standard library), and nothing in the folder where it is started, where a file may have a module's name.  An empty
    part of PYTHONPATH would be that folder."""
    before = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    checkout = [str(PROJECT)] if IS_CHECKOUT else []
    return {"PYTHONPATH": os.pathsep.join([*checkout, *before]), "PYTHONSAFEPATH": "1"}


def commit() -> dict[str, Any]:
    """The commit of the project's checkout, and whether files differ from it; nothing where it is no checkout."""
    if not (PROJECT / ".git").exists():
        return {"commit": None}
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(PROJECT), *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None}
    return {"commit": commit.strip(), "changed": bool(changes.strip())}
