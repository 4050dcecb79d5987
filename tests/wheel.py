"""The project's wheel, as a user would build it."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from assets.framework.code import ROOMS
from training.runtime.project import PROJECT

SOURCES = (*ROOMS, "instance", "profiles", "pyproject.toml", "README.md")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheel(folder: Path) -> Path:
    """Builds the wheel into `folder` and returns its path; raises CalledProcessError, with pip's words on stderr.

    From a copy of the sources: building leaves files beside them, and takes those that a build left before.
    """
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary)
        for name in SOURCES:
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            copy(PROJECT / name, sources / name)
        subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", folder, sources], check=True)
    (wheel,) = folder.iterdir()
    return wheel


def install_wheel(wheel: Path, python: Path) -> None:
    """Installs the wheel, and none of its dependencies, into the environment of `python`."""
    subprocess.run(
        [*PIP, "--python", python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel], check=True
    )
