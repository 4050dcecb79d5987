"""Reading shards: parquet and JSON that nobody here made, in bounded memory; a bad row is lost alone."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.trajectories.validate import PulledTable
from tests.assets.trajectories.shard_rows import pull_shard, twiff_row, write
from training.data import json_rows


def test_embedded_images_and_unknown_columns_are_not_read(tmp_path: Path) -> None:
    rows, _ = pull_shard(write(tmp_path / "s.parquet", [twiff_row(question_images=[{"bytes": b"x"}], extra=1)]))
    assert rows.columns == PulledTable.column_names()


def test_a_wholly_mistyped_column_rejects_its_rows_and_does_not_crash(tmp_path: Path) -> None:
    rows, quarantine = pull_shard(write(tmp_path / "s.parquet", [twiff_row(question_images_index=[1.0])]))
    assert rows.is_empty()
    assert quarantine["reason"].to_list() == ["key frame is not an integer"]


def test_the_validation_split_is_pulled_without_reading_the_images_that_it_embeds(tmp_path: Path) -> None:
    path = tmp_path / "val-00000-of-00001.parquet"
    row = twiff_row(
        question_images=[{"bytes": b"\xff\xd8" * 200_000}], reasoning_images=[{"bytes": b"\xff\xd8" * 200_000}]
    )
    pl.DataFrame([row]).write_parquet(path, compression="uncompressed")
    content, images = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0)
    spoilt = bytearray(content)
    for column in (images.column(number) for number in range(images.num_columns)):
        if column.path_in_schema.startswith(("question_images.", "reasoning_images.")):
            begin = column.dictionary_page_offset or column.data_page_offset
            spoilt[begin : begin + column.total_compressed_size] = b"\0" * column.total_compressed_size
    path.write_bytes(spoilt)  # whoever reads them now fails
    with pytest.raises(OSError, match=r"."):
        pq.read_table(path)
    assert pull_shard(path)[0].height == 1


@pytest.mark.parametrize(
    ("indices", "reasons"),
    [
        (pa.array([[1], [1]], pa.list_(pa.int32())), []),
        (pa.array([[1], [1]], pa.large_list(pa.uint8())), []),
        (pa.array([[1], [1]], pa.list_(pa.int64(), 1)), []),
        (pa.array([[1.0], [1.5]], pa.list_(pa.float64())), ["key frame is not an integer"] * 2),
        (pa.array([["1"], ["frame"]]), ["key frame is not an integer"] * 2),
        (pa.array(["[1]", None]), ["malformed field", "missing field"]),
        (pa.array([1, 1]), ["malformed field"] * 2),
        (pa.nulls(2), ["missing field"] * 2),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_column_of_another_type_works_or_rejects_its_rows_one_by_one(
    tmp_path: Path, indices: pa.Array, reasons: list[str]
) -> None:
    table = pl.DataFrame([twiff_row(), twiff_row(video="b.mp4")]).to_arrow()
    number = table.schema.get_field_index("question_images_index")
    pq.write_table(table.set_column(number, "question_images_index", indices), tmp_path / "s.parquet")
    rows, quarantine = pull_shard(tmp_path / "s.parquet")
    assert quarantine["reason"].to_list() == reasons
    assert rows.height == 2 - len(reasons)


def test_text_that_is_not_utf8_costs_its_own_row_only(tmp_path: Path) -> None:
    table = pl.DataFrame([twiff_row(video=name) for name in ("a.mp4", "b.mp4", "c.mp4")]).to_arrow()
    raw = pa.array([b"a.mp4", b"\xff\xfe.mp4", b"c.mp4"]).view(pa.string())
    pq.write_table(table.set_column(0, "video", raw), tmp_path / "s.parquet")
    rows, quarantine = pull_shard(tmp_path / "s.parquet")
    assert rows["video"].to_list() == ["a.mp4", "c.mp4"]
    assert quarantine.select("row", "reason").rows() == [(1, "unreadable row")]


def test_a_malformed_line_costs_its_own_row_only(tmp_path: Path) -> None:
    lines = [
        json.dumps(twiff_row(video="a.mp4")).encode(),
        b'{"video": "b.mp4", ',
        b"",
        b"[1, 2]",
        b'{"video": "\xff"}',
        b"[" * 100_000,
        json.dumps(twiff_row(video="c.mp4")).encode() + b"\r",
        json.dumps(twiff_row(video="d.mp4")).encode(),
    ]
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    for name in ("s.jsonl", "s.jsonl.gz"):
        rows, quarantine = pull_shard(tmp_path / name)
        assert rows["video"].to_list() == ["a.mp4", "c.mp4", "d.mp4"]
        assert quarantine.select("row", "reason").rows() == [(row, "unreadable row") for row in (1, 3, 4, 5)]
        assert quarantine["detail"][0].startswith("line 2: ")


def test_a_line_that_is_too_long_is_passed_over_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_RECORD", 2000)
    monkeypatch.setattr(json_rows, "CHUNK", 100)
    long = twiff_row(question="x" * 5000)
    rows, quarantine = pull_shard(write(tmp_path / "s.jsonl", [twiff_row(), long, twiff_row(video="b.mp4")]))
    assert rows["video"].to_list() == ["AAAAAAAAAAA_0.mp4", "b.mp4"]
    assert quarantine.select("row", "detail").rows() == [(1, "line 2 is longer than 2000 bytes")]


def test_half_a_character_in_an_escape_is_a_rejected_row(tmp_path: Path) -> None:
    line = json.dumps(twiff_row(answer="x <rimage> <ans>HALF</ans>")).replace("HALF", "\\ud83d")
    (tmp_path / "s.jsonl").write_text(line)
    assert pull_shard(tmp_path / "s.jsonl")[1]["reason"].to_list() == ["malformed field"]


@pytest.mark.parametrize("chunk", [7, 2**20])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_file_is_a_list_or_a_record_or_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    path, rows = tmp_path / "s.json", [twiff_row(), twiff_row(video="b.mp4"), twiff_row(video="c].mp4")]
    for content in (json.dumps(rows, indent=indent), "\n".join(json.dumps(row) for row in rows)):
        path.write_text(content)
        assert pull_shard(path)[0]["video"].to_list() == [row["video"] for row in rows]
    path.write_text(json.dumps(rows[0], indent=indent))
    assert pull_shard(path)[0]["video"].to_list() == [rows[0]["video"]]
    path.write_text(json.dumps([rows[0], 5, rows[1]], indent=indent))
    assert pull_shard(path)[1].select("row", "reason").rows() == [(1, "unreadable row")]
    path.write_text("[]")
    assert pull_shard(path)[0].is_empty()


@pytest.mark.parametrize("spoil", [lambda text: text[:-40], lambda text: text.replace("}, {", "} x {")])
def test_a_json_list_that_breaks_off_is_a_damaged_file(tmp_path: Path, spoil: Any) -> None:
    (tmp_path / "s.json").write_text(spoil(json.dumps([twiff_row(), twiff_row(video="b.mp4")])))
    with pytest.raises(ValueError, match=r"s\.json: record 2 is not JSON"):
        pull_shard(tmp_path / "s.json")


def test_a_compressed_file_that_was_cut_is_named(tmp_path: Path) -> None:
    content = gzip.compress("".join(json.dumps(twiff_row(video=f"{n}.mp4")) + "\n" for n in range(5000)).encode())
    (tmp_path / "s.jsonl.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"s\.jsonl\.gz cannot be read to its end"):
        pull_shard(tmp_path / "s.jsonl.gz")


def test_another_table_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other\.parquet is not a TwiFF shard"):
        pull_shard(write(tmp_path / "other.parquet", [{"video": "a", "caption": "b"}]))
    (tmp_path / "page.parquet").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.parquet cannot be read"):
        pull_shard(tmp_path / "page.parquet")


def typed(name: str, values: pa.Array, tmp_path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pull of three TwiFF rows, one of whose columns (or `meta_data` fields) has these values."""
    rows = pa.Table.from_pylist([twiff_row(video=f"{n}.mp4") for n in range(3)])
    if name in rows.column_names:
        rows = rows.set_column(rows.column_names.index(name), name, values)
    else:
        meta = pa.StructArray.from_arrays([values], [name])
        rows = rows.set_column(rows.column_names.index("meta_data"), "meta_data", meta)
    pq.write_table(rows, tmp_path / "s.parquet")
    return pull_shard(tmp_path / "s.parquet")


