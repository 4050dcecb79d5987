"""An artifact is complete or it is not there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.storage.artifacts import ArtifactStore, MissingArtifactError
from training.storage.files import atomic_replace_dir

NAME = "curation/gain_answers/train-00000"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def publish(store: ArtifactStore, version: str, text: str = "rows") -> None:
    workspace = store.workspace(NAME, version)
    (workspace / "answers.txt").write_text(text)
    store.publish(NAME, version, workspace, {"rows": 1})


def test_a_version_depends_on_inputs_config_and_code_and_on_nothing_else(store: ArtifactStore) -> None:
    version = store.version(NAME, {"a": "1", "b": "2"}, {"samples": 8}, "code")
    assert version == store.version(NAME, {"b": "2", "a": "1"}, {"samples": 8}, "code")
    others = {
        store.version(NAME, {"a": "1", "b": "3"}, {"samples": 8}, "code"),
        store.version(NAME, {"a": "1", "b": "2"}, {"samples": 9}, "code"),
        store.version(NAME, {"a": "1", "b": "2"}, {"samples": 8}, "other code"),
        store.version("curation/gain_answers/train-00001", {"a": "1", "b": "2"}, {"samples": 8}, "code"),
    }
    assert version not in others
    assert len(others) == 4
    assert len(version) == 16


def test_a_published_version_is_found_with_its_manifest(store: ArtifactStore) -> None:
    publish(store, "v1")
    result = store.find(NAME, "v1")
    assert result is not None
    assert result.path == store.root / NAME / "v1"
    assert result.provenance == {"rows": 1}
    assert result.file("answers.txt").read_text() == "rows"
    assert result.manifest["files"]["answers.txt"]["bytes"] == 4


def test_half_done_work_is_not_an_artifact_and_stays_for_the_next_start(store: ArtifactStore) -> None:
    (store.workspace(NAME, "v1") / "half.txt").write_text("half")
    assert store.find(NAME, "v1") is None
    assert store.versions(NAME) == []
    assert (store.workspace(NAME, "v1") / "half.txt").read_text() == "half"


def test_work_of_another_version_is_not_continued(store: ArtifactStore) -> None:
    (store.workspace(NAME, "v1") / "half.txt").write_text("half")
    assert list(store.workspace(NAME, "v2").iterdir()) == []


def test_a_manifest_without_the_rename_is_not_an_artifact(store: ArtifactStore) -> None:
    (store.workspace(NAME, "v1") / "manifest.json").write_text("{}")
    assert store.find(NAME, "v1") is None


def test_publishing_what_another_process_published_keeps_the_first(store: ArtifactStore) -> None:
    publish(store, "v1", "first")
    publish(store, "v1", "second")
    result = store.find(NAME, "v1")
    assert result is not None
    assert result.file("answers.txt").read_text() == "first"
    assert sorted(path.name for path in (store.root / NAME).iterdir()) == ["v1"]


def test_current_follows_what_was_made_current(store: ArtifactStore) -> None:
    with pytest.raises(MissingArtifactError, match="materialise it first"):
        store.current(NAME)
    publish(store, "v1")
    publish(store, "v2")
    store.make_current(NAME, "v2")
    assert store.current(NAME).version == "v2"
    store.make_current(NAME, "v1")
    assert store.current(NAME).version == "v1"
    assert {artifact.version for artifact in store.versions(NAME)} == {"v1", "v2"}


def test_what_is_not_complete_cannot_become_current(store: ArtifactStore) -> None:
    store.workspace(NAME, "v1")
    with pytest.raises(MissingArtifactError):
        store.make_current(NAME, "v1")


@pytest.mark.parametrize("name", ["", "../escape", "stage//noun", "stage/./noun", "stage/current", "stage/.hidden"])
def test_a_name_stays_inside_the_store(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ValueError, match="not an artifact name"):
        store.workspace(name, "v1")


KILLED_WHILE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
import training.storage.artifacts as artifacts

def die(path, text):
    os.kill(os.getpid(), signal.SIGKILL)

artifacts._write_durably = die
store = artifacts.ArtifactStore(Path(sys.argv[1]))
workspace = store.workspace("stage/noun", "v1")
(workspace / "rows.txt").write_text("rows")
store.publish("stage/noun", "v1", workspace, {})
"""


def test_a_process_killed_while_publishing_leaves_its_work_and_no_artifact(store: ArtifactStore) -> None:
    process = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_PUBLISHING, str(store.root)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert store.find("stage/noun", "v1") is None
    workspace = store.workspace("stage/noun", "v1")
    assert (workspace / "rows.txt").read_text() == "rows"
    assert store.publish("stage/noun", "v1", workspace, {}).file("rows.txt").read_text() == "rows"


def test_pruning_keeps_the_newest_and_the_current(store: ArtifactStore) -> None:
    for number in range(5):
        publish(store, f"v{number}")
        os.utime(store.root / NAME / f"v{number}" / "manifest.json", (number, number))
    store.make_current(NAME, "v1")
    assert store.prune(NAME, 3) == ["v0", "v2"]
    assert [artifact.version for artifact in store.versions(NAME)] == ["v1", "v3", "v4"]
    assert store.current(NAME).version == "v1"
    assert store.prune(NAME, 3) == []
    assert store.prune(NAME, 1) == ["v3", "v4"]


KILLED_WHILE_REPLACING = """
import os, signal, sys
from pathlib import Path
from training.storage.files import atomic_replace_dir

with atomic_replace_dir(Path(sys.argv[1])) as fresh:
    (fresh / "config.json").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("before", [None, "whole"])
def test_a_process_killed_while_replacing_a_folder_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    folder = tmp_path / "checkpoint"
    if before is not None:
        folder.mkdir()
        (folder / "config.json").write_text(before)
    process = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_REPLACING, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert [path.read_text() for path in folder.glob("*")] == ([] if before is None else [before])
    with atomic_replace_dir(folder) as fresh:
        assert list(fresh.iterdir()) == [], "nothing of the killed one is left"
        (fresh / "weights").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["weights"]
    assert list(tmp_path.iterdir()) == [folder]
