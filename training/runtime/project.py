"""The folder of this project's sources, and how processes that are started elsewhere find them."""

import os
from pathlib import Path

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