UNREADABLE = pa.array([0, 2**31 - 1, 1], pa.int32())
"""Days since 1970 of which Python has no date for the second."""


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(UNREADABLE.cast(pa.date32()), id="a date beyond Python's"),
        pytest.param(pa.array([0, 2**62, 1], pa.duration("s")), id="a duration beyond Python's"),
        pytest.param(pa.array([0, 2**62, 1], pa.timestamp("us")), id="a time beyond Python's"),
    ],
)
def test_a_value_that_python_cannot_hold_loses_its_own_row_alone(values: pa.Array, tmp_path: Path) -> None:
    rows, quarantine = typed("start", values, tmp_path)
    assert rows["video"].to_list() == ["0.mp4", "2.mp4"]
    assert quarantine.select("row", "reason").rows() == [(1, "unreadable row")]
    assert "OverflowError" in quarantine["detail"][0]


def test_rows_of_an_unknown_time_zone_say_so(tmp_path: Path) -> None:
    _, quarantine = typed("start", pa.array([0, 1, None], pa.timestamp("us", tz="Mars/Olympus")), tmp_path)
    assert quarantine["reason"].to_list() == ["unreadable row"] * 2
    assert "Mars/Olympus" in quarantine["detail"][0]


@pytest.mark.parametrize(
    "column",
    [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_texts_of_every_arrow_type_are_texts(column: pa.DataType, tmp_path: Path) -> None:
    assert typed("question", pa.array(["What next?"] * 3).cast(column), tmp_path)[0].height == 3


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([twiff_row()])
    pq.write_table(rows.append_column("question", rows["question"]), tmp_path / "s.parquet")
    with pytest.raises(ValueError, match=r"s\.parquet has columns of the same name: \['question'\]"):
        pull_shard(tmp_path / "s.parquet")


def bomb(path: Path, rows: int, bytes_: int, conversations: bool) -> Path:
    """A shard of few kilobytes whose rows share one text of so many bytes."""
    first = pa.array([f"{n}.mp4" for n in range(rows)])
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * bytes_]))
    indices = pa.array([[1]] * rows)
    if conversations:
        ends = pa.array(range(rows + 1), pa.int32())
        turns = pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays([text, text], ["from", "value"]))
        table = pa.table({"video": first, "conversations": turns, "image": indices, "reasoning_image": indices})
    else:
        names = ("video", "question", "answer", "question_images_index", "reasoning_images_index")
        table = pa.table(dict(zip(names, (first, text, text, indices, indices), strict=True)))
    pq.write_table(table, path, compression="zstd")
    return path


