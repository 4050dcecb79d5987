"""Tables are read by the path that they have, whatever is in it."""

import ast
from pathlib import Path

import polars as pl
import pytest

from training.runtime.project import PROJECT
from training.storage.parquet import read_parquet, scan_parquet

TABLE = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
NASTY = ("a[1]", "*", "?", "a=9", "%20", "{x,y}", "-d", "a:b", "一 二", "s3:", "~", "$HOME", "\n")


@pytest.mark.parametrize("name", NASTY)
def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / name / f"{name}.{number}.parquet" for number in range(2)]
    paths[0].parent.mkdir()
    (tmp_path / "decoy").mkdir()
    for path in (*paths, tmp_path / "decoy" / "1.parquet"):
        TABLE.write_parquet(path)
    assert read_parquet(paths[0]).equals(TABLE)
    assert read_parquet(paths[0], columns=["b"]).equals(TABLE.select("b"))
    assert scan_parquet(*paths).collect().equals(pl.concat([TABLE, TABLE]))
    assert scan_parquet(paths[1]).collect_schema() == TABLE.schema


@pytest.mark.parametrize("broken", [b"", b"PAR1", b"no table at all", b"PAR1" + b"\0" * 90 + b"PAR1"])
def test_what_is_no_table_is_named(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(broken)
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as a parquet table"):
        read_parquet(tmp_path / "t.parquet")


def test_a_half_of_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": range(10_000)}).write_parquet(path)
    content = path.read_bytes()
    for cut in (content[:-1], content[: len(content) // 2], content[:100] + b"\xff" * 400 + content[500:]):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"t\.parquet cannot be read as a parquet table"):
            read_parquet(path)


def test_no_query_reads_a_table_by_its_path() -> None:
    """The readers of polars and duckdb are banned by name in pyproject.toml; duckdb also reads what a query names."""
    for room in ("assets", "evaluation", "pipelines", "training"):
        for file in (PROJECT / room).rglob("*.py"):
            texts = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
            assert not [text for text in texts if isinstance(text, str) and "_parquet(" in text], file
