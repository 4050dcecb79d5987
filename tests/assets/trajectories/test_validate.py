"""Pulling a shard: every row becomes a trajectory or a quarantined row with its reason."""

import gzip
import json
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.toyworld.broken import FAULTS
from assets.toyworld.trajectories import Mix, draw_shard
from assets.trajectories import validate
from assets.trajectories.validate import (
    PulledTable,
    Quarantine,
    _validated,
    quarantined,
    read_shard,
    write_shard,
)
from tests.assets.trajectories.shard_rows import published_row, pull_shard, twiff_row, upstream_row, write
from training.data.rejection import RejectedRow
from training.data.row_fields import MAX_TEXT
from training.data.trajectory import parse_row

CLIP_REASONS = {"path outside clip root", "missing clip", "unreadable clip"}  # found when clips are resolved


def test_each_fault_is_caught_with_its_reason_and_no_row_is_lost(tmp_path: Path) -> None:
    shard = draw_shard(80, Mix(), 1, tmp_path, np.random.default_rng(0))
    shard.write(tmp_path / "train-00000-of-00001.parquet")
    rows, quarantine = pull_shard(tmp_path / "train-00000-of-00001.parquet")
    expected = Counter(fault.reason for fault in FAULTS.values() if fault.reason not in CLIP_REASONS)
    assert dict(quarantine["reason"].value_counts().iter_rows()) == expected
    assert rows.height + quarantine.height == 80
    assert PulledTable.is_valid(rows) and Quarantine.is_valid(quarantine)
    assert set(quarantine["source"]) == {"train-00000-of-00001"}


def test_a_quarantined_row_has_its_number_and_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", [twiff_row(), twiff_row(video="b.mp4", reasoning_images_index=[9])])
    _, quarantine = pull_shard(path)
    assert quarantine.row(0, named=True) == {
        "source": "s",
        "row": 1,
        "row_id": None,
        "reason": "key frame outside 1..8",
        "detail": "reasoning_images_index holds 9",
    }


def test_of_two_equal_rows_the_first_stays(tmp_path: Path) -> None:
    rows, quarantine = pull_shard(write(tmp_path / "s.parquet", [twiff_row(), twiff_row(video="b.mp4"), twiff_row()]))
    assert rows["video"].to_list() == ["AAAAAAAAAAA_0.mp4", "b.mp4"]
    assert quarantine.select("row", "reason", "detail").row(0) == (2, "repeated row", "has the same content as row 0")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_every_layout_and_file_is_pulled_to_the_same_trajectories(tmp_path: Path, suffix: str) -> None:
    layouts = [twiff_row(), published_row(), upstream_row()]
    pulled = [pull_shard(write(tmp_path / f"s{suffix}", [row]))[0] for row in layouts]
    first, *others = (rows.drop("source_p_t", "source_p_v") for rows in pulled)
    assert all(rows.equals(first) for rows in others)
    assert [rows.row(0)[-2:] for rows in pulled] == [(None, None), (1, 6), (None, None)]


@pytest.mark.parametrize("meta", [None, {"other": 1}, {"classification": None}])
def test_rows_without_the_metadata_are_still_trajectories(tmp_path: Path, meta: Any) -> None:
    rows, _ = pull_shard(write(tmp_path / "s.parquet", [twiff_row(meta_data=meta)]))
    assert rows.select("category", "start", "end", "process", "summary").row(0) == ("other", *[None] * 4)


@pytest.mark.parametrize("name", ["Process", "Summary"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * MAX_TEXT, None),
        (None, None),
        ("<|im_end|> is kept: it goes to no model", None),
        ("a" * (MAX_TEXT + 1), f"text too long: {{}} has {MAX_TEXT + 1} characters; at most {MAX_TEXT} are read"),
        ("\ud800", "malformed field: {} holds half a character (a lone surrogate)"),
        (["a" * MAX_TEXT], f"text too long: {{}} has {MAX_TEXT + 4} characters; at most {MAX_TEXT} are read"),
    ],
)
def test_the_sources_texts_about_a_clip_are_kept_and_bounded(
    tmp_path: Path, name: str, text: Any, reason: str | None
) -> None:
    row = twiff_row(meta_data=twiff_row()["meta_data"] | {name: text})
    rows, quarantine = pull_shard(write(tmp_path / "s.jsonl", [row]))
    if reason is None:
        assert rows[name.lower()].to_list() == [text]
    else:
        assert [": ".join(why) for why in quarantine.select("reason", "detail").rows()] == [reason.format(name)]


@pytest.mark.parametrize(
    ("value", "kept"),
    [(["It rölls."], '["It rölls."]'), ({"steps": [1]}, '{"steps": [1]}'), (1.5, "1.5"), (math.nan, None)],
)
def test_another_type_of_text_about_a_clip_is_kept_as_json(tmp_path: Path, value: Any, kept: str | None) -> None:
    rows, _ = pull_shard(write(tmp_path / "s.parquet", [twiff_row(meta_data={"Process": value})]))
    assert rows["process"].to_list() == [kept]


