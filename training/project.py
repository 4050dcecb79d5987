"""Where this project's sources lie, and how processes that are started elsewhere find them."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """PYTHONPATH for a process of ours: this project before what this process has there."""
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
