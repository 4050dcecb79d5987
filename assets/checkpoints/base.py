"""The base model as an artifact: a folder of transformers, hashed and linked, never copied."""

from pathlib import Path
from typing import Any

from training.storage.hashing import file_digest


def files_of(base: Path) -> dict[str, str]:
    """The digest of every file of a model by its path in the folder; ValueError where there is no model."""
    files = sorted(path for path in base.rglob("*") if path.is_file())
    if not any(path.name == "config.json" for path in files):
        raise ValueError(f"no model at {base}: the profile's `base` must be a transformers folder")
    return {str(path.relative_to(base)): file_digest(path) for path in files}


def link(base: Path, target: Path) -> dict[str, Any]:
    """Makes `target` lead to the model; returns how much is there."""
    target.unlink(missing_ok=True)
    target.symlink_to(base.resolve(), target_is_directory=True)
    sizes = [path.stat().st_size for path in base.rglob("*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}
