"""Sources: folders, fsspec URLs and a hub list the same shards, and hand each out as a file."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from assets.trajectories.settings import SourceSettings
from assets.trajectories.shards import DamagedFileError, Listing, shard_name
from assets.trajectories.sources import open_source
from tests.assets.trajectories.shard_rows import pull_shard, twiff_row, write
from tests.hub import Hub, serve
from training.runtime.project import PROJECT
from training.storage.artifacts import ArtifactStore
from training.storage.hashing import file_digest

REPO = "lab/TwiFF-2.7M"
NAMES = ["train-00000-of-00002", "train-00001-of-00002"]
CHUNK = 10 * 2**20  # what the hub's client writes at a time


def settings(trajectories: Path | str, **changes: object) -> SourceSettings:
    return SourceSettings(trajectories=trajectories, clips=(), futurebench=Path(), twiffbench=Path(), **changes)


def listing_of(settings: SourceSettings) -> Listing:
    return open_source(settings.trajectories).listing()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, and what else lies about in a dataset repository."""
    data = tmp_path / "repo" / "data"
    data.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        write(data / f"{name}.parquet", [twiff_row(video=f"AAAAAAAAAAA_{number}.mp4")])
    (data / "README.md").write_text("# TwiFF\n")
    (data / ".hidden.parquet").write_bytes(b"")
    (tmp_path / "repo" / "settings.json").write_text("{}")
    return data


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("assets.trajectories.hub.WAITS", (0, 0))
        yield hub


def test_a_folder_lists_its_shards_and_hands_them_out_as_they_lie(folder: Path, tmp_path: Path) -> None:
    listing = listing_of(settings(folder))
    assert list(listing.files) == NAMES
    assert [shard.bytes for shard in listing.files.values()] == [
        (folder / f"{name}.parquet").stat().st_size for name in NAMES
    ]
    source = open_source(str(folder))
    with source.fetch(listing.files[NAMES[0]], tmp_path / "scratch") as path:
        assert path == folder / f"{NAMES[0]}.parquet"
        assert source.version(listing.files[NAMES[0]]) == file_digest(path)
    assert not (tmp_path / "scratch").exists()


def test_a_shard_that_appears_or_changes_changes_the_revision_and_one_that_is_read_does_not(folder: Path) -> None:
    revisions = [listing_of(settings(folder)).revision]
    (folder / f"{NAMES[0]}.parquet").read_bytes()
    revisions.append(listing_of(settings(folder)).revision)
    write(folder / f"{NAMES[0]}.parquet", [twiff_row(video="BBBBBBBBBBB_0.mp4")])
    revisions.append(listing_of(settings(folder)).revision)
    write(folder / "train-00002.parquet", [twiff_row()])
    revisions.append(listing_of(settings(folder)).revision)
    assert revisions[0] == revisions[1] and len(set(revisions)) == 3


def test_a_pattern_or_a_file_names_some_of_a_folder(folder: Path) -> None:
    assert list(listing_of(settings(folder / "train-00001*.parquet")).files) == NAMES[1:]
    assert list(listing_of(settings(folder / f"{NAMES[0]}.parquet")).files) == NAMES[:1]
    (folder / "more").mkdir()
    (folder / "more" / "x.jsonl.gz").write_bytes(b"")
    assert list(listing_of(settings(folder)).files) == NAMES
    assert list(listing_of(settings(folder / "**" / "*.jsonl.gz")).files) == ["more--x"]
    assert list(listing_of(settings(f"file://{folder}")).files) == NAMES


@pytest.mark.parametrize("what", ["empty", "absent", "*.jsonl"])
def test_where_there_is_no_shard_the_error_names_the_place(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"no shard .* in .*{what}".replace("*.j", r"\*\.j")):
        listing_of(settings(tmp_path / what))


