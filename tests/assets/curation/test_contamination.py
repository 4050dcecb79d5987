"""Contaminated rows are left out, by source video, or by question, answer and frames."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assets.curation.contamination import (
    SAME_CONTENT,
    SAME_VIDEO,
    BenchmarkIndex,
    benchmark_index,
)
from assets.curation.disjoint import disjoint
from assets.curation.perceptual_hash import MAX_COPY_DISTANCE, any_near, distances, signature
from assets.curation.selection import SelectionSettings, select
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards
from tests.footage import CLIPS, FOOTAGE
from tests.toy import toy_rows
from training.data.keyframes import key_frame_number
from training.data.video import read_frames
from training.tiny import world

Row = dict[str, Any]


def items(folder: Path, future: list[Row] = [], twiff: list[Row] = []) -> BenchmarkIndex:  # noqa: B006 - read only
    """An index of FutureBench and TwiFF-Bench items with these fields."""
    folder.mkdir(parents=True, exist_ok=True)
    future_item = {"id": "f", "video": None, "question": None, "options": None, "answer": None, "path": None,
                   "frame_count": None, "reader": None}  # fmt: skip
    twiff_item = {"id": "t", "video": None, "start": None, "end": None, "question": None, "answer": None,
                  "question_images": None}  # fmt: skip
    text, texts = pl.String, pl.List(pl.String)
    extra = {"options": texts, "frame_count": pl.Int64, "question_images": pl.List(pl.Binary)}
    sources = {}
    for name, empty, rows in (("futurebench", future_item, future), ("twiffbench", twiff_item, twiff)):
        schema = {column: extra.get(column, text) for column in empty}
        sources[name] = folder / f"{name}.parquet"
        pl.DataFrame([empty | row for row in rows], schema=schema).write_parquet(sources[name])
    return benchmark_index(sources)


def embedded(frame: np.ndarray, **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, **how)
    return buffer.getvalue()


def observed(row: Row) -> np.ndarray:
    return read_frames(row["path"], [key_frame_number(row["frame_count"], 1)], row["reader"])[0]


NEW = "0:01:10.000", "0:01:20.000"  # the interval of the row below


def video_hits(folder: Path, video: str, index: BenchmarkIndex) -> list[Row]:
    row = trajectory(0, video=video, start=NEW[0], end=NEW[1])
    files = write_shards(folder, scored_of([row], [(0, 8)]))
    chosen = select(files, SelectionSettings(), index)
    violations = disjoint(pl.read_parquet(files), index)
    assert len(violations) == chosen.excluded.height, "both ways of looking agree"
    assert chosen.rows.height == 1 - chosen.excluded.height
    return chosen.excluded.to_dicts()


@pytest.mark.parametrize(
    ("item", "same"),
    [
        ({"start": "0:01:15", "end": "0:02:00"}, True),
        ({"start": "0:01:20.000", "end": "0:02:00"}, False),  # begins where the row ends
        ({"start": "10", "end": "69.5"}, False),
        ({"start": None, "end": None}, True),
        ({"start": "0:01:15", "end": "not a time"}, True),
    ],
)
def test_a_row_from_an_items_video_is_left_out_where_their_times_overlap(tmp_path: Path, item: Row, same: bool) -> None:
    index = items(tmp_path, twiff=[{"id": "00007", "video": "abcdefghijk_3.mp4", **item}])
    hits = video_hits(tmp_path, "abcdefghijk_1.mp4", index)
    assert bool(hits) == same
    if same:
        assert (hits[0]["reason"], hits[0]["benchmark"], hits[0]["item_id"]) == (SAME_VIDEO, "twiffbench", "00007")


@pytest.mark.parametrize("name", ["video_dataset/abcdefghijk.mp4", "video_dataset/activitynet/v_abcdefghijk.mp4"])
def test_futurebench_tells_no_times_so_all_of_its_videos_are_left_out(tmp_path: Path, name: str) -> None:
    hits = video_hits(tmp_path, "abcdefghijk-0:01:10-0:01:20.mp4", items(tmp_path, [{"id": "h-1", "video": name}]))
    assert [(row["benchmark"], row["item_id"]) for row in hits] == [("futurebench", "h-1")]


def test_videos_without_a_youtube_id_are_the_same_by_name(tmp_path: Path) -> None:
    index = items(tmp_path, [{"video": "video_dataset/charades/AO8RW.mp4"}])
    assert video_hits(tmp_path, "panda/AO8RW.webm", index)
    assert not video_hits(tmp_path, "panda/AO8RX.webm", index)


seconds = st.integers(0, 60)


@settings(max_examples=25)
@given(row=st.tuples(seconds, seconds), item=st.tuples(seconds, seconds))
def test_intervals_overlap_exactly_where_they_share_time(
    tmp_path_factory: pytest.TempPathFactory, row: tuple[int, int], item: tuple[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("overlap")
    index = items(folder, twiff=[{"video": "abcdefghijk_3.mp4", "start": str(item[0]), "end": str(item[1])}])
    scored_row = trajectory(0, video="abcdefghijk_1.mp4", start=str(row[0]), end=str(row[1]))
    chosen = select(write_shards(folder, scored_of([scored_row], [(0, 8)])), SelectionSettings(), index)
    unknown = row[0] >= row[1] or item[0] >= item[1]
    assert (chosen.excluded.height == 1) == (unknown or bool(set(range(*row)) & set(range(*item))))


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Two rows of the toy world that ask and answer the same about different boards."""
    first, second = toy_rows(tmp_path_factory.mktemp("clips"), [1, 1])
    return [first | {"sha256": "a" * 64}, second | {"sha256": "b" * 64, "question": first["question"],
                                                    "answer": first["answer"]}]  # fmt: skip


