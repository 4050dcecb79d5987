"""Shards: a file of many rows is cut into several of at most `rows_per_partition`, which pull what the file holds."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.trajectories import sources
from assets.trajectories.settings import SourceSettings
from assets.trajectories.shards import TAIL_BYTES, Shard, SourceFile, cut_into_shards
from assets.trajectories.sources import LocalSource, count_rows, source_shards
from assets.trajectories.validate import PulledTable, Quarantine, read_shard, write_shard
from tests.assets.trajectories.shard_rows import twiff_row
from tests.hub import serve
from training.data import json_rows, parquet_rows

ROWS = 11
FORMATS = ("parquet", "jsonl", "jsonl.gz", "json")


def file_of(path: Path, row_group_size: int = 4) -> Path:
    """A file of ROWS rows: row 4 is malformed, row 9 the same as row 2; JSON lines have a blank line 6, too."""
    rows = [twiff_row(video=f"{number}.mp4") for number in range(ROWS)]
    rows[4] = twiff_row(reasoning_images_index=[9])
    rows[9] = rows[2]
    lines = [json.dumps(row) for row in rows]
    lines.insert(6, "")
    match path.name.partition(".")[2]:
        case "parquet":
            pq.write_table(pl.DataFrame(rows).to_arrow(), path, row_group_size=row_group_size)
        case "json":
            path.write_text(json.dumps(rows, indent=1))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(lines).encode()))
        case _:
            path.write_text("\n".join(lines))
    return path


def shards_of(location: Path | str, rows_per_partition: int, scratch: Path) -> dict[str, Shard]:
    settings = SourceSettings(
        trajectories=location, clips=(), futurebench=scratch, twiffbench=scratch, rows_per_partition=rows_per_partition
    )
    return source_shards(settings, scratch)[2]


def pulled(shard: Shard) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The numbers and ids of the rows that a shard keeps, and the numbers and reasons of the others."""
    batches = list(read_shard(Path(shard.path), shard.name, shard.rows, shard.is_last))
    rows = pl.concat([PulledTable.create_empty(), *(rows for rows, _ in batches)])
    rejected = pl.concat([Quarantine.create_empty(), *(rejected for _, rejected in batches)])
    assert {*rows["source"], *rejected["source"]} <= {shard.name}
    return rows.select("row", "row_id").rows(), rejected.select("row", "reason").rows()


@given(st.integers(0, 50), st.integers(1, 12))
def test_shards_are_neighbouring_ranges_of_all_rows(rows: int, rows_per_partition: int) -> None:
    file = SourceFile("train", "/train.parquet", "stamp", 1000)
    shards = list(cut_into_shards([file], {"train": rows}, rows_per_partition, "/").values())
    assert [shard.rows.start for shard in shards] == list(range(0, max(1, rows), rows_per_partition))
    assert all(len(shard.rows) == rows_per_partition for shard in shards)
    assert [shard.is_last for shard in shards] == [False] * (len(shards) - 1) + [True]
    assert [shard.name for shard in shards] == sorted(shard.name for shard in shards)


def test_a_file_that_fits_has_its_own_name_version_and_stamp_and_one_that_grows_keeps_its_names() -> None:
    file = SourceFile("train", "/train.parquet", "stamp", 1000)
    (whole,) = cut_into_shards([file], {"train": 10}, 10, "/").values()
    assert (whole.name, whole.stamp, whole.version("sha")) == ("train", "stamp", "sha")
    cut = [list(cut_into_shards([file], {"train": rows}, 10, "/")) for rows in (11, 20, 31)]
    assert cut[0] == cut[1] == ["train", "train--rows-00000010"]
    assert cut[2] == [*cut[1], "train--rows-00000020", "train--rows-00000030"]


def test_other_bounds_are_other_stamps_and_versions_of_the_shards_that_they_move() -> None:
    file = SourceFile("train", "/train.parquet", "stamp", 1000)
    ten, twelve = (cut_into_shards([file], {"train": 15}, rows, "/") for rows in (10, 12))
    assert ten["train"].stamp != twelve["train"].stamp != file.stamp
    assert ten["train"].version("sha") != twelve["train"].version("sha")


