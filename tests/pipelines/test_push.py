"""`future-l1 push` against the stand-in hub: a model by its name or by a folder, and mistakes as sentences."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from assets.benchmarks.assets import FUTURE_ANSWERS, FUTURE_REPORT
from assets.checkpoints.assets import BASE, RL
from assets.checkpoints.base import link
from assets.framework.store import AssetStore
from tests.evaluation import made_reports
from tests.hub import Hub, let_push, serve
from tests.invoke import invoke
from tests.made_checkpoint import (
    SHARDS,
    provenance,
    publish_checkpoint,
    publish_report,
    rl_provenance,
    write_checkpoint,
)
from tests.reloaded import load_again
from training import tiny
from training.runtime.model_card import CARD
from training.storage.artifacts import MODEL

TOKEN, REPO = "hf_kept_to_itself", "lab/future-l1"
PROFILE = 'extends = "demo"\n[hub]\nmodel_license = "apache-2.0"\ndataset = "lab/future-l1-50k"\n'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path / "hub") as hub:
        let_push(hub, TOKEN, monkeypatch)
        monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path / "home"))
        (tmp_path / "profile.toml").write_text(PROFILE)
        monkeypatch.setenv("FUTURE_L1_PROFILE", str(tmp_path / "profile.toml"))
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    """A home in which la_dapo was trained and scored."""
    store = AssetStore(tmp_path / "home")

    checkpoint = publish_checkpoint(store, RL, "la_dapo", rl_provenance(provenance()))
    publish_report(store, FUTURE_REPORT, FUTURE_ANSWERS, made_reports.futurebench("la_dapo"), checkpoint)
    store.work(BASE, {}, {}, "code").do(lambda folder: link(tiny.BASE, folder / MODEL))
    return store


def push(checkpoint: object, repo: str = REPO) -> Result:
    return invoke("push", "--checkpoint", checkpoint, "--repo", repo)


def card(hub: Hub) -> str:
    return (hub.root / REPO / hub.refs(REPO)["main"] / CARD).read_text()


def test_a_model_is_pushed_by_its_name_with_its_scores(hub: Hub, store: AssetStore) -> None:
    result = push("la_dapo")
    assert result.exit_code == 0, result.output
    assert f"Commit   {hub.url}/{REPO}/commit/{hub.refs(REPO)['main']}" in result.output
    assert "Scores   FutureBench\n" in result.output
    assert "### FutureBench format, items of the demo's toy world" in card(hub)
    assert "license: apache-2.0" in card(hub) and "- lab/future-l1-50k" in card(hub)


@pytest.mark.parametrize("name", ["current", "current/model"])
def test_the_folder_of_the_current_artifact_is_that_model(hub: Hub, store: AssetStore, name: str) -> None:
    result = push(store.artifacts.root / RL / "la_dapo" / name)
    assert "Scores   FutureBench\n" in result.output, result.output


def test_a_folder_elsewhere_is_pushed_without_scores(hub: Hub, store: AssetStore, tmp_path: Path) -> None:
    result = push(write_checkpoint(tmp_path / "by hand" / "checkpoint"))
    assert "Scores   none are known" in result.output, result.output
    assert "No scores are known for this copy." in card(hub) and "datasets:" not in card(hub)


def test_mistakes_end_with_a_sentence_and_send_nothing(
    hub: Hub, store: AssetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    for checkpoint, repo, sentence in (
        ("la_dapo", "future-l1", "'future-l1' is not ORG/NAME"),
        ("la_dapo", "../etc/x", "is not ORG/NAME"),
        ("nobody", REPO, "Directory 'nobody' does not exist"),
        ("future_l1", REPO, "nothing is published as checkpoints/sft/future_l1: materialise it first"),
        ("base", REPO, "is a base model, or was trained elsewhere"),
    ):
        result = push(checkpoint, repo)
        assert result.exit_code and sentence in result.output.replace("\n", " "), result.output
    shard = store.current(RL, "la_dapo").path / MODEL / SHARDS[0]
    shard.write_bytes(shard.read_bytes()[::-1])
    assert "has other content than it was published with" in push("la_dapo").output
    monkeypatch.setenv("FUTURE_L1_PROFILE", "demo")
    assert "hub.model_license" in push(folder).output
    assert hub.requests == []


def test_a_hub_that_is_busy_or_away_ends_with_a_sentence(
    hub: Hub, store: AssetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.busy = 1
    for _ in range(2):
        result = push("la_dapo")
        assert result.exit_code == 1 and "the hub cannot be reached or is busy" in result.output, result.output
        assert "start again later" in result.output and TOKEN not in result.output
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub.refs(REPO)


def test_the_example_of_a_pushed_card_loads_it_from_the_hub(hub: Hub, sft_checkpoint: Path, tmp_path: Path) -> None:
    assert push(sft_checkpoint).exit_code == 0
    counts = load_again(hub.url, REPO, sft_checkpoint, tmp_path)
    assert counts.keys() == {"tensors", "processor", "answer", "decoding loop"}
    assert all(right == of > 0 for right, of in counts.values()), counts
