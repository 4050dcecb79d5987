"""Published artifacts are reused; a changed input, config or code makes another artifact beside the one before."""

from pathlib import Path
from typing import Any

import dagster as dg
import dataframely as dy
import polars as pl
import pytest

from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result, metadata_of, result_of, table_schema
from assets.framework.partitions import Partitioning
from assets.framework.store import AssetStore

DESCRIPTION = "Rows of a test."


class RowTable(dy.Schema):
    row_id = dy.String(primary_key=True, description="the row")
    gain = dy.Int64(nullable=True, min=0, description="its gain")


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    return AssetStore(tmp_path)


def write_rows(made: list[str]) -> Any:
    def make(workspace: Path) -> dict[str, Any]:
        made.append(workspace.name)
        pl.DataFrame({"row_id": ["a", "b"], "gain": [2, 5]}).write_parquet(workspace / "rows.parquet")
        return {"rows": 2}

    return make


def test_the_same_work_is_done_once(store: AssetStore) -> None:
    made: list[str] = []
    for _ in range(2):
        work = store.work("curation/rows", {"clips": "1"}, {"top": 2}, "code")
        assert work.do(write_rows(made)).provenance["counts"] == {"rows": 2}
    assert len(made) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": {"clips": "2"}},
        {"config": {"top": 3}},
        {"code": "other code"},
    ],
)
def test_changed_work_is_done_beside_the_old(store: AssetStore, changed: dict[str, Any]) -> None:
    made: list[str] = []
    spec: dict[str, Any] = {"inputs": {"clips": "1"}, "config": {"top": 2}, "code": "code"}
    first = store.work("curation/rows", **spec).do(write_rows(made))
    second = store.work("curation/rows", **(spec | changed)).do(write_rows(made))
    assert len(made) == 2
    assert first.path.is_dir()
    assert store.current("curation/rows").version == second.version


def test_work_that_fails_publishes_nothing_and_goes_on_next_time(store: AssetStore) -> None:
    work = store.work("curation/rows", {}, {}, "code")

    def half(workspace: Path) -> dict[str, Any]:
        (workspace / "half.txt").write_text("half")
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        work.do(half)
    assert work.reuse() is None

    def rest(workspace: Path) -> dict[str, Any]:
        return {"text": (workspace / "half.txt").read_text()}

    assert work.do(rest).provenance["counts"] == {"text": "half"}


def test_a_missing_input_says_what_to_materialise(store: AssetStore) -> None:
    with pytest.raises(dg.Failure, match=r"trajectories/twiff_clips/train-00000: materialise it first"):
        store.current("trajectories/twiff_clips", "train-00000")


def test_everything_current_is_listed_by_name(store: AssetStore) -> None:
    store.work("curation/rows", {}, {}, "code").do(write_rows([]))
    store.work("trajectories/twiff_clips", {}, {}, "code", "train-00000").do(write_rows([]))
    assert list(store.everything()) == ["curation/rows", "trajectories/twiff_clips/train-00000"]


def test_metadata_has_rows_columns_counts_and_provenance(store: AssetStore) -> None:
    artifact = store.work("curation/rows", {"clips": "1"}, {"top": 2}, "code").do(write_rows([]))
    declared = Asset("curation/rows", DESCRIPTION, ("parquet",), table="rows.parquet", columns=(RowTable,))
    metadata = metadata_of(store, declared, artifact)
    assert metadata["dagster/row_count"] == 2
    assert metadata["dagster/column_schema"].columns == [
        dg.TableColumn("row_id", "String", "the row", dg.TableColumnConstraints(nullable=False, other=["key"])),
        dg.TableColumn("gain", "Int64", "its gain", dg.TableColumnConstraints(nullable=True, other=["≥ 0"])),
    ]
    with pytest.raises(KeyError, match="surprise"):
        table_schema((RowTable,), {"surprise": pl.String()})
    assert metadata["rows"] == 2
    assert metadata["provenance"] == {"inputs": {"clips": "1"}, "config": {"top": 2}, "code": "code"}
    assert result_of(store, declared, artifact).data_version == dg.DataVersion(artifact.version)


def test_a_figure_is_shown_beside_the_counts_that_it_draws(store: AssetStore) -> None:
    def draw(workspace: Path) -> dict[str, Any]:
        (workspace / "histogram.png").write_bytes(b"PNG")
        (workspace / "top_rows.md").write_text("| rank |")
        return {"histogram": {"8": 2}}

    artifact = store.work("curation/rows", {}, {}, "code").do(draw)
    previews = ("histogram.png", "top_rows.md", "not_there.md")
    metadata = metadata_of(store, Asset("curation/rows", DESCRIPTION, ("parquet",), previews=previews), artifact)
    assert metadata["histogram"] == "8: 2"
    assert metadata["histogram_figure"].value == "![histogram.png](data:image/png;base64,UE5H)"
    assert metadata["top_rows"].value == "| rank |"
    assert "not_there" not in metadata


def test_partitions_of_one_run_keep_their_own_metadata(store: AssetStore) -> None:
    partitions = dg.StaticPartitionsDefinition(["a", "b"])

    declared = Asset("curation/rows", DESCRIPTION, ("parquet",), partitions=Partitioning(partitions))

    @asset(declared)
    def rows(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        made = {
            name: store.work("curation/rows", {"shard": name}, {}, "code", name).do(write_rows([]))
            for name in context.partition_keys
        }
        return batch_result(context, store, declared, made)

    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"}
    result = dg.materialize([rows], instance=dg.DagsterInstance.ephemeral(), tags=tags)
    versions = {
        event.partition: event.step_materialization_data.materialization.metadata["version"].value
        for event in result.get_asset_materialization_events()
    }
    assert versions == {name: store.current("curation/rows", name).version for name in ("a", "b")}
    assert versions["a"] != versions["b"]