def test_a_shard_that_has_the_name_of_another_file_is_an_error_that_names_both() -> None:
    files = [SourceFile(name, f"/{name}.parquet", "", 1) for name in ("train", "train--rows-00000010")]
    with pytest.raises(ValueError, match=r"/train\.parquet and /train--rows-00000010\.parquet .*shard 'train--rows"):
        cut_into_shards(files, {"train": 11}, 10, "/")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows_per_partition", [1, 3, 4, 6, 100])
def test_shards_pull_what_their_file_holds_under_the_numbers_of_its_rows(
    kind: str, rows_per_partition: int, tmp_path: Path
) -> None:
    path = file_of(tmp_path / f"s.{kind}")
    shards = shards_of(path, rows_per_partition, tmp_path)
    lines = ROWS + ("l" in kind.partition("json")[2])
    assert len(shards) == -(-lines // rows_per_partition)
    parts = [pulled(shard) for shard in shards.values()]
    kept, rejected = ([row for part in parts for row in part[side]] for side in (0, 1))
    rows, quarantine = pulled(Shard("s", SourceFile("s", str(path), "", 1), range(100), True))
    repeated = quarantine.pop()
    assert repeated[1] == "repeated row"
    in_one_shard = any(repeated in part[1] for part in parts)  # else the row is an earlier shard's, which is seen later
    first_id = dict(rows)[2]
    assert kept == (rows if in_one_shard else sorted([*rows, (repeated[0], first_id)]))
    assert rejected == [*quarantine, *([repeated] if in_one_shard else [])]


@pytest.mark.parametrize("row_group_size", [1, 2, 5, 100])
@pytest.mark.parametrize("batch", [1, 3, 2048])
def test_parquet_is_read_from_any_row_of_any_group(
    row_group_size: int, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "BATCH_ROWS", batch)
    path = file_of(tmp_path / "s.parquet", row_group_size)
    rows = list(parquet_rows.parquet_rows(path, lambda schema: ["video"]))
    for first in range(ROWS + 2):
        assert list(parquet_rows.parquet_rows(path, lambda schema: ["video"], first=first)) == rows[first:]


def test_a_row_group_before_a_shard_is_not_read(tmp_path: Path) -> None:
    path = file_of(tmp_path / "s.parquet")
    first = pq.ParquetFile(path).metadata.row_group(0)
    size = sum(first.column(number).total_compressed_size for number in range(first.num_columns))
    content = bytearray(path.read_bytes())
    content[4 : 4 + size] = b"\0" * size
    path.write_bytes(content)
    counts = [
        write_shard(path, name, tmp_path / "rows", tmp_path / "quarantine", shard.rows, shard.is_last)
        for name, shard in shards_of(path, 4, tmp_path).items()
    ]
    assert ["broken" in count for count in counts] == [True, False, False]
    assert pl.read_parquet(tmp_path / "quarantine").is_empty()
    assert [count["rows"] for count in counts] == [0, 3, 3]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_rows_of_a_file_are_counted_once_until_it_changes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[Path] = []

    def counting(source: Any, file: SourceFile, scratch: Path) -> int:
        counted.append(Path(file.path))
        return count_rows(source, file, scratch)

    monkeypatch.setattr(sources, "count_rows", counting)
    path = file_of(tmp_path / f"s.{kind}")
    for _ in range(2):
        assert len(shards_of(path, 6, tmp_path / "work")) == 2
    assert counted == [path]
    path.write_bytes(file_of(tmp_path / f"again.{kind}").read_bytes())
    assert len(shards_of(path, 6, tmp_path / "work")) == 2
    assert counted == [path, path]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_cannot_be_counted_is_one_shard_whose_pull_says_why(kind: str, tmp_path: Path) -> None:
    path = file_of(tmp_path / f"s.{kind}")
    path.write_bytes(b"\0" if kind == "jsonl" else path.read_bytes()[:-20])
    file_of(tmp_path / "t.jsonl")
    shards = shards_of(tmp_path, 6, tmp_path / "work")
    assert list(shards) == ["s", "t", "t--rows-00000006"]
    shard = shards["s"]
    counts = write_shard(path, "s", tmp_path / "rows", tmp_path / "quarantine", shard.rows, shard.is_last)
    assert counts["rows"] == 0 and counts["quarantined"] == 1
    reasons = {"parquet": "cannot be read as parquet", "json": "is not JSON", "jsonl.gz": "cannot be read to its end"}
    assert kind == "jsonl" or (f"s.{kind}" in counts["broken"] and reasons[kind] in counts["broken"])


def test_a_download_that_arrives_damaged_is_one_shard_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file_of(folder / "s.parquet")
    file_of(folder / "t.jsonl")
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.commit("lab/twiff", folder)
        hub.spoilt = True  # what it keeps outside of git: parquet
        shards = shards_of("hf://datasets/lab/twiff@main", 6, tmp_path / "work")
        assert list(shards) == ["s", "t", "t--rows-00000006"]
        hub.spoilt = False
        shards = shards_of("hf://datasets/lab/twiff@main", 6, tmp_path / "work")
    assert list(shards) == ["s", "s--rows-00000006", "t", "t--rows-00000006"]


@pytest.mark.parametrize("size", [100, 2 * TAIL_BYTES])
def test_a_file_that_went_away_is_not_counted_and_stops_no_other(size: int, tmp_path: Path) -> None:
    gone = SourceFile("s", str(tmp_path / "s.parquet"), "", size)
    with pytest.raises(ValueError, match=r"s\.parquet cannot be read"):
        count_rows(LocalSource(tmp_path), gone, tmp_path)


def test_a_file_with_more_rows_than_were_counted_is_a_broken_shard(tmp_path: Path) -> None:
    path = file_of(tmp_path / "s.jsonl")
    (*_, last) = shards_of(path, 6, tmp_path / "work").values()
    with path.open("a") as lines:
        lines.write("\n" + json.dumps(twiff_row(video="new.mp4")))
    counts = write_shard(path, last.name, tmp_path / "rows", tmp_path / "quarantine", last.rows, last.is_last)
    assert "s.jsonl has more than the 12 rows that were counted: list the source again" in counts["broken"]
    assert pl.read_parquet(tmp_path / "quarantine")["row"].to_list() == [6]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_too_many_rows_is_a_broken_shard(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_ROWS", 8)
    monkeypatch.setattr(parquet_rows, "MAX_ROWS", 8)
    path = file_of(tmp_path / f"s.{kind}")
    (shard,) = shards_of(path, 3, tmp_path / "work").values()
    counts = write_shard(path, "s", tmp_path / "rows", tmp_path / "quarantine", shard.rows, shard.is_last)
    assert "make several files of it" in counts["broken"]


def test_of_remote_parquet_only_the_end_is_read_before_the_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    size = file_of(folder / "s.parquet").stat().st_size
    for module in ("hub", "sources"):
        monkeypatch.setattr(f"assets.trajectories.{module}.TAIL_BYTES", size - 100)
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.commit("lab/twiff", folder)
        for _ in range(2):
            shards = shards_of("hf://datasets/lab/twiff@main", 6, tmp_path / "work")
            assert list(shards) == ["s", "s--rows-00000006"]
        assert [request.start for request in hub.downloads()] == [100]


def test_remote_parquet_with_more_metadata_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hub", "sources"):
        monkeypatch.setattr(f"assets.trajectories.{module}.TAIL_BYTES", 100)
    folder = tmp_path / "data"
    folder.mkdir()
    file_of(folder / "s.parquet")
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.commit("lab/twiff", folder)
        assert len(shards_of("hf://datasets/lab/twiff@main", 6, tmp_path / "work")) == 2
        assert len(hub.downloads()) == 2


def test_a_file_at_a_url_is_cut_as_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setattr("assets.trajectories.sources.TAIL_BYTES", 100)
    memory = fsspec.filesystem("memory")
    for kind in ("parquet", "jsonl"):
        memory.pipe(f"/bucket/cut/{kind[0]}.{kind}", file_of(tmp_path / f"s.{kind}").read_bytes())
    try:
        shards = shards_of("memory://bucket/cut", 6, tmp_path / "work")
    finally:
        memory.rm("/bucket", recursive=True)
    assert list(shards) == ["j", "j--rows-00000006", "p", "p--rows-00000006"]
