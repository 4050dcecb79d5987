"""What is damaged, full or hostile ends in a sentence that says what to do, and stops nothing else."""

import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from assets.framework.retries import is_transient
from assets.framework.store import AssetStore
from tests.invoke import invoke
from tests.processes import environment, future_l1, messages
from training.storage.artifacts import Artifact, ArtifactStore, DamagedArtifactError
from training.storage.parquet import read_parquet

TRAJECTORIES = "trajectories/twiff_rows"
HOSTILE = "\x1b[2J\x9b31m\u202e"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AssetStore:
    """A home, which the environment names, with two shards and a model."""
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path))
    monkeypatch.setenv("FUTURE_L1_PROFILE", "demo")
    store = AssetStore(tmp_path)

    def write(workspace: Path) -> dict[str, object]:
        pl.DataFrame({"row_id": ["0123456789abcdef"], "row": [3]}).write_parquet(workspace / "trajectories.parquet")
        (workspace / "report.json").write_text("{}")
        (workspace / "model").mkdir()
        (workspace / "model" / "model.safetensors").write_bytes(b"weights")
        return {"rows": 1}

    for shard in ("good", "bad"):
        store.work(TRAJECTORIES, {}, {}, shard, shard).do(write)
    return store


def bad(store: AssetStore) -> Artifact:
    return store.current(TRAJECTORIES, "bad")


def flip(path: Path) -> None:
    """Another content of the same size, written within the same tick of the clock or not."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"files": [], "provenance": {}}', "[" * 100_000,
                                     '{"files": {"x": {}}, "provenance": {}}', "\udcff"])  # fmt: skip
def test_a_broken_manifest_is_named_and_stops_nothing_else(store: AssetStore, content: str) -> None:
    manifest = bad(store).path / "manifest.json"
    manifest.write_text(content, errors="surrogateescape")
    for read in (lambda: bad(store), lambda: store.work(TRAJECTORIES, {}, {}, "bad", "bad").reuse()):
        with pytest.raises(
            DamagedArtifactError, match=r"manifest\.json is no manifest.*: delete the folder .* and mat"
        ):
            read()
    artifacts, errors = store.read_all()
    assert list(artifacts) == [f"{TRAJECTORIES}/good"] and list(errors) == [f"{TRAJECTORIES}/bad"]
    listed = invoke("inspect")
    assert listed.exit_code == 1 and f"{TRAJECTORIES}/good" in listed.output and str(manifest) in listed.output
    followed = invoke("lineage", "0123456789abcdef")
    assert followed.exit_code == 0 and str(manifest) in followed.stderr and "row 3" in followed.output


def test_an_artifact_without_a_manifest_is_named_and_stops_nothing_else(store: AssetStore) -> None:
    (bad(store).path / "manifest.json").unlink()
    assert list(store.everything()) == [f"{TRAJECTORIES}/good"]
    listed = invoke("inspect")
    assert listed.exit_code == 1 and f"{TRAJECTORIES}/good" in listed.output
    assert f"nothing is published as {TRAJECTORIES}/bad: materialise it first" in " ".join(listed.output.split())


def test_each_manifest_is_read_once(store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    current = ArtifactStore.current
    monkeypatch.setattr(ArtifactStore, "current", lambda self, name: read.append(name) or current(self, name))
    for command in (["inspect"], ["lineage", "0123456789abcdef"]):
        read.clear()
        assert invoke(*command).exit_code == 0
        assert sorted(read) == [f"{TRAJECTORIES}/bad", f"{TRAJECTORIES}/good"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("spoil", [truncated, Path.unlink, flip])
@pytest.mark.parametrize("name", ["trajectories.parquet", "report.json", "model/model.safetensors"])
def test_a_file_that_changed_is_named(store: AssetStore, spoil: Callable[[Path], None], name: str) -> None:
    path = bad(store).file(name)
    spoil(path)
    with pytest.raises(DamagedArtifactError, match=f"{path} .*delete the folder {bad(store).path} and"):
        bad(store).verify()
    if spoil is flip and name.startswith("model"):  # weights are read whole by --verify alone
        assert bad(store).folder("model") == path.parent
    else:
        with pytest.raises(DamagedArtifactError):
            bad(store).file(name)
    assert invoke("inspect").exit_code == 0
    verified = invoke("inspect", "--verify")
    assert verified.exit_code == 1 and str(path) in verified.output and f"{TRAJECTORIES}/good" in verified.output
    followed = invoke("lineage", "0123456789abcdef")
    assert (str(path) in followed.stderr) is name.endswith(".parquet") and "good" in followed.output
    assert read_parquet(store.current(TRAJECTORIES, "good").file("trajectories.parquet")).height == 1


def test_what_is_as_it_was_published_verifies(store: AssetStore) -> None:
    assert invoke("inspect", "--verify").exit_code == 0
    assert invoke("inspect", "--verify", "--out", "x.json").exit_code == 2


@pytest.mark.parametrize(("command", "size"), [(["demo"], 70_000), (["ui"], 70_000), (["train", "text_only"], 0)])
def test_a_disk_that_takes_no_more_is_a_sentence(tmp_path: Path, command: list[str], size: int) -> None:
    """A limit on the size of files is the full disk that every machine has."""
    ended = limited(command, tmp_path / "home", size)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    (message,) = messages(ended.stderr)
    assert message.startswith("Error: ")


@pytest.mark.parametrize("command", [["demo"], ["ui"]])
def test_a_home_that_cannot_be_written_is_a_sentence(command: list[str]) -> None:
    ended = limited(command, Path("/sys/future-l1"), None)
    (message,) = messages(ended.stderr)
    assert ended.returncode == 1 and message.startswith("Error: /sys/future-l1: "), ended.stderr
    assert "choose another folder" in message


def limited(command: list[str], home: Path, size: int | None) -> subprocess.CompletedProcess[str]:
    """Runs a command whose files may have so many bytes."""

    def limit() -> None:
        if size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        future_l1(*command), env=environment(FUTURE_L1_HOME=str(home), COLUMNS="1000"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip


def test_a_full_disk_is_no_outage() -> None:
    with pytest.raises(OSError) as full:
        Path("/dev/full").write_text("x")
    assert not is_transient(full.value)


def test_no_error_carries_what_a_terminal_obeys(store: AssetStore, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    response = f"<answer>{HOSTILE}</answer>"
    answers.write_text(
        json.dumps({"id": HOSTILE, "answer": "A", "question_type": HOSTILE, "response": response}) + "\n["
    )
    for ran in (invoke("lineage", HOSTILE), invoke("train", HOSTILE),
                invoke("score", "--benchmark", "futurebench", "--answers", str(answers)),
                invoke("inspect", "--rewards", str(answers), "--out", str(tmp_path / HOSTILE / "x.json"))):  # fmt: skip
        assert not set(HOSTILE.replace("[2J", "").replace("31m", "")) & set(ran.output + ran.stderr)
