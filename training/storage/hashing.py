"""Hashes: of values, of files, and of names, whose order stands for chance."""

import hashlib
import json
from pathlib import Path
from typing import Any


def stable_hash(*parts: object) -> int:
    """The first 64 bits of the SHA-256 of the parts, joined by colons: the same number in every process, for ever.

    Rows, prompts and frames are sampled by it: whether one is chosen depends on its name and on a seed alone.
    """
    name = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:8], "big")


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_digest(folder: Path) -> str:
    """Sixteen hex digits that change with any file of a model's folder that decides what it answers.

    Raises ValueError for a folder without weights.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja", ".txt"))
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"{folder} holds no *.safetensors: want a checkpoint's folder, with its config and tokenizer")
    return digest({path.name: file_digest(path) for path in files if path.name != "provenance.json"})


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in full."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
