"""The provenance of a checkpoint, as a file beside its weights."""

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from training.runtime.programs import is_first
from training.runtime.project import commit
from training.storage.files import read_json
from training.storage.hashing import digest, file_digest

PROVENANCE = "provenance.json"
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft")


class DataFacts(BaseModel):
    file: str
    sha256: str
    version: str | None
    rows: int


class BaseFacts(BaseModel):
    name: str
    hash: str
    provenance: "Provenance | None" = None


class RecipeFacts(BaseModel):
    name: str
    latent_keep_prob: tuple[float, ...] = ()


class CodeFacts(BaseModel):
    version: str | None
    commit: str | None
    changed: bool = False


class Provenance(BaseModel):
    """The fields of provenance.json that others read; it has more."""

    program: Literal["training.sft", "training.rl"]
    data: DataFacts
    base: BaseFacts
    recipe: RecipeFacts
    seed: int
    code: CodeFacts
    packages: dict[str, str | None]
    processes: int
    steps: int
    dtype: str
    metrics: dict[str, float]


def provenance_of(
    program: str, data: Path, version: str | None, rows: int, base: Path, recipe: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Everything that a training depends on, but for the machine: read before it starts, by the first process alone.

    `version` is that of the artifact with the data.  `base` is the model that is trained, for RL an SFT checkpoint with
    a provenance of its own; its hash is that of the hashes of what decides what it computes.
    """
    if not is_first():
        return {}
    weights = {path.name: file_digest(path) for path in sorted(base.glob("*")) if _decides(path)}
    return {
        "program": program,
        "data": {"file": data.name, "sha256": file_digest(data), "version": version, "rows": rows},
        "base": _identity(base) | {"hash": digest(weights), "files": weights},
        "recipe": dict(recipe),
        "seed": seed,
        "code": {"version": _version("future-l1"), **commit()},
        "packages": {name: _version(name) for name in PACKAGES},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def read_provenance(checkpoint: Path) -> dict[str, Any] | None:
    """`checkpoint`/provenance.json; None for a model that no training of this project, as it is now, has made."""
    try:
        provenance = read_json(checkpoint / PROVENANCE)
        Provenance.model_validate(provenance)
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return provenance


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """`folder`/provenance.json."""
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=1) + "\n")


def _identity(base: Path) -> dict[str, Any]:
    """The name of a model: its recipe's, with its whole provenance, or its folder's."""
    if provenance := read_provenance(base):
        return {"name": provenance["recipe"]["name"], "provenance": provenance}
    return {"name": base.resolve().name}


def _decides(path: Path) -> bool:
    """Whether a file of a model's folder says what it computes."""
    return path.is_file() and (path.name == "config.json" or path.suffix == ".safetensors")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
