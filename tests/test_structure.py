"""The shape of the sources: imports go one way, nothing imports in a circle, and names are nouns of the field."""

import ast
import re
from collections.abc import Iterator

import pytest

from training.runtime.project import PROJECT

ORDER = ("training", "evaluation", "assets.framework", "assets.launching", "assets.trajectories", "assets.curation",
         "assets.checkpoints", "assets.benchmarks", "pipelines")  # fmt: skip
"""From the lowest up: nothing imports what stands after it.  The toy world and what lies beside the stages is free."""
SOURCES = {
    ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file
    for room in ("assets", "evaluation", "pipelines", "training")
    for file in (PROJECT / room).rglob("*.py")
}

BANNED = {
    "asked", "drawn", "eye", "found", "given", "known", "lot", "own", "said", "says", "seen", "shown", "taught", "told",
    "tried",
}  # fmt: skip
"""Participles and pronouns that say neither what a thing is nor what it is for."""


def imported(module: str, source: str) -> Iterator[str]:
    """Modules of the project that a source imports, also inside functions and under conditions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in SOURCES:
                name = name.rpartition(".")[0]
            if name and name != module:
                yield name


IMPORTS = {module: set(imported(module, file.read_text())) for module, file in SOURCES.items()}


def package(module: str) -> str:
    """The folder of a module; a module beside the folders stands for itself."""
    return ".".join(module.split(".")[:2])


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of some circle, in order; [] where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if nodes := walk(other, [*path, node]):
                return nodes
        done.add(node)
        return []

    return next((nodes for node in sorted(graph) if (nodes := walk(node, []))), [])


def test_an_import_is_seen_wherever_it_stands() -> None:
    source = "if True:\n    import training.data.video\ndef f():\n    from training.runtime import project, nothing\n"
    assert set(imported("pipelines.a", source)) == {
        "training.data.video",
        "training.runtime.project",
        "training.runtime",
    }
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room: str) -> None:
    above = tuple(f"{name}." for name in ORDER[ORDER.index(room) + 1 :])
    inside = [module for module in SOURCES if f"{module}.".startswith(f"{room}.")]
    assert inside
    for module in inside:
        assert not [other for other in IMPORTS[module] if f"{other}.".startswith(above)], module


@pytest.mark.parametrize("room", ["training", "evaluation"])
def test_what_knows_nothing_of_dagster_does_not_import_it(room: str) -> None:
    for module, file in SOURCES.items():
        if module.startswith(f"{room}."):
            assert not re.search(r"^\s*(import|from) dagster\b", file.read_text(), re.MULTILINE), module


def test_nothing_imports_in_a_circle() -> None:
    assert circle(IMPORTS) == []
    packages: dict[str, set[str]] = {}
    for module, others in IMPORTS.items():
        packages.setdefault(package(module), set()).update(package(other) for other in others)
    assert circle({name: others - {name} for name, others in packages.items()}) == []


def defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each name that a source defines, with its line: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno


def banned(name: str) -> bool:
    """Whether a name is, begins with or ends with a banned word."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name.replace("_", " "))
    return any(word.lower() in BANNED for word in words[:1] + words[-1:])


def test_names_are_nouns_of_the_field() -> None:
    bad = ["told", "_TOLD", "asked_plain", "AskedPrompt", "what_was_said", "Seen"]
    assert list(map(banned, [*bad, "unknown", "grid_lots", "known_hosts_file"])) == [True] * 6 + [False, False, True]
    files = [*SOURCES.values(), *(PROJECT / "tests").rglob("*.py")]
    definitions = [(file, line, name) for file in files for name, line in defined(ast.parse(file.read_text()))]
    wrong = [f"{file.relative_to(PROJECT)}:{line}: {name}" for file, line, name in definitions if banned(name)]
    assert not wrong, "\n".join(wrong)


def test_a_page_that_a_source_names_is_there() -> None:
    pages = re.compile(r"docs/[\w-]+\.md")
    named = {(module, page) for module, file in SOURCES.items() for page in pages.findall(file.read_text())}
    assert named
    assert not [(module, page) for module, page in sorted(named) if not (PROJECT / page).is_file()]
