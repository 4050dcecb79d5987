"""docs/data-contracts.md says what the schemas say, about all of them."""

import ast

from assets.contracts import PAGE, filled, named
from training.project import PROJECT


def schemas() -> set[str]:
    """Every dataframely schema that the project defines, as `module:Name`."""
    found, known = set(), {"Schema"}
    sources = [path for room in ("training", "evaluation", "assets") for path in sorted((PROJECT / room).rglob("*.py"))]
    for source in sources:
        module = ".".join(source.relative_to(PROJECT).with_suffix("").parts)
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and {ast.unparse(base).split(".")[-1] for base in node.bases} & known:
                found.add(f"{module}:{node.name}")
                known.add(node.name)
    return found


def test_the_page_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == filled(page), "python -m assets.contracts writes it again"


def test_the_page_shows_every_schema() -> None:
    missing = schemas() - named(PAGE.read_text(encoding="utf-8"))
    assert not missing and len(schemas()) > 8


def test_a_main_tables_columns_are_explained_as_on_the_assets_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "| `p_v` | Int64 | ≥ 0, null allowed | right answers with the hint, of rows answered in full |" in page


def test_a_stale_block_is_rewritten_and_the_prose_is_kept() -> None:
    block = "<!-- assets.trajectories.validate:Quarantine -->\nstale\n<!-- end -->"
    page = filled(f"before\n{block}\nafter\n")
    assert page.startswith("before\n<!--") and page.endswith("<!-- end -->\nafter\n")
    assert "stale" not in page
    assert "| `reason` | String | length ≥ 1 |" in page and "- the row can be found" in page