def test_two_files_of_one_name_are_an_error_that_names_both(folder: Path) -> None:
    (folder / f"{NAMES[0]}.jsonl").write_text("")
    with pytest.raises(ValueError, match=rf"{NAMES[0]}\.jsonl and .*{NAMES[0]}\.parquet"):
        listing_of(settings(folder))


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.sampled_from([".parquet", ".jsonl.gz", ""]))
def test_any_file_has_a_name_that_partitions_and_folders_can_hold(stem: str, suffix: str) -> None:
    name = shard_name(stem + suffix)
    assert ArtifactStore(Path("root"))._folder(f"trajectories/twiff_rows/{name}").name == name
    assert "..." not in name and name.isascii() and name.isprintable() and 0 < len(name) <= 200


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "a path or a URL"),
        ("hf://datasets/lab/TwiFF", "REVISION"),
        ("hf://lab/TwiFF@main", "hf://datasets"),
        ("s4://bucket/twiff", "unknown protocol 's4'"),
        ("ftp://me:secret@host/twiff", "carries a password"),
    ],
)
def test_a_location_that_cannot_be_read_is_a_mistake_in_the_profile(location: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        settings(location)
    assert "secret" not in str(caught.value).split("input_value")[0]


def test_shards_at_a_url_are_downloaded_once_for_each_of_their_versions(folder: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/twiff", recursive=True)
    try:
        listing = listing_of(settings("memory://bucket/twiff"))
        assert list(listing.files) == NAMES
        assert list(listing_of(settings("memory://bucket/twiff/train-00001*")).files) == NAMES[1:]
        source = open_source("memory://bucket/twiff")
        with source.fetch(listing.files[NAMES[0]], tmp_path / "scratch") as path:
            assert pull_shard(path)[0].height == 1
            first = path
        with source.fetch(listing.files[NAMES[0]], tmp_path / "scratch") as path:
            assert path == first
        memory.pipe(f"/bucket/twiff/{NAMES[0]}.parquet", b"another")
        again = listing_of(settings("memory://bucket/twiff")).files[NAMES[0]]
        assert source.version(again) != source.version(listing.files[NAMES[0]])
        with source.fetch(again, tmp_path / "scratch") as path:
            assert path.read_bytes() == b"another"
        assert not first.exists()
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_url_that_needs_a_library_says_which() -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/twiff needs a library .*s3fs"):
        listing_of(settings("s3://bucket/twiff"))


def test_a_branch_of_a_hub_is_resolved_to_the_commit_that_it_is(hub: Hub, folder: Path, tmp_path: Path) -> None:
    commit = hub.commit(REPO, folder.parent)
    listing = listing_of(settings(f"hf://datasets/{REPO}@main"))
    assert listing.revision == commit
    assert list(listing.files) == [f"data--{name}" for name in NAMES]  # settings.json is none, nor what is hidden
    shard = listing.files[f"data--{NAMES[0]}"]
    source = open_source(f"hf://datasets/{REPO}@main")
    assert source.version(shard) == file_digest(folder / f"{NAMES[0]}.parquet")
    for _ in range(2):
        with source.fetch(shard, tmp_path / "scratch") as path:
            assert path.read_bytes() == (folder / f"{NAMES[0]}.parquet").read_bytes()
    assert len(hub.downloads()) == 1


def test_a_pinned_commit_stays_what_it_was_when_the_branch_goes_on(hub: Hub, folder: Path) -> None:
    commit = hub.commit(REPO, folder.parent)
    write(folder / "train-00002-of-00002.parquet", [twiff_row()])
    newer = hub.commit(REPO, folder.parent)
    pinned = listing_of(settings(f"hf://datasets/{REPO}@{commit}/data"))
    assert (pinned.revision, list(pinned.files)) == (commit, NAMES)
    newest = listing_of(settings(f"hf://datasets/{REPO}@main/data/*.parquet"))
    assert (newest.revision, list(newest.files)) == (newer, [*NAMES, "train-00002-of-00002"])
    assert newest.files[NAMES[0]].stamp == pinned.files[NAMES[0]].stamp
    one = listing_of(settings(f"hf://datasets/{REPO}@{commit}/data/{NAMES[1]}.parquet"))
    assert list(one.files) == NAMES[1:]


def test_a_small_file_that_the_hub_keeps_in_git_is_checked_too(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "rows.jsonl").write_text("{}\n")
    hub.commit(REPO, tmp_path / "repo")
    source = open_source(f"hf://datasets/{REPO}@main")
    (shard,) = source.listing().files.values()
    with source.fetch(shard, tmp_path / "scratch") as path:
        assert path.read_text() == "{}\n"
    changed = next((tmp_path / "hub" / REPO).glob("*/rows.jsonl"))
    changed.write_text("[]\n")
    with pytest.raises(DamagedFileError), source.fetch(shard, tmp_path / "elsewhere"):
        pass


def test_a_download_with_a_wrong_checksum_is_refused_and_thrown_away(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.commit(REPO, folder)
    source = open_source(f"hf://datasets/{REPO}@main")
    shard = source.listing().files[NAMES[0]]
    hub.spoilt = True
    refused = pytest.raises(DamagedFileError, match=rf"{NAMES[0]}\.parquet came as sha256:")
    with refused, source.fetch(shard, tmp_path / "scratch"):
        pass
    assert [path.name for path in (tmp_path / "scratch" / NAMES[0]).iterdir()] == ["lock"]
    hub.spoilt = False
    with source.fetch(shard, tmp_path / "scratch") as path:
        assert f"sha256:{file_digest(path)}" == shard.stamp


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A repository of one shard that takes the client several chunks; nobody parses it."""
    (tmp_path / "large").mkdir()
    content = b"".join(hashlib.sha512(number.to_bytes(4)).digest() for number in range(CHUNK * 5 // 2 // 64))
    (tmp_path / "large" / "train.parquet").write_bytes(content)
    return tmp_path / "large"


def test_a_connection_that_breaks_off_goes_on_where_it_was(hub: Hub, large: Path, tmp_path: Path) -> None:
    hub.commit(REPO, large)
    hub.cuts = [CHUNK + 1000]
    source = open_source(f"hf://datasets/{REPO}@main")
    (shard,) = source.listing().files.values()
    with source.fetch(shard, tmp_path / "scratch") as path:
        assert path.read_bytes() == (large / "train.parquet").read_bytes()
    assert [request.start for request in hub.downloads()] == [0, CHUNK]


def test_a_killed_download_goes_on_where_it_was(hub: Hub, large: Path, tmp_path: Path) -> None:
    hub.commit(REPO, large)
    hub.stall_after = 2 * CHUNK + 1000
    program = (
        "import sys; from pathlib import Path; from assets.trajectories.sources import open_source\n"
        "source = open_source(sys.argv[1]); (shard,) = source.listing().files.values()\n"
        "with source.fetch(shard, Path(sys.argv[2])): pass"
    )
    location, scratch = f"hf://datasets/{REPO}@main", tmp_path / "scratch"
    pull = subprocess.Popen([sys.executable, "-c", program, location, str(scratch)], cwd=PROJECT, env=os.environ)
    assert hub.stalled.wait(60)
    partial = scratch / "train"
    while not any(path.stat().st_size == 2 * CHUNK for path in partial.glob("*.partial")):
        assert pull.poll() is None
    pull.send_signal(signal.SIGKILL)
    pull.wait()
    hub.stall_after = None
    hub.released.set()
    source = open_source(location)
    (shard,) = source.listing().files.values()
    with source.fetch(shard, scratch) as path:
        assert path.read_bytes() == (large / "train.parquet").read_bytes()
    assert [request.start for request in hub.downloads()] == [0, 2 * CHUNK]


def test_a_busy_hub_is_retried_and_one_that_stays_busy_is_an_error(hub: Hub, folder: Path) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    hub.commit(REPO, folder)
    hub.busy = 2
    assert list(listing_of(settings(f"hf://datasets/{REPO}@main")).files) == NAMES
    hub.busy = 100
    with pytest.raises(HfHubHTTPError, match="503"):
        listing_of(settings(f"hf://datasets/{REPO}@main"))


def test_a_private_dataset_needs_the_token_which_the_storage_never_sees(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, folder)
    hub.private[REPO] = "hf_secret"
    with pytest.raises(ValueError, match=f"no dataset {REPO}: .*set HF_TOKEN"):
        listing_of(settings(f"hf://datasets/{REPO}@main"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="HF_TOKEN may not read it"):
        listing_of(settings(f"hf://datasets/{REPO}@main"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = open_source(f"hf://datasets/{REPO}@main")
    with source.fetch(source.listing().files[NAMES[0]], tmp_path / "scratch") as path:
        assert pull_shard(path)[0].height == 1
    assert [request.token for request in hub.downloads()] == [None]


def test_a_revision_that_is_not_there_is_a_mistake_with_its_name(hub: Hub, folder: Path) -> None:
    hub.commit(REPO, folder)
    with pytest.raises(ValueError, match="has no revision 'v2'"):
        listing_of(settings(f"hf://datasets/{REPO}@v2"))
