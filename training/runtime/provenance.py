"""The provenance of a checkpoint, as a file beside its weights."""

import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.runtime.programs import is_first
from training.runtime.project import PROJECT
from training.storage.hashing import digest, file_digest

PROVENANCE = "provenance.json"
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft")


def provenance_of(
    program: str, data: Path, rows: int, base: Path, recipe: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Everything that a training depends on, but for the machine: read before it starts, by the first process alone.

    `base` is the model that is trained, for RL an SFT checkpoint; its hash is that of the hashes of what decides what
    it computes.
    """
    if not is_first():
        return {}
    weights = {path.name: file_digest(path) for path in sorted(base.glob("*")) if _decides(path)}
    return {
        "program": program,
        "data": {"file": data.name, "sha256": file_digest(data), "rows": rows},
        "base": {"name": base.name, "hash": digest(weights), "files": weights},
        "recipe": dict(recipe),
        "seed": seed,
        "code": {"version": _version("future-l1"), **_commit()},
        "packages": {name: _version(name) for name in PACKAGES},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """`folder`/provenance.json."""
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def _decides(path: Path) -> bool:
    """Whether a file of a model's folder says what it computes."""
    return path.is_file() and (path.name == "config.json" or path.suffix == ".safetensors")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
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
