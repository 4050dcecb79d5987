"""A publication holds its rows, what was left out and why, and what changed."""

from pathlib import Path

import polars as pl

from assets.curation import publication
from assets.curation.contamination import benchmark_index
from assets.curation.selection import CuratedTable, ExclusionTable, PoolTable, SelectionSettings
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards


def test_a_publication_is_complete_and_the_next_one_tells_what_changed(tmp_path: Path) -> None:
    index, settings = benchmark_index({}), SelectionSettings(top=3)
    folders = [tmp_path / "first", tmp_path / "second"]
    reports = []
    for folder, gains in zip(folders, [(8, 7, 6, 5), (8, 7, 6, 5, 8)], strict=True):
        folder.mkdir()
        rows = [trajectory(i) for i in range(len(gains))]
        files = write_shards(tmp_path / f"scored {len(gains)}", scored_of(rows, [(0, gain) for gain in gains]))
        before = ("v1", folders[0] / publication.CURATED_TABLE) if reports else None
        reports.append(publication.publish(folder, files, settings, index, before))
    wanted = {"future_l1_50k.parquet", "future_l1_50k.json", "pool.parquet", "excluded.parquet", "README.md",
              "gain_histogram.png", "composition.png"}  # fmt: skip
    assert {path.name for path in folders[0].iterdir()} == wanted
    assert {path.name for path in folders[1].iterdir()} == wanted | {"CHANGE.md"}
    schemas = {publication.CURATED_TABLE: CuratedTable, publication.POOL_TABLE: PoolTable,
               publication.EXCLUDED_TABLE: ExclusionTable}  # fmt: skip
    for name, schema in schemas.items():
        schema.validate(pl.read_parquet(folders[1] / name))
    assert (reports[1]["change"]["rows_in"], reports[1]["change"]["rows_out"]) == (1, 1)
    assert "| new | 1 |" in (folders[1] / "CHANGE.md").read_text()
