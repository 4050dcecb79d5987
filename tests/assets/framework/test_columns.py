"""What is declared of columns hangs together; that it is true of real tables, the reduced demo's test says."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.framework.columns import GAIN, GIVEN_GAIN, TABLES, Table, column_metadata
from assets.framework.contracts import columns_of_schema
from pipelines.definitions import build_definitions
from pipelines.profile import demo, overlaid

ALL = [*TABLES.values(), GIVEN_GAIN]


@pytest.mark.parametrize("table", ALL, ids=[*TABLES, "given gain"])
def test_every_column_comes_from_one_that_its_asset_has(table: Table) -> None:
    for name in table.names():
        assert table.says(name)
        for came in table.of(name):
            asset, column = came.split(":")
            assert column in TABLES[asset].names(), (name, came)
    assert set(columns_of_schema(table.schema)) <= table.names()


def test_the_tables_are_those_that_the_graph_has(tmp_path: Path) -> None:
    profile = overlaid(demo(tmp_path), {"curation": {"hub": "org/set"}})
    keys = {node.key.to_user_string() for node in build_definitions(profile).resolve_asset_graph().asset_nodes}
    assert set(TABLES) <= keys


def test_a_mark_is_no_reference_although_both_are_called_answer() -> None:
    marks = TABLES["twiffbench/report"]
    assert marks.of("category") == ("twiffbench/items:category",)
    assert "twiffbench/answers:text" in marks.of("answer") and "mark" in marks.says("answer")


def test_where_the_source_brings_its_counts_no_answer_is_behind_a_gain() -> None:
    assert GIVEN_GAIN.names() == TABLES[GAIN].names()
    assert GIVEN_GAIN.of("p_t") == ("twiff/trajectories:given_p_t",)
    assert TABLES[GAIN].of("p_t") == ("curation/answers:text", "twiff/trajectories:answer")


def test_the_page_has_dagsters_columns_and_a_table_for_people() -> None:
    metadata = column_metadata(TABLES[GAIN], {"row_id": pl.String(), "p_t": pl.Int64(), "path": pl.String()})
    schema, lineage = metadata["dagster/column_schema"], metadata["dagster/column_lineage"]
    assert isinstance(schema, dg.TableSchema) and isinstance(lineage, dg.TableColumnLineage)
    row_id, p_t, path = schema.columns
    assert row_id.constraints == dg.TableColumnConstraints(nullable=False, other=["key"])
    assert p_t.constraints == dg.TableColumnConstraints(nullable=True, other=["≥ 0"])
    assert path.description == "the file"
    assert lineage.deps_by_column["path"] == [dg.TableColumnDep(dg.AssetKey(["twiff", "clips"]), "path")]
    table = metadata["columns"]
    assert isinstance(table, dg.MarkdownMetadataValue) and "| `path` | the file | `twiff/clips:path` |" in table.value


def test_a_column_that_nobody_declared_is_an_error() -> None:
    with pytest.raises(KeyError, match="surprise"):
        column_metadata(TABLES[GAIN], {"surprise": pl.String()})
