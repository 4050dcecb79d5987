"""What a Python source says, whoever wrote it how: a hash of its syntax tree, and the names that lead elsewhere.

Layout, comments, docstrings and descriptions of columns do not count, nor does the Python that reads it: nobody wants
to train again for a mended sentence.  Parsing all sources takes a second, and every process of a run needs them, so
what each file says is remembered in the user's cache folder by the hash of its bytes.  What is remembered may be
deleted at any time.
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

CACHE_VARIABLE = "XDG_CACHE_HOME"
MAX_REMEMBERED = 2_000
"""Sources that are remembered; beyond that the memory begins anew."""
_NAME = re.compile(r"[\w/-]+(\.[\w-]+)+", re.ASCII)


class Syntax(NamedTuple):
    """What one source says.

    `imports`, those inside functions among them, as `module:` or `module:name`, with a dot before for each level of a
    relative one; what only type checkers import is left out.  `names`: strings that may name a module or a file.
    """

    meaning: str
    imports: list[str]
    names: list[str]


def syntax_of(source: bytes) -> Syntax:
    """Raises SyntaxError where it is no Python."""
    tree = ast.parse(source)
    meaning = hashlib.sha256(json.dumps(_form(tree), separators=(",", ":")).encode()).hexdigest()[:16]
    nodes = list(_run(tree))
    strings = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return Syntax(
        meaning,
        sorted({name for node in nodes for name in _imported(node)}),
        sorted({string for string in strings if len(string) < 200 and _NAME.fullmatch(string)}),
    )


class SyntaxMemory:
    """Syntaxes by the hash of their sources, as far as earlier processes left them whole."""

    def __init__(self) -> None:
        self._path = _memory_path()
        self._known = _remembered(self._path) if self._path else {}
        self._kept = len(self._known)

    def syntax_of(self, source: bytes) -> Syntax:
        """What a source says, parsed once for all processes.  Raises SyntaxError where it is no Python."""
        key = hashlib.sha256(source).hexdigest()
        if key not in self._known:
            self._known[key] = syntax_of(source)
        return self._known[key]

    def keep(self) -> None:
        """For later processes, whole or not at all; who may not write there parses all sources each time."""
        if self._path is None or len(self._known) == self._kept:
            return
        self._kept = len(self._known)
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")  # each writer its own
            fresh.write_text(json.dumps(self._known))
            fresh.replace(self._path)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but docstrings and what stands below `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from _run(other)
        elif not _is_docstring(child):
            yield from _run(child)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"{name.name}:" for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{'.' * node.level}{node.module or ''}:{name.name}" for name in node.names)


def _form(node: Any) -> Any:
    """The tree without strings that stand alone, and without what is empty: what may be empty differs from one Python
    to the next."""
    if isinstance(node, ast.JoinedStr):
        return ["JoinedStr", *_pieces(node.values)]
    if isinstance(node, ast.AST):
        fields = [(name, _form(getattr(node, name))) for name in node._fields if name not in ("ctx", "kind")]
        return [type(node).__name__, *([name, value] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [_form(one) for one in node if not _is_docstring(one) and not _is_description(one)]
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


def _is_description(node: Any) -> bool:
    """Whether this is the argument `description="..."`, which documents a column as a docstring documents a class."""
    return isinstance(node, ast.keyword) and node.arg == "description" and isinstance(node.value, ast.Constant)


def _remembered(path: Path) -> dict[str, Syntax]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or len(found) > MAX_REMEMBERED:
        return {}
    return {key: Syntax(*value) for key, value in found.items() if len(key) == 64 and _is_syntax(value)}


def _is_syntax(value: Any) -> bool:
    match value:
        case [str() as meaning, list() as imports, list() as names]:
            return len(meaning) == 16 and all(isinstance(one, str) for one in [*imports, *names])
    return False


def _memory_path() -> Path | None:
    """The file in the user's cache folder, another one for another way to read sources; None without a home."""
    try:
        folder = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache")
    except RuntimeError:
        return None
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    return folder / "future-l1" / f"code-{own}.json"