def question(row: Row) -> str:
    return row["question"].removeprefix("frame_1\n<image>\n")


def as_futurebench(row: Row) -> Row:
    stem, *options = question(row).split("\n")
    texts = [option[3:] for option in options]
    letter = "ABCD"[texts.index(row["answer"])]
    return {"question": stem.upper(), "options": texts, "answer": letter, "video": "video_dataset/other.mp4",
            **{name: row[name] for name in ("path", "frame_count", "reader")}}  # fmt: skip


def as_twiffbench(row: Row) -> Row:
    image = Image.fromarray(observed(row)).resize((100, 80))
    return {"question": row["question"] + "  ", "answer": row["answer"].upper() + ".", "video": "zyxwvutsrqp_0.mp4",
            "question_images": [embedded(np.asarray(image), format="JPEG", quality=60)]}  # fmt: skip


@pytest.mark.parametrize("form", [as_futurebench, as_twiffbench])
def test_the_same_question_answer_and_frame_under_another_name_is_left_out_and_the_other_board_stays(
    tmp_path: Path, boards: list[Row], form: Any
) -> None:
    benchmark = form.__name__.removeprefix("as_")
    index = items(tmp_path, **{{"futurebench": "future", "twiffbench": "twiff"}[benchmark]: [form(boards[0])]})
    files = write_shards(tmp_path, scored_of(boards, [(0, 8), (0, 7)]))
    chosen = select(files, SelectionSettings(), index)
    assert chosen.excluded.select("row_id", "reason", "benchmark").rows() == [
        (boards[0]["row_id"], SAME_CONTENT, benchmark)
    ]
    assert chosen.report["contamination"] == {
        SAME_VIDEO: 0, SAME_CONTENT: 1, "question and answer alone": 1, "question alone": 0
    }  # fmt: skip
    assert disjoint(chosen.rows, index) == []


def test_a_question_alone_is_counted_and_no_frame_is_read_for_it(tmp_path: Path, boards: list[Row]) -> None:
    other = next(colour for colour in world.COLOURS if colour not in boards[0]["question"])
    index = items(tmp_path, twiff=[as_twiffbench(boards[0]) | {"answer": other}])
    gone = [row | {"path": str(tmp_path / "no such clip.mp4")} for row in boards]
    chosen = select(write_shards(tmp_path, scored_of(gone, [(0, 8), (0, 7)])), SelectionSettings(), index)
    assert chosen.report["kept"] == 2 and chosen.report["contamination"]["question alone"] == 2


def test_the_second_look_catches_what_the_exclusion_would_miss(tmp_path: Path, boards: list[Row]) -> None:
    files = write_shards(tmp_path, scored_of(boards, [(0, 8), (0, 7)]))
    unguarded = select(files, SelectionSettings(), benchmark_index({})).rows
    by_content = disjoint(unguarded, items(tmp_path / "content", future=[as_futurebench(boards[0])]))
    assert len(by_content) == 1 and boards[0]["row_id"] in by_content[0]
    by_name = disjoint(unguarded, items(tmp_path / "name", twiff=[{"video": "elsewhere/" + boards[1]["video"]}]))
    assert len(by_name) == 1 and boards[1]["row_id"] in by_name[0]


def test_boards_that_look_alike_are_further_apart_than_a_frame_from_its_own_copies() -> None:
    rng = np.random.default_rng(0)
    train, test = (world.draw_boards(300, rng, split).frames(0) for split in ("train", "test"))
    signatures = np.stack([signature(frame) for frame in train]).astype(int)
    nearest = [np.abs(signatures - signature(frame).astype(int)).mean(1).min() for frame in test]
    assert min(nearest) > 1.3 * MAX_COPY_DISTANCE


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(("scale", "crf"), [(1, 40), (0.25, 30)])
def test_real_footage_is_known_again_after_re_encoding_and_rescaling(
    tmp_path: Path, name: str, scale: float, crf: int
) -> None:
    import av

    numbers = [0, 20, 40]
    frames = read_frames(FOOTAGE / name, numbers, "sequential")
    height, width = (int(side * scale) // 2 * 2 for side in frames[0].shape[:2])
    with av.open(str(tmp_path / "copy.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", {"crf": str(crf)}
        for frame in frames:
            copied = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(width, height, "yuv420p")
            container.mux(stream.encode(copied))
        container.mux(stream.encode())
    copies = read_frames(tmp_path / "copy.mp4", [0, 1, 2], "sequential")
    pairs = zip(frames, copies, strict=True)
    assert all(distances([signature(a)], [signature(b)]) < MAX_COPY_DISTANCE for a, b in pairs)
    elsewhere = [FOOTAGE / other for other in CLIPS if other[:4] != name[:4]]
    others = [frame for path in elsewhere for frame in read_frames(path, numbers, "sequential")]
    assert not any_near([signature(copy) for copy in copies], [signature(frame) for frame in others])
