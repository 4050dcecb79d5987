"""Where this project's sources lie, and how processes that are started elsewhere find them."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WORKSPACE = PROJECT / "workspace.yaml"
"""Where Dagster's processes find the code location."""


def python_variables() -> dict[str, str]:
    """For a Python of ours, and what it starts: this project is found first, and nothing in the folder where it is
    started, where a file may have a module's name.  An empty part of PYTHONPATH would be that folder."""
    before = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {"PYTHONPATH": os.pathsep.join([str(PROJECT), *before]), "PYTHONSAFEPATH": "1"}
