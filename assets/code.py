"""The version of code: what a set of Python sources says, whoever wrote it how.

Layout, comments and docstrings do not count, nor does the Python that reads it: nobody wants to train again for a
mended sentence.  Reading all sources takes a second, and every process of a run does it, so what each file says is
remembered in the user's cache folder by the hash of its bytes.  What is remembered may be deleted at any time.
"""

import ast
import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from training.artifacts import digest
from training.project import PROJECT

CACHE_VARIABLE = "XDG_CACHE_HOME"
MOST = 5_000
"""Files that are remembered; beyond that the memory begins anew."""


def code_of(*paths: str) -> str:
    """A version for the code in these files and packages of the project: the hash of what their Python sources say.

    Raises ValueError for a path without any.
    """
    sources: list[Path] = []
    for path in paths:
        found = [PROJECT / path] if path.endswith(".py") else sorted((PROJECT / path).rglob("*.py"))
        if not found or not all(source.is_file() for source in found):
            raise ValueError(f"no Python source at {path} in {PROJECT}")
        sources += found
    known = _remembered()
    before = len(known)
    said = {str(source.relative_to(PROJECT)): _said(source.read_bytes(), known) for source in sources}
    if len(known) > before:
        _remember(known)
    return digest(said)


def meaning(text: str | bytes) -> str:
    """The hash of what a source says: its syntax tree without strings that stand alone, and without what is empty,
    since what may be empty differs from one Python to the next."""
    return hashlib.sha256(json.dumps(_form(ast.parse(text)), separators=(",", ":")).encode()).hexdigest()[:16]


def _form(node: Any) -> Any:
    if isinstance(node, ast.JoinedStr):
        return ["JoinedStr", *_pieces(node.values)]
    if isinstance(node, ast.AST):
        fields = [(name, _form(getattr(node, name))) for name in node._fields if name not in ("ctx", "kind")]
        return [type(node).__name__, *([name, value] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [_form(one) for one in node if not _is_docstring(one)]
    return node if isinstance(node, str | int | None) else [type(node).__name__, repr(node)]


def _pieces(values: list[ast.expr]) -> list[Any]:
    """An f-string's pieces, neighbouring texts as one: Pythons cut them differently."""
    pieces: list[Any] = []
    for one in values:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            if pieces and isinstance(pieces[-1], str):
                pieces[-1] += one.value
            elif one.value:
                pieces.append(one.value)
        else:
            pieces.append(_form(one))
    return pieces


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _said(text: bytes, known: dict[str, str]) -> str:
    key = hashlib.sha256(text).hexdigest()
    if key not in known:
        known[key] = meaning(text)
    return known[key]


@cache
def _remembered() -> dict[str, str]:
    """What files say by the hash of their bytes, as far as earlier processes left it whole."""
    path = _memory()
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or len(found) > MOST:
        return {}
    return {key: said for key, said in found.items() if isinstance(said, str) and len(key) == 64 and len(said) == 16}


def _remember(known: dict[str, str]) -> None:
    """For later processes, whole or not at all; who may not write there reads all sources each time."""
    path = _memory()
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")  # each writer its own
        fresh.write_text(json.dumps(known))
        fresh.replace(path)


def _memory() -> Path | None:
    """The file in the user's cache folder, another one for another way to read sources; None without a home."""
    try:
        folder = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache")
    except RuntimeError:
        return None
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return folder / "future-l1" / f"code-{own}.json"
