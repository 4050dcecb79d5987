"""Code versions of assets: the roots are named, their dependencies follow from imports.

Roots are the modules of the asset's stage that decide what an artifact holds, and the program that it starts.  With
them counts every module of the project that they reach: by an import, also inside a function, or by its name in a
string, as programs and child processes are started; and every file that one of these names and that lies beside it or
in a package around it, such as a template.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from assets.framework.syntax import Syntax, SyntaxCache
from training.runtime.project import PROJECT
from training.storage.hashing import digest

ROOMS = ("assets", "evaluation", "pipelines", "training")
NEVER_COUNT = (
    "pipelines",
    # How an asset is declared, versioned and described; so does every module that imports Dagster (`Code.counts`).
    "assets.framework",
    # How programs are started.
    "assets.generation", "assets.launching", "evaluation.generation.program",
    # Recipes: their values are part of an artifact's version.
    "training.recipes",
    # What runs a program and reports its progress, and how artifacts are stored.
    "training.runtime", "training.storage",
    # The plug-in of lmms-eval, which no asset runs.
    "evaluation.lmms_eval",
    # The plug-in of vLLM, whose server has its own copy of it.
    "training.engines",
    # How artifacts are pushed to a hub.
    "assets.hub",
    # How requests are sent and retried.
    "training.chat.client", "training.chat.connection", "training.chat.endpoint", "training.chat.server",
)  # fmt: skip
"""Modules and packages that do not decide what an artifact holds: a mended retry must not train a model again."""


class Code:
    """The sources of a project's packages, read when they are needed."""

    def __init__(self, project: Path) -> None:
        paths = (path for room in ROOMS for path in (project / room).rglob("*") if path.parent.name != "__pycache__")
        files = {path.relative_to(project).as_posix(): path for path in paths}
        self._modules = {_module(file): file for file in files if file.endswith(".py")}
        self._files = files
        self._cache = SyntaxCache()
        self._syntaxes: dict[str, Syntax] = {}

    def version(self, *roots: str) -> str:
        """The hash of all that the roots reach: the syntax of Python sources, and the bytes of other files."""
        version = digest(self.reached(*roots))
        self._cache.save()
        return version

    def reached(self, *roots: str) -> dict[str, str]:
        """The hashes of the files that count for these modules and programs, by their paths in the project.

        Raises ValueError for a root that is no module or never counts.
        """
        waiting = [module for root in roots for module in self._root(root)]
        reached: dict[str, str] = {}
        while waiting:
            module = waiting.pop()
            if (file := self._modules[module]) in reached or not self.counts(module):
                continue
            reached[file] = self.syntax(module).tree_hash
            reached |= {path: self._hash(path) for path in self.data(module)}
            waiting += self.references(module)
        return reached

    def counts(self, module: str) -> bool:
        """Whether the module can decide what an artifact holds.

        In assets/, modules that import Dagster declare, store, retry or start; the logic stands beside them.  A stage's
        settings never count: their values are part of an artifact's version.
        """
        if any(module == one or module.startswith(f"{one}.") for one in NEVER_COUNT):
            return False
        if not module.startswith("assets."):
            return True
        return not module.endswith(".settings") and "dagster:" not in self.syntax(module).imports

    def modules(self) -> dict[str, str]:
        """The path of each module's source by its name."""
        return dict(self._modules)

    def syntax(self, module: str) -> Syntax:
        if module not in self._syntaxes:
            self._syntaxes[module] = self._cache.syntax_of(self._files[self._modules[module]].read_bytes())
        return self._syntaxes[module]

    def references(self, module: str) -> set[str]:
        """The modules that a module imports, with the packages that they are in, and the programs that it names."""
        references: set[str] = set()
        for one in self.syntax(module).imports:
            base, _, name = one.rpartition(":")
            references.update(_with_packages(f"{base}.{name}" if f"{base}.{name}" in self._modules else base))
        for name in self.syntax(module).names:
            references.update(self._program(name))
        return {reference for reference in references if reference in self._modules}

    def data(self, module: str) -> Iterator[str]:
        """The files that a module names and that lie beside it or in a package around it."""
        for folder in Path(self._modules[module]).parents[:-1]:
            paths = (f"{folder.as_posix()}/{name}" for name in self.syntax(module).names)
            yield from (path for path in paths if path in self._files and self._files[path].is_file())

    def _root(self, root: str) -> set[str]:
        program = self._program(root)
        empty = f"{root.replace('.', '/')}/__init__.py" in self._files and f"{root}.__main__" not in program
        if root not in program or empty or not self.counts(root):
            raise ValueError(f"{root!r} is no module of the project that decides what an artifact holds")
        return program

    def _program(self, name: str) -> set[str]:
        """The modules that `python -m name` runs: its own, and the packages that it is in."""
        return {one for one in (*_with_packages(name), f"{name}.__main__") if one in self._modules}

    def _hash(self, path: str) -> str:
        return hashlib.sha256(self._files[path].read_bytes()).hexdigest()[:16]


def code_of(*roots: str) -> str:
    """The version of the code that these modules and programs reach.

    Raises ValueError for a root that is no module or never counts.
    """
    return _project().version(*roots)


@cache
def _project() -> Code:
    return Code(PROJECT)


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _with_packages(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts) + 1))
