"""Resolving clips: each probed once, the unusable ones quarantined with every row that names them."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import psutil
import pytest

from assets.toyworld.broken import FAULTS
from assets.toyworld.source import SourceSizes, write_source
from assets.trajectories.clips import ClipTable, open_root, resolve_clips
from tests.assets.trajectories.shard_rows import pull_shard, table_of
from tests.footage import CLIPS, FOOTAGE
from tests.numbered import HEIGHT, WIDTH, turned, write_clip
from training.data.keyframes import key_frame_number
from training.data.probe_pool import ProbePool
from training.data.probing import Numbers
from training.data.rejection import RejectedRow
from training.data.trajectory import parse_row
from training.data.video import VideoInfo, read_frames
from training.storage.hashing import file_digest

SIZES = SourceSizes(shards=1, rows_per_shard=50, futurebench_per_split=1, twiffbench=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_source(root, seed=0, sizes=SIZES)
    return root


@pytest.fixture(scope="module")
def rows(source: Path) -> pl.DataFrame:
    return pull_shard(source / "twiff" / "train-00000-of-00001.parquet")[0]


def rows_about(*videos: str, meta: dict[str, str] | None = None) -> pl.DataFrame:
    rows = table_of(
        parse_row(
            {
                "video": video,
                "question": f"frame_1\n<image>\nWhat happens next? ({number})",
                "answer": "It goes on. <rimage> <ans>it stops</ans>",
                "question_images_index": [1],
                "reasoning_images_index": [5],
                "meta_data": meta,
            },
            "s",
            number,
        )
        for number, video in enumerate(videos)
    )
    return rows.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))


def test_clip_faults_are_caught_with_their_reasons_and_every_other_clip_is_usable(
    source: Path, rows: pl.DataFrame
) -> None:
    clips, quarantine = resolve_clips(rows, [source / "clips"])
    reasons = Counter(clips["reason"].drop_nulls())
    assert reasons == Counter(["path outside clip root", "missing clip", "unreadable clip"])
    assert set(reasons) <= {fault.reason for fault in FAULTS.values()}
    assert Counter(quarantine["reason"]) == reasons
    assert set(quarantine["row_id"]) <= set(rows["row_id"])
    assert set(clips["video"]) == set(rows["video"])
    assert Counter(clips["reader"].drop_nulls()) == {"sequential": clips.height - 3}


def test_a_clip_is_recorded_with_its_size_and_the_hash_of_its_bytes(source: Path, rows: pl.DataFrame) -> None:
    clips, _ = resolve_clips(rows, [source / "clips"])
    clip = clips.filter(pl.col("reader").is_not_null()).row(0, named=True)
    assert (clip["frames"], clip["fps"], clip["width"], clip["height"]) == (16, 8.0, 64, 64)
    assert clip["path"] == str((source / "clips" / clip["video"]).resolve())
    assert clip["sha256"] == hashlib.sha256(Path(clip["path"]).read_bytes()).hexdigest()
    assert (clip["bytes"], clip["alias"]) == (Path(clip["path"]).stat().st_size, None)


def test_a_clip_of_several_rows_is_probed_once_and_quarantines_them_all(tmp_path: Path) -> None:
    clips, quarantine = resolve_clips(rows_about("gone.mp4", "gone.mp4"), [tmp_path])
    assert (clips.height, quarantine.height) == (1, 2)


@pytest.mark.parametrize("fault", [AssertionError("a defect"), RecursionError(), UnicodeError("x"), OSError(5, "I/O")])
def test_whatever_is_raised_about_a_clip_is_its_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    for name in ("good.mp4", "bad.mp4"):
        shutil.copy(FOOTAGE / "bikes.mp4", tmp_path / name)

    probe = ProbePool.probe

    def probing(pool: ProbePool, path: Path, numbers: Numbers) -> VideoInfo:
        if path.name == "bad.mp4":
            raise fault
        return probe(pool, path, numbers)

    monkeypatch.setattr(ProbePool, "probe", probing)
    clips, quarantine = resolve_clips(rows_about("bad.mp4", "good.mp4"), [tmp_path])
    assert clips["reason"].to_list() == ["unreadable clip", None]
    assert quarantine["detail"][0].startswith(f"{type(fault).__name__}: ")


def test_a_clip_is_recorded_as_it_is_displayed(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain.mp4", 96, options={"g": "4"})
    turned(plain, tmp_path / "turned.mp4", (0, 1, -1, 0))
    half = write_clip(tmp_path / "half.mkv", 96)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    clips, _ = resolve_clips(rows_about("plain.mp4", "turned.mp4", "half.mkv"), [tmp_path])
    columns = ("frames", "width", "height", "rotation", "reader", "header_seconds", "reason")
    plain_row, turned_row, half_row = clips.select(columns).rows()
    assert plain_row == (96, WIDTH, HEIGHT, 0, "seek", pytest.approx(3.84), None)
    assert turned_row == (96, HEIGHT, WIDTH, 90, "seek", pytest.approx(3.84), None)
    assert half_row == (*[None] * 6, "unreadable clip")
    assert "of the 3.8 s that its header states" in clips["detail"][2]


def test_an_interrupt_waits_for_no_clip_and_the_same_call_then_goes_through(tmp_path: Path) -> None:
    rows = rows_about(*(shutil.copy(FOOTAGE / "bikes.mp4", tmp_path / f"{k}.mp4").name for k in range(12)))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve_clips(rows, [tmp_path], interrupt)
    assert not [child for child in psutil.Process().children() if "training.data.probing" in child.cmdline()]
    assert resolve_clips(rows, [tmp_path])[0]["frames"].to_list() == [250] * 12


def test_names_that_no_file_system_takes_are_quarantined_and_the_others_are_read(tmp_path: Path) -> None:
    shutil.copy(FOOTAGE / "bikes.mp4", tmp_path / "good.mp4")
    (tmp_path / "circle.mp4").symlink_to(tmp_path / "circle.mp4")
    names = ("a/" * 3000 + "b.mp4", "circle.mp4", "x" * 300, str(tmp_path / "good.mp4"), "good.mp4")
    clips, _ = resolve_clips(rows_about(*names), [tmp_path])
    assert clips["reason"].to_list() == [*["malformed clip name"] * 3, "path outside clip root", None]


def test_progress_counts_clips(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    resolve_clips(rows_about("a.mp4", "b.mp4"), [tmp_path], lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_no_rows_have_no_clips(tmp_path: Path) -> None:
    clips, quarantine = resolve_clips(rows_about(), [tmp_path])
    assert clips.is_empty() and quarantine.is_empty()
    assert clips.columns == ClipTable.column_names()


def test_rows_about_real_footage_lead_to_its_key_frames() -> None:
    clips, quarantine = resolve_clips(rows_about(*CLIPS), [FOOTAGE])
    assert quarantine.is_empty()
    assert clips["video"].to_list() == list(CLIPS)
    for clip in clips.iter_rows(named=True):
        numbers = [key_frame_number(clip["frames"], index) for index in (1, 5)]
        observed, future = read_frames(clip["path"], numbers, clip["reader"])
        assert observed.shape == future.shape == (clip["height"], clip["width"], 3)
        assert (observed != future).any()


TIMES = {"start": "0:04:09.165", "end": "0:04:57.213"}
BY_TIMES = "-0AAhXT99Zw-0:04:09.165-0:04:57.213.mp4"


@pytest.fixture
def bucket() -> Iterator[Any]:
    """A remote place for clips."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/secret.mp4", b"secret")
    memory.makedirs("/bucket/clips", exist_ok=True)
    yield memory
    memory.rm("/bucket", recursive=True)


