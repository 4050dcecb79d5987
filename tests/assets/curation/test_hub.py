"""Pushing Future-L1-50K: what the hub's own client reads back afterwards is what was published, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from huggingface_hub import DatasetCard, HfApi

from assets.curation.assets import CURATED
from assets.curation.contamination import benchmark_index
from assets.curation.dataset_card import CARD, CURATED_TABLE, Origin
from assets.curation.local_clips import LOCAL_CLIPS
from assets.curation.previews import REJECTED, STORYBOARDS, TOP_ROWS
from assets.curation.publication import CHANGE, PUBLISHED, publish
from assets.curation.selection import SelectionSettings
from assets.curation.set_assets import dataset_hub_asset
from assets.framework.store import AssetStore
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards
from tests.hub import Hub, let_push, serve
from training.storage.artifacts import Artifact

REPO, TOKEN, LICENSE = "lab/future-l1-50k", "hf_kept_to_itself", "cc-by-4.0"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path / "hub") as hub:
        let_push(hub, TOKEN, monkeypatch)
        hub.accounts["hf_may_only_read"] = False
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    return AssetStore(tmp_path / "home")


@pytest.fixture(scope="module")
def publications(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two publications by version, of four rows and of six."""
    home, folders = tmp_path_factory.mktemp("publications"), {}
    for version, rows, before in (("first", 4, None), ("second", 6, "first")):
        files = write_shards(home / f"{rows}", scored_of([trajectory(i) for i in range(rows)], [(0, 8)] * rows))
        folder = folders[version] = home / version
        folder.mkdir()
        previous = (before, folders[before] / CURATED_TABLE) if before else None
        publish(folder, files, SelectionSettings(top=9), benchmark_index({}), previous, Origin([], None, 8))
        for name in (STORYBOARDS, TOP_ROWS, REJECTED, LOCAL_CLIPS):
            (folder / name).write_text("for this machine alone")
    return folders


@pytest.fixture
def published(store: AssetStore, publications: dict[str, Path]) -> Callable[[str], Artifact]:
    """Makes a publication the current one."""

    def make(version: str) -> Artifact:
        def write(folder: Path) -> dict[str, int]:
            shutil.copytree(publications[version], folder, dirs_exist_ok=True)
            return {}

        return store.work(CURATED, {"version": version}, {}, "code").do(write)

    return make


def push(store: AssetStore, license_id: str | None = LICENSE) -> dg.ExecuteInProcessResult:
    asset = dataset_hub_asset(REPO, license_id)
    return dg.materialize([asset], resources={"store": store}, raise_on_error=False)


def pulled(hub: Hub, folder: Path, revision: str = "main") -> dict[str, bytes]:
    """The files of a revision as the hub's own client downloads them."""
    api = HfApi(endpoint=hub.url, token=TOKEN)
    names = api.list_repo_files(REPO, repo_type="dataset", revision=revision)
    paths = {
        name: api.hf_hub_download(REPO, name, repo_type="dataset", revision=revision, cache_dir=folder)
        for name in names
        if name != ".gitattributes"  # a hub's own
    }
    return {name: Path(path).read_bytes() for name, path in paths.items()}


def content(artifact: Artifact) -> dict[str, bytes]:
    """What is pushed of an artifact: its published files, with the license in the card's front matter."""
    files = {name: (artifact.path / name).read_bytes() for name in artifact.manifest["files"].keys() & PUBLISHED}
    return files | {CARD: files[CARD].replace(b"\n---\n", f"\nlicense: {LICENSE}\n---\n".encode(), 1)}


