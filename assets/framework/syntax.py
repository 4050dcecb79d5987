"""The syntax of a Python source: a hash of its tree, its imports, and strings that may name modules or files.

Layout, comments, docstrings and descriptions of columns do not count, nor does the version of Python: nobody wants to
train again for a mended sentence.  Parsing all sources takes a second, and every process of a run needs them, so the
syntaxes are cached in the user's cache folder by the hash of their sources.  The cache may be deleted at any time.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

CACHE_VARIABLE = "XDG_CACHE_HOME"
MAX_CACHED = 2_000
"""The most sources in the cache; a larger one is discarded."""
_NAME = re.compile(r"[\w/-]+(\.[\w-]+)+", re.ASCII)


class Syntax(NamedTuple):
    """The syntax of one source.

    `imports`, those inside functions included, as `module:` or `module:name`; what only type checkers import is left
    out, and relative ones are banned by lint.  `names`: strings that may name a module or a file.
    """

    tree_hash: str
    imports: list[str]
    names: list[str]


_ENTRIES = TypeAdapter(dict[str, Syntax])


def syntax_of(source: bytes) -> Syntax:
    """The syntax of a source.  Raises SyntaxError if it is no Python."""
    tree = ast.parse(source)
    tree_hash = hashlib.sha256(json.dumps(_normalised(tree), separators=(",", ":")).encode()).hexdigest()[:16]
    nodes = list(_counted_nodes(tree))
    strings = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return Syntax(
        tree_hash,
        sorted({name for node in nodes for name in _imported(node)}),
        sorted({string for string in strings if len(string) < 200 and _NAME.fullmatch(string)}),
    )


class SyntaxCache:
    """Syntaxes by the hash of their sources, shared with later processes."""

    def __init__(self) -> None:
        self._path = _cache_path()
        self._entries = _load(self._path) if self._path else {}
        self._n_saved = len(self._entries)

    def syntax_of(self, source: bytes) -> Syntax:
        """The syntax of a source.  Raises SyntaxError if it is no Python."""
        key = hashlib.sha256(source).hexdigest()
        if key not in self._entries:
            self._entries[key] = syntax_of(source)
        return self._entries[key]

    def save(self) -> None:
        """Writes the cache atomically; a process that may not write there parses all sources each time."""
        if self._path is None or len(self._entries) == self._n_saved:
            return
        self._n_saved = len(self._entries)
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")  # each writer its own
            fresh.write_text(json.dumps(self._entries))
            fresh.replace(self._path)


def _counted_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except docstrings and those below `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _counted_nodes(other)
        elif not _is_docstring(child):
            yield from _counted_nodes(child)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"{name.name}:" for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}:{name.name}" for name in node.names)


def _normalised(node: Any) -> Any:
    """The tree without docstrings, descriptions and empty fields: which fields may be empty differs between Pythons."""
    if isinstance(node, ast.JoinedStr):
        return ["JoinedStr", *_pieces(node.values)]
    if isinstance(node, ast.AST):
        fields = [(name, _normalised(getattr(node, name))) for name in node._fields if name not in ("ctx", "kind")]
        return [type(node).__name__, *([name, value] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [_normalised(one) for one in node if not _is_docstring(one) and not _is_description(one)]
    return node if isinstance(node, str | int | None) else [type(node).__name__, repr(node)]


def _pieces(values: list[ast.expr]) -> list[Any]:
    """The pieces of an f-string, neighbouring texts joined: Pythons cut them differently."""
    pieces: list[Any] = []
    for one in values:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            if pieces and isinstance(pieces[-1], str):
                pieces[-1] += one.value
            elif one.value:
                pieces.append(one.value)
        else:
            pieces.append(_normalised(one))
    return pieces


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_description(node: Any) -> bool:
    """Whether this is the argument `description="..."`, which documents a column as a docstring documents a class."""
    return isinstance(node, ast.keyword) and node.arg == "description" and isinstance(node.value, ast.Constant)


def _load(path: Path) -> dict[str, Syntax]:
    """The entries of a cache file; none where it cannot be read or holds something else."""
    try:
        entries = _ENTRIES.validate_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return entries if len(entries) <= MAX_CACHED else {}


def _cache_path() -> Path | None:
    """The file in the user's cache folder, another one for each version of this module; None without a home."""
    try:
        folder = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache")
    except RuntimeError:
        return None
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return folder / "future-l1" / f"code-{version}.json"