def test_a_shard_without_rows_gives_two_empty_tables(tmp_path: Path) -> None:
    pl.DataFrame([twiff_row()]).clear().write_parquet(tmp_path / "s.parquet")
    rows, quarantine = pull_shard(tmp_path / "s.parquet")
    assert rows.is_empty() and quarantine.is_empty()


def test_a_shard_is_written_in_batches_as_it_would_be_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [twiff_row(video=f"{number % 7}.mp4") for number in range(20)]
    rows[3] = twiff_row(question_images_index=[9])
    rows[12] = twiff_row(meta_data={"classification": "weather"}, video="w.mp4")
    path = write(tmp_path / "s.parquet", rows)
    at_once = pull_shard(path)
    monkeypatch.setattr(validate, "BATCH_ROWS", 3)
    assert len(list(read_shard(path, "s"))) == 7
    counts = write_shard(path, "s", tmp_path / "rows.parquet", tmp_path / "quarantine.parquet")
    written = pl.read_parquet(tmp_path / "rows.parquet"), pl.read_parquet(tmp_path / "quarantine.parquet")
    assert written[0].equals(at_once[0]) and written[1].equals(at_once[1])
    assert counts == {
        "rows": 8,
        "quarantined": 12,
        "categories": {"camera": 7, "other": 1},
        "reasons": {"repeated row": 11, "key frame outside 1..8": 1},
    }
    assert written[1].row(-1)[-1] == "has the same content as row 5"


def test_a_shard_without_rows_is_written_as_two_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("")
    counts = write_shard(tmp_path / "s.jsonl", "s", tmp_path / "rows.parquet", tmp_path / "quarantine.parquet")
    assert (counts["rows"], counts["quarantined"]) == (0, 0)
    assert PulledTable.is_valid(pl.read_parquet(tmp_path / "rows.parquet"))
    assert Quarantine.is_valid(pl.read_parquet(tmp_path / "quarantine.parquet"))


def test_a_quarantined_row_must_be_findable() -> None:
    lost = pl.DataFrame([quarantined("s", RejectedRow("why", "what"))], schema=Quarantine.create_empty().schema)
    assert not Quarantine.is_valid(lost)


def test_a_row_that_is_rejected_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB each in JSON lines, and 2,048 are read at once."""

    class Row(dict[str, Any]):
        """What a weak reference may lead to."""

    read: list[weakref.ref[Row]] = []

    def rows(path: Path, first: int) -> Iterator[tuple[int, Row]]:
        for number in range(first, 9):
            row = Row(twiff_row(answer=""))
            read.append(weakref.ref(row))
            yield number, row
            del row
            assert sum(ref() is not None for ref in read) <= 2  # with the first, which says that there are rows

    monkeypatch.setattr(validate, "read_rows", rows)
    assert pull_shard(tmp_path / "s.jsonl")[1]["reason"].to_list() == ["empty answer"] * 9


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.timedeltas(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=4,
)


FIELDS = sorted({*twiff_row(), *published_row(), *upstream_row()})
MAKERS = st.sampled_from([twiff_row, published_row, upstream_row])


@given(st.lists(st.tuples(MAKERS, st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3)), min_size=1))
def test_whatever_rows_hold_each_is_kept_or_has_its_own_reason(made: list[tuple[Any, dict[str, Any]]]) -> None:
    batch = [(number, make(**changes)) for number, (make, changes) in enumerate(made)]
    rows, quarantine = _validated(batch, "s", {})
    assert sorted([*rows["row"], *quarantine["row"]]) == list(range(len(made)))


def test_a_defect_of_ours_is_named_with_its_place_and_no_row_but_one_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(row: Any, source: str, number: int) -> Any:
        return {}["no such key"] if number == 1 else parse_row(row, source, number)

    monkeypatch.setattr(validate, "parse_row", defect)
    batch = [(number, twiff_row(video=f"{number}.mp4")) for number in range(3)]
    rows, quarantine = _validated(batch, "s", {})
    assert rows["row"].to_list() == [0, 2]
    assert quarantine.row(0, named=True)["detail"].startswith("KeyError: 'no such key' (test_validate.py:")


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_what_is_the_process_own_is_no_rows_reason(fault: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr(validate, "parse_row", faulty)
    with pytest.raises(fault):
        _validated([(0, twiff_row())], "s", {})


def test_of_a_broken_shard_nothing_is_kept_and_one_quarantined_row_says_why(tmp_path: Path) -> None:
    lines = "".join(json.dumps(twiff_row(video=f"{n}.mp4")) + "\n" for n in range(5000))
    content = gzip.compress(lines.encode())
    (tmp_path / "s.jsonl.gz").write_bytes(content[: len(content) // 2])
    counts = write_shard(tmp_path / "s.jsonl.gz", "s", tmp_path / "rows.parquet", tmp_path / "quarantine.parquet")
    assert (counts["rows"], counts["quarantined"], counts["reasons"]) == (0, 1, {"broken shard": 1})
    assert "s.jsonl.gz cannot be read to its end" in counts["broken"]
    assert pl.read_parquet(tmp_path / "rows.parquet").is_empty()
    assert pl.read_parquet(tmp_path / "quarantine.parquet")["reason"].to_list() == ["broken shard"]
