"""The assets: shards are registered, pulled and resolved once, and what a shard before has counts as repeated."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.framework.partitions import SHARDS, range_tags
from assets.framework.store import AssetStore
from assets.trajectories.assets import CLIP_TABLE, CLIPS, QUARANTINE, ROWS, TRAJECTORIES, source_assets
from assets.trajectories.checks import source_checks
from assets.trajectories.settings import SourceSettings
from assets.trajectories.usable import repeats_of_earlier_shards
from assets.trajectories.validate import write_shard
from tests.assets.trajectories.shard_rows import published_row, twiff_row, upstream_row, write
from tests.footage import FOOTAGE
from tests.hub import serve

QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


class Room:
    """A store, an instance and the three assets of a source."""

    def __init__(self, home: Path, trajectories: Path | str, clips: Path, **changes: Any) -> None:
        settings = SourceSettings(
            trajectories=trajectories, clips=(clips,), futurebench=home, twiffbench=home, **changes
        )
        self.store = AssetStore(home)
        self.definitions = dg.Definitions(
            assets=source_assets(settings, []),
            asset_checks=source_checks(settings),
            jobs=[
                dg.define_asset_job("list_source", [dg.AssetKey(["inputs", "twiff_source"])]),
                dg.define_asset_job("ingest", [dg.AssetKey(key.split("/")) for key in (TRAJECTORIES, CLIPS)]),
            ],
            resources={"store": self.store, "progress": lambda done, total, what: None},
        )
        self.instance = dg.DagsterInstance.ephemeral()

    def list_source(self) -> Any:
        """The data version of the list of shards, and its metadata."""
        result = self.definitions.resolve_job_def("list_source").execute_in_process(
            instance=self.instance, run_config=QUIET
        )
        (event,) = result.get_asset_materialization_events()
        listed = event.step_materialization_data.materialization
        return listed.tags["dagster/data_version"], {name: value.value for name, value in listed.metadata.items()}

    def ingest(self) -> dict[str, str]:
        """Every shard's pulled version."""
        job = self.definitions.resolve_job_def("ingest")
        for shard in self.shards:
            assert job.execute_in_process(instance=self.instance, partition_key=shard, run_config=QUIET).success
        return {shard: self.store.current(TRAJECTORIES, shard).version for shard in self.shards}

    @property
    def shards(self) -> list[str]:
        return sorted(self.instance.get_dynamic_partitions(str(SHARDS.name)))

    def counts(self, key: str, shard: str) -> dict[str, Any]:
        return self.store.current(key, shard).provenance["counts"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(4):
        shutil.copy(FOOTAGE / "carphone_pristine.mp4", folder / f"AAAAAAAAAAA_{number}.mp4")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three shards, one in each layout; rows 0 and 1 are in two of them each."""
    folder = tmp_path / "twiff"
    folder.mkdir()
    layouts = {"a.parquet": (twiff_row, (0, 1)), "b.jsonl": (published_row, (1, 2)), "c.jsonl": (upstream_row, (3, 0))}
    for name, (row, numbers) in layouts.items():
        write(folder / name, [row(video=f"AAAAAAAAAAA_{number}.mp4") for number in numbers])
    return folder


@pytest.fixture
def room(tmp_path: Path, source: Path, clips: Path) -> Room:
    return Room(tmp_path / "home", source, clips, quarantine_limit=0.5)


def test_listing_registers_what_appeared_and_forgets_what_vanished(room: Room, source: Path) -> None:
    version, metadata = room.list_source()
    assert room.shards == ["a", "b", "c"]
    assert metadata["shards"] == 3 and metadata["source"] == str(source)
    assert room.list_source()[0] == version
    room.ingest()
    (source / "a.parquet").unlink()
    write(source / "d.jsonl", [twiff_row()])
    assert room.list_source()[0] != version
    assert room.shards == ["b", "c", "d"]
    assert not room.store.has(TRAJECTORIES, "a") and not room.store.has(CLIPS, "a")
    assert repeats_of_earlier_shards(room.store, ["b", "c"]).is_empty()  # what is gone repeats nothing


def test_a_source_that_is_followed_half_way_is_followed_by_the_next(
    room: Room, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.list_source()
    room.ingest()
    (source / "a.parquet").unlink()
    write(source / "d.jsonl", [twiff_row()])
    with monkeypatch.context() as patched:
        patched.setattr(AssetStore, "everything", lambda self: (_ for _ in ()).throw(OSError("the daemon was killed")))
        with pytest.raises(OSError, match="killed"):
            room.list_source()
    room.list_source()
    assert room.shards == ["b", "c", "d"]
    assert not room.store.has(TRAJECTORIES, "a") and not room.store.has(CLIPS, "a")


def test_a_shard_is_pulled_once_and_says_what_it_holds(room: Room, source: Path) -> None:
    with (source / "b.jsonl").open("a") as lines:
        lines.write("{\n")
    room.list_source()
    versions = room.ingest()
    assert room.counts(TRAJECTORIES, "b") | {"revision": "", "stamp": ""} == {
        "rows": 2,
        "quarantined": 1,
        "categories": {"camera": 2},
        "reasons": {"unreadable row": 1},
        "repository": None,
        "revision": "",
        "stamp": "",
    }
    rows = pl.read_parquet(room.store.current(TRAJECTORIES, "b").file(ROWS))
    assert rows.select("source", "source_p_t", "source_p_v").rows() == [("b", 1, 6)] * 2
    quarantine = pl.read_parquet(room.store.current(TRAJECTORIES, "b").file(QUARANTINE))
    assert quarantine.select("source", "row", "reason").rows() == [("b", 2, "unreadable row")]
    clips = pl.read_parquet(room.store.current(CLIPS, "b").file(CLIP_TABLE))
    assert clips["frames"].to_list() == [120, 120]
    assert room.counts(CLIPS, "b")["bytes"] == clips["bytes"].sum()
    assert room.ingest() == versions


def test_only_a_shard_whose_content_changed_is_pulled_again(room: Room, source: Path) -> None:
    room.list_source()
    before = room.ingest()
    (source / "a.parquet").touch()
    write(source / "b.jsonl", [twiff_row(video="AAAAAAAAAAA_3.mp4")])
    room.list_source()
    after = room.ingest()
    assert {shard for shard in before if before[shard] != after[shard]} == {"b"}


def test_a_row_that_several_shards_have_belongs_to_the_first_of_them(room: Room) -> None:
    assert repeats_of_earlier_shards(room.store, ["a"]).is_empty()
    room.list_source()
    room.ingest()
    ids = {
        (shard, row["video"]): row["row_id"]
        for shard in room.shards
        for row in pl.read_parquet(room.store.current(TRAJECTORIES, shard).file(ROWS)).iter_rows(named=True)
    }
    repeated = repeats_of_earlier_shards(room.store, room.shards)
    assert repeated.rows() == [
        (ids["b", "AAAAAAAAAAA_1.mp4"], "b", "a"),
        (ids["c", "AAAAAAAAAAA_0.mp4"], "c", "a"),
    ]
    for shard in room.shards:
        assert repeats_of_earlier_shards(room.store, [shard]).equals(repeated.filter(pl.col("shard") == shard))


def numbered(path: Path, numbers: range) -> Path:
    return write(path, [twiff_row(video="AAAAAAAAAAA_0.mp4", answer=f"<rimage> <ans>{n}</ans>") for n in numbers])


def test_a_file_of_many_rows_is_pulled_in_shards_that_follow_it_as_it_grows_and_shrinks(
    tmp_path: Path, source: Path, clips: Path
) -> None:
    room = Room(tmp_path / "home", source, clips, rows_per_partition=2)
    numbered(source / "c.jsonl", range(5))
    assert room.list_source()[1]["shards"] == 5
    versions = room.ingest()
    assert room.shards == ["a", "b", "c", "c--rows-00000002", "c--rows-00000004"]
    assert [room.counts(TRAJECTORIES, shard)["rows"] for shard in room.shards] == [2, 2, 2, 2, 1]
    rows = pl.read_parquet(room.store.current(TRAJECTORIES, "c--rows-00000004").file(ROWS))
    assert rows.select("source", "row", "answer").rows() == [("c--rows-00000004", 4, "4")]
    room.list_source()
    assert room.ingest() == versions
    numbered(source / "c.jsonl", range(7))
    room.list_source()
    room.ingest()
    assert room.shards[-1] == "c--rows-00000006"
    assert [room.counts(CLIPS, shard)["clips"] for shard in room.shards[2:]] == [1] * 4
    numbered(source / "c.jsonl", range(2))
    with pytest.raises(dg.Failure, match="has no shard 'c--rows-00000002' any more"):
        room.ingest()
    room.list_source()
    room.ingest()
    assert room.shards == ["a", "b", "c"]
    assert not room.store.has(TRAJECTORIES, "c--rows-00000002") and not room.store.has(CLIPS, "c--rows-00000006")


def test_a_row_that_two_shards_of_a_file_have_belongs_to_the_first_of_them(
    tmp_path: Path, source: Path, clips: Path
) -> None:
    room = Room(tmp_path / "home", source, clips, rows_per_partition=1)
    room.list_source()
    room.ingest()
    repeated = repeats_of_earlier_shards(room.store, room.shards)
    assert repeated.select("shard", "first").rows() == [("b", "a--rows-00000001"), ("c--rows-00000001", "a")]


def test_a_pull_that_ends_between_shards_of_a_file_goes_on_with_those_that_are_missing(
    tmp_path: Path, source: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path / "home", numbered(source / "c.jsonl", range(6)), clips, rows_per_partition=2)
    room.list_source()
    pulls: list[str] = []

    def interrupted(path: Path, source: str, *files: Any) -> dict[str, Any]:
        pulls.append(source)
        if len(pulls) == 2:
            raise KeyboardInterrupt
        return write_shard(path, source, *files)

    monkeypatch.setattr("assets.trajectories.assets.write_shard", interrupted)
    job = room.definitions.resolve_job_def("ingest")
    successes = [
        job.execute_in_process(
            instance=room.instance, tags=range_tags(room.shards), run_config=QUIET, raise_on_error=False
        ).success
        for _ in range(2)
    ]
    assert successes == [False, True]
    assert pulls == ["c", "c--rows-00000002", "c--rows-00000002", "c--rows-00000004"]
    assert [room.counts(TRAJECTORIES, shard)["rows"] for shard in room.shards] == [2, 2, 2]


def test_a_source_on_a_hub_is_listed_at_its_commit_and_pulled_without_being_downloaded_again(
    tmp_path: Path, source: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        commit = hub.commit("lab/twiff", source)
        room = Room(tmp_path / "home", "hf://datasets/lab/twiff@main", clips)
        version, metadata = room.list_source()
        assert (metadata["revision"], room.shards) == (commit, ["a", "b", "c"])
        versions = room.ingest()
        counts = room.counts(TRAJECTORIES, "a")
        assert (counts["repository"], counts["revision"]) == ("lab/twiff", commit)
        write(source / "d.jsonl", [twiff_row()])
        assert hub.commit("lab/twiff", source) != commit
        assert room.list_source()[0] != version
        again = room.ingest()
        assert {shard: again[shard] for shard in versions} == versions
        assert len(hub.downloads()) == 1  # of the parquet file


def test_a_fault_of_a_source_is_reported_and_not_retried(tmp_path: Path, clips: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(dg.Failure, match="no shard") as caught:
        Room(tmp_path / "home", tmp_path / "empty", clips).list_source()
    assert caught.value.allow_retries is False


def test_a_broken_shard_is_left_out_alone_and_an_empty_one_is_reported(room: Room, source: Path) -> None:
    (source / "b.jsonl").write_text("")
    whole = (source / "a.parquet").read_bytes()
    (source / "a.parquet").write_bytes(whole[: len(whole) // 2])
    room.list_source()
    job = room.definitions.resolve_job_def("ingest")
    ran = job.execute_in_process(instance=room.instance, tags=range_tags(room.shards), run_config=QUIET)
    assert ran.success
    (result,) = [one for one in ran.get_asset_check_evaluations() if one.check_name == "shards_can_be_read"]
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN
    assert "shard a is broken" in result.description and "a.parquet cannot be read as parquet" in result.description
    assert "shard b holds no rows" in result.description
    assert room.counts(TRAJECTORIES, "a")["reasons"] == {"broken shard": 1}
    assert [room.counts(CLIPS, shard)["usable"] for shard in "abc"] == [0, 0, 2]
    (source / "a.parquet").write_bytes(whole)
    room.list_source()
    assert room.ingest() and room.counts(TRAJECTORIES, "a")["rows"] == 2


def test_a_file_that_may_not_be_read_is_one_broken_shard(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, *mode: Any, **options: Any) -> Any:
        if path.name == "b.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *mode, **options)  # noqa: PTH123 - what Path.open is

    monkeypatch.setattr(Path, "open", opened)
    room.list_source()
    job = room.definitions.resolve_job_def("ingest")
    assert job.execute_in_process(instance=room.instance, tags=range_tags(room.shards), run_config=QUIET).success
    assert "Permission denied" in room.counts(TRAJECTORIES, "b")["broken"]
    assert room.counts(TRAJECTORIES, "c")["rows"] == 2


def test_a_check_that_stops_a_run_says_the_count_the_reason_and_the_file(room: Room, source: Path, clips: Path) -> None:
    for clip in clips.iterdir():
        clip.unlink()
    room.list_source()
    job = room.definitions.resolve_job_def("ingest")
    ran = job.execute_in_process(instance=room.instance, partition_key="a", run_config=QUIET, raise_on_error=False)
    assert not ran.success
    (result,) = [one for one in ran.get_asset_check_evaluations() if not one.passed]
    quarantine = room.store.current(CLIPS, "a").path / QUARANTINE
    counted = "2 of 2 clips of shard a cannot be used (2 x missing clip); the profile allows 50%"
    assert result.description.startswith(counted)
    assert str(quarantine) in result.description