@pytest.mark.parametrize("conversations", [False, True])
def test_texts_that_rows_share_are_not_unpacked_for_each(tmp_path: Path, conversations: bool) -> None:
    """1,024 rows that share a text of 2 MiB, which would be 4 GiB out of its dictionary."""
    path = bomb(tmp_path / "s.parquet", 1024, 2 * 2**20, conversations)
    assert path.stat().st_size < 2**20
    rows, quarantine = pull_shard(path)
    assert rows.is_empty()
    assert quarantine["reason"].to_list() == ["unreadable row"] * 1024
    assert "at most 1048576 are read" in quarantine["detail"][0]


def test_a_text_that_rows_share_behind_rows_without_one_is_not_unpacked_for_each(tmp_path: Path) -> None:
    places = pa.array([None] * 3000 + [0] * 1000, pa.int32())
    texts = pa.DictionaryArray.from_arrays(places, pa.array(["x" * 2**21]))
    rows = pa.Table.from_pylist([twiff_row(video=f"{n}.mp4") for n in range(4000)])
    pq.write_table(rows.set_column(1, "question", texts), tmp_path / "s.parquet", compression="zstd")
    assert Counter(pull_shard(tmp_path / "s.parquet")[1]["reason"]) == {"missing field": 3000, "unreadable row": 1000}