def test_what_is_pushed_is_what_is_pulled(
    hub: Hub,
    store: AssetStore,
    published: Callable[[str], Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact = published("first")
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")  # as files of secrets end
    result = push(store)
    assert result.success
    (event,) = result.get_asset_materialization_events()
    commit = hub.refs(REPO)["main"]
    assert event.materialization.metadata["commit"].value == f"{hub.url}/datasets/{REPO}/commit/{commit}"
    downloads = pulled(hub, tmp_path / "cache")
    assert {CARD, CURATED_TABLE} < downloads.keys()
    assert downloads == content(artifact)
    assert DatasetCard(downloads[CARD].decode()).data["pretty_name"] == "Future-L1-50K"
    assert len(hub.uploads()) == sum(name.endswith(".parquet") for name in downloads)
    assert {request.token for request in hub.uploads()} == {None}  # the storage never sees it


def test_a_pushed_repository_is_a_data_set(
    hub: Hub, store: AssetStore, published: Callable[[str], Artifact], tmp_path: Path
) -> None:
    """In a process of its own: the libraries read the hub's address when they are imported."""
    artifact = published("first")
    assert push(store).success
    load = f"import datasets; datasets.load_dataset('{REPO}', split='train').to_json('rows.jsonl')"
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run([sys.executable, "-c", load], cwd=tmp_path, env=os.environ | variables, check=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows == pl.read_parquet(artifact.file(CURATED_TABLE)).to_dicts()


def test_pushing_a_version_again_changes_nothing(
    hub: Hub, store: AssetStore, published: Callable[[str], Artifact]
) -> None:
    published("first")
    assert push(store).success
    refs, uploads = hub.refs(REPO), hub.uploads()
    again = push(store)
    assert again.success
    assert (hub.refs(REPO), hub.uploads()) == (refs, uploads)
    assert sum(request.path.endswith("/commit/main") for request in hub.requests) == 1
    (event,) = again.get_asset_materialization_events()
    assert event.materialization.metadata["commit"].value.endswith(refs["main"])


def test_the_next_version_is_the_next_commit_and_the_one_before_stays(
    hub: Hub, store: AssetStore, published: Callable[[str], Artifact], tmp_path: Path
) -> None:
    first = published("first")
    assert push(store).success
    before = hub.refs(REPO)["main"]
    second = published("second")
    assert push(store).success
    newest = pulled(hub, tmp_path / "cache")
    assert newest == content(second) and CHANGE in newest
    assert pulled(hub, tmp_path / "cache", before) == content(first)
    published("first")
    assert push(store).success
    assert pulled(hub, tmp_path / "cache") == content(first), "with no change that was another version's"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "set HF_TOKEN"),
        ("hf_nobody_knows", "Invalid credentials"),
        ("hf_may_only_read", "required permissions"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_without_a_token_that_may_write_nothing_is_pushed_and_the_error_says_why_but_not_the_token(
    exists: bool,
    token: str | None,
    reason: str,
    hub: Hub,
    store: AssetStore,
    published: Callable[[str], Artifact],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    published("first")
    if exists:
        assert push(store).success
        published("second")
    refs, uploads = hub.refs(REPO), hub.uploads()
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    result = push(store)
    (failure,) = (event for event in result.all_node_events if event.is_step_failure)
    error = failure.step_failure_data.error
    assert error is not None
    assert REPO in error.message and hub.url in error.message and reason in error.message
    assert (hub.refs(REPO), hub.uploads()) == (refs, uploads)
    output = error.to_string() + "".join(capfd.readouterr())
    assert token is None or token not in output


def test_a_hub_that_is_busy_twice_is_pushed_to_at_the_third_try(
    hub: Hub, store: AssetStore, published: Callable[[str], Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.framework.retries.RETRY_DELAY", 0.01)
    first = published("first")
    hub.busy = 2
    result = push(store)
    again = [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    assert result.success and len(again) == 2
    assert pulled(hub, tmp_path / "pulled")[CURATED_TABLE] == first.file(CURATED_TABLE).read_bytes()


def test_without_a_publication_nothing_is_requested(hub: Hub, store: AssetStore) -> None:
    result = push(store)
    (failure,) = (event for event in result.all_node_events if event.is_step_failure)
    assert "curation/future_l1_50k: materialise it first" in str(failure.step_failure_data.error)
    assert hub.requests == []


def test_without_a_license_nothing_is_requested(
    hub: Hub, store: AssetStore, published: Callable[[str], Artifact]
) -> None:
    published("first")
    result = push(store, license_id=None)
    (failure,) = (event for event in result.all_node_events if event.is_step_failure)
    assert "name one as hub.dataset_license in the profile" in str(failure.step_failure_data.error)
    assert hub.requests == []
