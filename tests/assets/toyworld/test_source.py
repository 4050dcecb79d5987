"""The demo's source: what it shows is what its world does, and it is laid out as the real sources are."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.toyworld.broken import FAULTS
from assets.toyworld.clips import BATCH, FRAMES, ClipJob, write_batch, write_clips
from assets.toyworld.source import FUTUREBENCH_HOPS, SourceSizes, write_futurebench, write_source
from assets.toyworld.trajectories import Mix, ToyShard, draw_shard
from training.data.keyframes import key_frame_pool
from training.data.trajectory import parse_row
from training.data.video import probe, read_frames
from training.tiny.world import COLOURS, Boards, board_split, draw_boards

SMALL = SourceSizes(shards=2, rows_per_shard=40, futurebench_per_split=3, twiffbench=6)
STEP = re.compile(r"step (\d)")


def board(job: ClipJob) -> Boards:
    return Boards(np.array([job.tiles]), np.array([job.pos]), np.array([job.direction]))


def colour(job: ClipJob, step: int) -> str:
    return COLOURS[board(job).colour_at(step)[0]]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    write_source(root, seed=3, sizes=SMALL)
    return root


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ToyShard:
    mix = Mix(easy=0.2, ambiguous=0.2, interpolation=0.3, open_ended=0.3)
    return draw_shard(400, mix, 1, tmp_path_factory.mktemp("clips"), np.random.default_rng(0))


@pytest.mark.parametrize("pre_roll", [False, True])
def test_key_frame_k_shows_step_k_minus_1(tmp_path: Path, pre_roll: bool) -> None:
    boards = draw_boards(6, np.random.default_rng(1), "train")
    for i in range(len(boards)):
        job = ClipJob(
            tmp_path / f"{i}.mp4", tuple(boards.tiles[i]), boards.pos[i], boards.direction[i], pre_roll=pre_roll
        )
        write_batch([job])
        info = probe(job.path)
        assert (info.frames, info.width, info.height) == (FRAMES, 64, 64)
        assert info.reader == "sequential"
        for step, images in enumerate(read_frames(job.path, key_frame_pool(FRAMES), info.reader)):
            steps = [difference(images, board(job).frames(other)[0]) for other in range(8)]
            assert int(np.argmin(steps)) == step
            assert steps[step] < 6  # what the encoder's colours cost


def test_key_frames_of_a_clip_are_distinct_and_unevenly_spaced() -> None:
    gaps = np.diff(key_frame_pool(FRAMES))
    assert gaps.min() > 0 and len(set(gaps)) > 1


def test_a_clip_does_not_depend_on_the_clips_encoded_with_it_or_on_the_processes(tmp_path: Path) -> None:
    boards = draw_boards(BATCH + 5, np.random.default_rng(2), "train")
    written = []
    for folder, workers in (("one", 1), ("two", 2)):
        jobs = [
            ClipJob(tmp_path / folder / f"{i}.mp4", tuple(boards.tiles[i]), boards.pos[i], boards.direction[i])
            for i in range(len(boards))
        ]
        counts: list[int] = []
        write_clips(jobs, lambda done, total, counts=counts: counts.append(done), workers)  # type: ignore[misc]
        assert counts == [BATCH, BATCH + 5]
        written.append([job.path.read_bytes() for job in jobs])
    assert written[0] == written[1]


def test_fog_hides_the_future_and_leaves_the_observed_frame(tmp_path: Path) -> None:
    boards = draw_boards(1, np.random.default_rng(3), "train")
    job = ClipJob(tmp_path / "fog.mp4", tuple(boards.tiles[0]), boards.pos[0], boards.direction[0], fog_level=0.9)
    write_batch([job])
    observed, future = read_frames(job.path, key_frame_pool(FRAMES)[:2], "sequential")
    assert difference(observed, boards.frames(0)[0]) < 6
    assert future.std() < 0.2 * observed.std()


def test_every_good_row_tells_the_truth_about_its_clip(shard: ToyShard) -> None:
    jobs = {job.path.name: job for job in shard.clips}
    good = [row for row in shard.rows if row["video"] in jobs and not_broken(row)]
    assert len(good) >= 400 - len(FAULTS)
    for row in good:
        trajectory, job = parse_row(row, "shard", 0), jobs[row["video"]]
        *events, hop = (int(step) for step in STEP.findall(trajectory.question))
        assert trajectory.answer == colour(job, hop)
        steps = max(hop, 1)
        assert trajectory.future == tuple(range(2, steps + 2))
        marble = {1: "white", -1: "black"}[job.direction]
        assert trajectory.reasoning == (f"{marble} rolls to step {steps}", *["Then it rolls on."] * (steps - 1), "")
        for later in events:  # an interpolation row states a later event
            assert later > hop
            assert f"At step {later} it is on {colour(job, later)}." in trajectory.question


def not_broken(row: dict[str, object]) -> bool:
    try:
        parse_row(row, "shard", 0)
    except ValueError:
        return False
    return True


def test_options_are_four_colours_with_the_answer_and_without_the_stated_one(shard: ToyShard) -> None:
    questions = [parse_row(row, "shard", 0) for row in shard.rows if not_broken(row) and "\nA. " in row["question"]]
    for trajectory in questions:
        options = re.findall(r"^[A-D]\. (\w+)$", trajectory.question, re.MULTILINE)
        assert len(set(options)) == 4 and trajectory.answer in options
        assert not set(re.findall(r"it is on (\w+)\.", trajectory.question)) & set(options)


def test_a_shard_holds_every_kind_of_row_on_train_boards_only(shard: ToyShard) -> None:
    assert len(shard.rows) == 400
    assert shard.kinds["easy"] + shard.kinds["ambiguous"] + shard.kinds["hard"] == 400 - len(FAULTS)
    good = 400 - len(FAULTS)
    for kind, share in (("easy", 0.2), ("ambiguous", 0.2), ("interpolation", 0.24), ("open-ended", 0.3)):
        assert share - 0.1 < shard.kinds[kind] / good < share + 0.1
    assert {board_split(np.array(job.tiles)) for job in shard.clips} == {"train"}
    assert set(Counter(row["video"] for row in shard.rows if not_broken(row)).values()) >= {1, 2}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_worlds(source: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "again", seed=3, sizes=SMALL)
    files = sorted(path.relative_to(source) for path in source.rglob("*.*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    assert all((source / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    write_source(tmp_path / "other", seed=4, sizes=SMALL)
    names = [{path.name for path in (root / "clips").iterdir()} for root in (source, tmp_path / "other")]
    assert not names[0] & names[1]


def test_shards_have_the_columns_of_twiff(source: Path) -> None:
    paths = sorted((source / "twiff").iterdir())
    assert [path.name for path in paths] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    table = pl.read_parquet(paths[0])
    assert table.columns == [
        "video", "question", "answer", "question_images_index", "reasoning_images_index", "meta_data"
    ]  # fmt: skip
    assert [f.name for f in table.schema["meta_data"].fields] == [
        "Process",
        "Summary",
        "classification",
        "start",
        "end",
    ]
    assert all(re.fullmatch(r"[\w-]{11}_\d\.mp4", path.name) for path in (source / "clips").iterdir())


def test_futurebench_items_are_right_about_their_boards(tmp_path: Path) -> None:
    clips = write_futurebench(tmp_path, 20, np.random.default_rng(0))
    items = json.loads((tmp_path / "futurebench.json").read_text())
    assert Counter(item["question_type"] for item in items) == dict.fromkeys(FUTUREBENCH_HOPS, 20)
    assert {board_split(np.array(job.tiles)) for job in clips} == {"test"}
    for item, job in zip(items, clips, strict=True):
        assert item["video_path"] == f"video_dataset/{job.path.name}"
        *events, hop = (int(step) for step in STEP.findall(item["qa"]["Question"]))
        assert hop in FUTUREBENCH_HOPS[item["question_type"]]
        assert bool(events) == (item["question_type"] == "hop5")
        assert item["qa"]["Options"][item["qa"]["Answer"]] == colour(job, hop)


def test_the_observed_part_of_a_benchmark_clip_never_shows_what_comes(source: Path) -> None:
    for path in (source / "futurebench" / "first_part_video").iterdir():
        info = probe(path)
        frames = read_frames(path, range(info.frames), info.reader)
        assert all(difference(frames[0], frame) < 3 for frame in frames)


def test_twiffbench_embeds_the_frames_that_it_names(source: Path) -> None:
    table = pl.concat(pl.read_parquet(path) for path in sorted((source / "twiffbench").iterdir()))
    assert len(table) == 6
    assert set(Counter(row["classification"] for row in table["meta_data"]).values()) == {2}
    for row in table.iter_rows(named=True):
        trajectory = parse_row(row, "bench", 0)
        assert (len(row["question_images"]), len(row["reasoning_images"])) == (1, len(trajectory.future))
        images = [Image.open(io.BytesIO(image["bytes"])) for image in row["question_images"] + row["reasoning_images"]]
        assert {(image.format, image.size) for image in images} == {("PNG", (64, 64))}
        assert len({image.tobytes() for image in images}) == len(images)


def test_the_report_counts_what_was_written_and_no_rule_solves_the_task(source: Path) -> None:
    report = json.loads((source / "SOURCE.json").read_text())
    assert (report["seed"], report["rows"]) == (3, 80)
    assert report["faults"] == dict.fromkeys(FAULTS, 2)
    assert report["clips"] + report["faults"]["corrupt clip"] == len(list((source / "clips").iterdir()))
    assert max(report["rules"].values()) < 0.6