SHARED: dict[str, Callable[[pa.Array, pa.DictionaryArray], pa.Array]] = {
    "a list view": lambda at, text: pa.ListViewArray.from_arrays(at[:-1], pa.array([1] * len(text), pa.int32()), text),
    "a map": lambda at, text: pa.MapArray.from_arrays(at, at[:-1], text),
    "a field that is there twice": lambda at, text: pa.StructArray.from_arrays([text, text], ["x", "x"]),
}


@pytest.mark.parametrize("kind", SHARED)
def test_texts_that_rows_share_inside_of_anything_lose_these_rows(tmp_path: Path, kind: str) -> None:
    rows = pa.Table.from_pylist([twiff_row(video=f"{n}.mp4") for n in range(64)])
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array(["x" * 2**21]))
    shared = SHARED[kind](pa.array(range(65), pa.int32()), text)
    pq.write_table(rows.set_column(rows.column_names.index("question"), "question", shared), tmp_path / "s.parquet")
    quarantine = pull_shard(tmp_path / "s.parquet")[1]
    assert quarantine["reason"].to_list() == ["unreadable row"] * 64
    assert "at most 1048576 are read" in quarantine["detail"][0]


def test_texts_that_are_encoded_by_their_common_beginning_are_refused(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([twiff_row()])
    encoding = {"question": "DELTA_BYTE_ARRAY"}
    pq.write_table(rows, tmp_path / "s.parquet", use_dictionary=False, column_encoding=encoding)
    with pytest.raises(ValueError, match=r"s\.parquet: question is encoded as DELTA_BYTE_ARRAY"):
        pull_shard(tmp_path / "s.parquet")


def test_a_row_whose_text_is_too_large_is_lost_alone(tmp_path: Path) -> None:
    rows = [twiff_row(video=f"{n}.mp4", question="x" * (2**21 if n == 5 else 3)) for n in range(9)]
    kept, quarantine = pull_shard(write(tmp_path / "s.parquet", rows))
    assert kept["row"].to_list() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert quarantine["row"].to_list() == [5]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        pytest.param(pa.table({"image": pa.array([[1] * 2_000_000])}), "2000000 values in 1 rows", id="a long list"),
        pytest.param(pa.table({"image": pa.array([b"x" * 200], pa.binary(200))}), "has 200 bytes", id="wide values"),
        pytest.param(pa.table({"image": pa.array(["x" * 2**27])}), "unpacks to", id="a page that unpacks"),
        pytest.param(pa.table({"image": pa.nulls(100_000, pa.int64())}), "100000 rows in", id="more rows than bytes"),
    ],
)
def test_a_file_that_says_more_than_data_does_is_refused(table: pa.Table, words: str, tmp_path: Path) -> None:
    for name in ("video", "conversations", "reasoning_image"):
        table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    pq.write_table(table, tmp_path / "s.parquet", compression="zstd")
    with pytest.raises(ValueError, match=rf"s\.parquet.* {words}"):
        pull_shard(tmp_path / "s.parquet")


def test_a_compressed_file_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "UNPACKED_SLACK", 2**16)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b"\n" * 2**22))
    with pytest.raises(ValueError, match=r"s\.jsonl\.gz cannot be read to its end: it unpacks to more than"):
        pull_shard(tmp_path / "s.jsonl.gz")


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, '{"video": ' + "9" * 5000 + "}", "NaN"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_that_python_cannot_hold_is_one_row(tmp_path: Path, line: str, suffix: str) -> None:
    good = json.dumps(twiff_row())
    (tmp_path / f"s{suffix}").write_text(f"{good}\n{line}\n{good.replace('AAA', 'BBB')}\n")
    rows, quarantine = pull_shard(tmp_path / f"s{suffix}")
    assert (rows.height, quarantine.height) == (2, 1)