def test_a_clip_that_is_not_there_by_its_own_name_is_found_by_its_times(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    shutil.copy(FOOTAGE / "bikes.mp4", tmp_path / "part" / BY_TIMES)
    rows = rows_about("part/-0AAhXT99Zw_3.mp4", f"part/{BY_TIMES}", "part/BBBBBBBBBBB_3.mp4", "bikes.mp4", meta=TIMES)
    clips, quarantine = resolve_clips(rows, [tmp_path])
    assert clips["alias"].to_list() == [f"part/{BY_TIMES}", None, None, None]
    assert clips["frames"].to_list() == [250, 250, None, None]
    assert quarantine["reason"].to_list() == ["missing clip"] * 2
    assert "nor is 'part/BBBBBBBBBBB-0:04:09.165-0:04:57.213.mp4'" in quarantine["detail"][0]


def test_the_clip_of_a_rows_own_name_comes_before_one_that_has_its_times(tmp_path: Path) -> None:
    shutil.copy(FOOTAGE / "bikes.mp4", tmp_path / BY_TIMES)
    shutil.copy(FOOTAGE / "carphone_pristine.mp4", tmp_path / "-0AAhXT99Zw_3.mp4")
    clips, _ = resolve_clips(rows_about("-0AAhXT99Zw_3.mp4", meta=TIMES), [tmp_path])
    assert clips.select("alias", "frames").row(0) == (None, 120)


@pytest.mark.parametrize("remote", [False, True])
def test_times_that_lead_out_of_the_root_find_nothing(tmp_path: Path, bucket: Any, remote: bool) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    rows = rows_about("AAAAAAAAAAA_0.mp4", meta={"start": "0/../..", "end": "/../../secret"})
    root = "memory://bucket/clips" if remote else tmp_path / "clips"
    clips, quarantine = resolve_clips(rows, [root], cache=tmp_path / "cache")
    assert clips["path"].to_list() == [None]
    assert quarantine["reason"].to_list() == ["missing clip"]


def test_the_first_root_that_has_a_clip_counts_and_a_remote_one_is_downloaded_once(tmp_path: Path, bucket: Any) -> None:
    here, cache = tmp_path / "here", tmp_path / "cache"
    here.mkdir()
    shutil.copy(FOOTAGE / "bikes.mp4", here / "both.mp4")
    for name in ("both.mp4", "there.mp4"):
        bucket.put_file(str(FOOTAGE / "carphone_pristine.mp4"), f"/bucket/clips/part/{name}")
    bucket.put_file(str(FOOTAGE / "carphone_pristine.mp4"), "/bucket/clips/both.mp4")
    rows = rows_about("both.mp4", "part/there.mp4", "part", "absent.mp4")
    clips, quarantine = resolve_clips(rows, [here, "memory://bucket/clips"], cache=cache)
    assert clips["frames"].to_list() == [250, 120, None, None]
    assert quarantine["reason"].to_list() == ["missing clip"] * 2
    (kept,) = cache.rglob("*.mp4")
    assert clips["path"][1] == str(kept) and clips["sha256"][1] == file_digest(FOOTAGE / "carphone_pristine.mp4")
    written = kept.stat().st_mtime_ns
    assert resolve_clips(rows, [here, "memory://bucket/clips"], cache=cache)[0].equals(clips)
    assert kept.stat().st_mtime_ns == written


def test_a_remote_clip_that_changes_is_another_clip(tmp_path: Path, bucket: Any) -> None:
    hashes = []
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        bucket.put_file(str(FOOTAGE / name), "/bucket/clips/a.mp4")
        hashes += resolve_clips(rows_about("a.mp4"), ["memory://bucket/clips"], cache=tmp_path)[0]["sha256"].to_list()
    assert hashes == [file_digest(FOOTAGE / name) for name in ("bikes.mp4", "carphone_pristine.mp4")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.mp4", "path outside clip root"),
        ("a/../../secret.mp4", "path outside clip root"),
        ("/bucket/secret.mp4", "path outside clip root"),
        ("memory://bucket/secret.mp4", "path outside clip root"),
        ("*.mp4", "missing clip"),
        (".", "missing clip"),
        ("a\0.mp4", "malformed clip name"),
        ("x" * 300, "malformed clip name"),
    ],
)
def test_a_name_that_leads_out_of_a_remote_root_is_rejected(
    tmp_path: Path, bucket: Any, name: str, reason: str
) -> None:
    bucket.pipe("/bucket/clips/a.mp4", b"")
    with pytest.raises(RejectedRow) as caught:
        open_root("memory://bucket/clips", tmp_path)(name)
    assert caught.value.reason == reason
    assert not list(tmp_path.rglob("*.mp4"))


def test_an_unreachable_root_stops_the_work_and_quarantines_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"refused|connect"):
        resolve_clips(rows_about("a.mp4"), ["ftp://127.0.0.1:9/clips"], cache=tmp_path)
