"""Texts that are written from code follow the code."""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

from pipelines.alerts import WEBHOOK_VARIABLE
from pipelines.profile import RUNS, demo, paper
from tests.frozen import CONTRACTS, FROZEN, schemas_on, with_schemas
from tests.profile_fields import profile_fields
from training.runtime.project import PROJECT

TABLES_OF_VALUES = {"curation.rl_sets"} | {
    f"launch.{name}" for name in ("num_processes", "accelerate_config", "max_parallel", "environment", "timeout")
}
"""Fields of a profile whose keys are names, and no fields."""


def schemas() -> set[str]:
    """Every dataframely schema that the project defines, as `module:Name`."""
    names, bases = set(), {"Schema"}
    sources = [path for room in ("training", "evaluation", "assets") for path in sorted((PROJECT / room).rglob("*.py"))]
    for source in sources * 2:  # a base may stand in a later file
        module = ".".join(source.relative_to(PROJECT).with_suffix("").parts)
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and {ast.unparse(base).split(".")[-1] for base in node.bases} & bases:
                names.add(f"{module}:{node.name}")
                bases.add(node.name)
    return names


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.name)
def test_frozen_texts_follow_the_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    text = path.read_text(encoding="utf-8")
    fresh = FROZEN[path](text)
    changed = list(unified_diff(text.splitlines(), fresh.splitlines(), path.name, "the code", lineterm="", n=1))
    assert not changed, "\n".join(["if that is meant, `make regenerate` records it:", *changed])


def test_the_page_of_contracts_shows_every_schema() -> None:
    missing = schemas() - schemas_on(CONTRACTS.read_text(encoding="utf-8"))
    assert not missing and len(schemas()) > 8


@pytest.mark.parametrize("name", sorted(schemas()))
def test_every_column_has_a_description(name: str) -> None:
    module, schema = name.split(":")
    columns = getattr(importlib.import_module(module), schema).columns().values()
    assert [column.name for column in columns if not column.description] == []


def test_every_field_of_a_profile_is_in_the_table_and_has_a_meaning() -> None:
    fields = {field.path: field for field in profile_fields()}
    assert [path for path, field in fields.items() if not field.meaning] == []
    assert len(fields) == len(profile_fields()) > 150
    assert {leaf for preset in (demo, paper) for leaf in leaves(preset(Path("/home")).model_dump(mode="json"))} <= {
        re.sub(r" \(\w+\)", "", path) for path in fields
    }


def leaves(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of the values in a profile's dump; a run's name is NAME."""
    for name, value in table.items():
        here = f"{path}.{name}".lstrip(".")
        if here in RUNS:
            yield from (leaf for run in value for leaf in leaves(run, f"{here}.NAME"))
        elif isinstance(value, Mapping) and here not in TABLES_OF_VALUES:
            yield from leaves(value, here)
        else:
            yield here


def test_a_stale_block_is_rewritten_and_the_prose_is_kept() -> None:
    block = "<!-- assets.trajectories.validate:Quarantine -->\nstale\n<!-- end -->"
    page = with_schemas(f"before\n{block}\nafter\n")
    assert page.startswith("before\n<!--") and page.endswith("<!-- end -->\nafter\n")
    assert "stale" not in page
    assert "| `reason` | String | length ≥ 1 |" in page and "- a row number or id is there" in page
