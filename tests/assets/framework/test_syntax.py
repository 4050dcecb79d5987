"""A source's syntax does not depend on its layout; the cache never gives one source the syntax of another."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assets.framework.syntax import syntax_of
from training.runtime.project import PROJECT

BEFORE = '''"""Old."""


def f(x, *, name: str = "a"):
    """Old."""
    y = Column(description="Old.", regex="old")
    return [x + 1.0, f"{x!r:>{10}} of {name}", b"bytes", ..., None, {**x}]
'''


def tree_hash(text: str) -> str:
    return syntax_of(text.encode()).tree_hash


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (BEFORE.replace("Old.", "New, and longer."), True),
        (BEFORE.replace("x + 1.0", "(x\n        + 1.0)  # why not\n    "), True),
        (BEFORE.replace('"a"', "'a'"), True),
        (BEFORE.replace('of {name}"', 'of " f"{name}"'), True),
        (BEFORE.replace('of {name}"', 'of {name}" "!"'), False),
        (BEFORE.replace('regex="old"', 'regex="new"'), False),
        (BEFORE + '"""What follows a constant is said of it."""\n', True),
        (BEFORE.replace("1.0", "1"), False),
        (BEFORE.replace("1.0", '"1.0"'), False),
        (BEFORE.replace('b"bytes"', '"bytes"'), False),
        (BEFORE.replace("return", "yield"), False),
        (BEFORE.replace("def f", "async def f"), False),
    ],
)
def test_code_of_the_same_syntax_has_the_same_hash(text: str, same: bool) -> None:
    assert (tree_hash(text) == tree_hash(BEFORE)) is same


def test_the_version_is_the_same_whatever_python_reads_the_code() -> None:
    assert tree_hash(BEFORE) == "f847386c3649d59f"  # as 3.10 to 3.13 have it


def test_imports_count_wherever_they_stand() -> None:
    source = b"""
import a.b, c as d
from typing import TYPE_CHECKING
from e import f
if TYPE_CHECKING:
    import h
else:
    import i
def j():
    "imports k.l"
    from m.n import *
    return "o.p", "-m", "q.html.j2", "no module", f"{j}.r"
"""
    imports, names = ["a.b:", "c:", "e:f", "i:", "m.n:*", "typing:TYPE_CHECKING"], ["o.p", "q.html.j2"]
    assert syntax_of(source)[1:] == (imports, names)


def version(cache: Path) -> str:
    """The version of a module, in a new process."""
    result = subprocess.run(
        [sys.executable, "-c", "from assets.framework.code import code_of; print(code_of('assets.toyworld.source'))"],
        cwd=PROJECT, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return result.stdout.strip()


def cache_file(cache: Path) -> Path:
    (path,) = (cache / "future-l1").glob("code-*.json")
    return path


def test_the_cache_has_the_syntax_of_each_source(tmp_path: Path) -> None:
    first = version(tmp_path)
    entries = json.loads(cache_file(tmp_path).read_text())
    assert hashlib.sha256((PROJECT / "assets/toyworld/source.py").read_bytes()).hexdigest() in entries
    assert version(tmp_path) == first
    other = {key: ["0" * 16, imports, names] for key, (_, imports, names) in entries.items()}
    cache_file(tmp_path).write_text(json.dumps(other))
    assert version(tmp_path) != first, "a source in the cache is not parsed again"
    cache_file(tmp_path).write_text(json.dumps({key: ["0" * 16, [], []] for key in ("0" * 64, "1" * 64)}))
    assert version(tmp_path) == first, "an entry counts for no other source"
    cache_file(tmp_path).unlink()
    assert version(tmp_path) == first


@pytest.mark.parametrize("damaged", ["", '{"half', "[]", '{"short": "no"}', "\x00", f'{{"{"0" * 64}": 7}}'])
def test_a_damaged_cache_is_written_anew(tmp_path: Path, damaged: str) -> None:
    first = version(tmp_path)
    path = cache_file(tmp_path)
    path.write_text(damaged)
    assert version(tmp_path) == first
    assert len(json.loads(path.read_text())) > 2


def test_a_process_that_may_not_write_the_cache_parses_each_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert version(blocked) == version(tmp_path / "cache")
