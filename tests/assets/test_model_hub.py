"""Pushing checkpoints: what the hub's own client reads back is the checkpoint with its scores on the card, and the
artifact stays as it is."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import http_backoff

from assets.benchmarks.assets import FUTURE_ANSWERS, FUTURE_REPORT, TWIFF_ANSWERS, TWIFF_REPORT
from assets.benchmarks.necessity import INTERVENED, NECESSITY
from assets.checkpoints.assets import BASE, RL, SFT
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore
from assets.model_hub import DECODING_LOOP, FILES, INDEX, model_hub_asset, push_checkpoint
from evaluation.reports.parts import percent
from evaluation.reports.run_reports import RunReports
from tests.evaluation import made_reports
from tests.hub import Hub, let_push, serve
from tests.made_checkpoint import (
    SHARDS,
    provenance,
    publish_checkpoint,
    publish_report,
    rl_provenance,
    write_checkpoint,
)
from training.runtime.model_card import CARD, CardFields
from training.storage.artifacts import MODEL

TOKEN, REPO = "hf_kept_to_itself", "lab/future-l1-la_dapo"
FIELDS = CardFields(license="apache-2.0", dataset="lab/future-l1-50k")
CHECKPOINTS = Checkpoints(sft=("future_l1",), rl={"la_dapo": "future_l1"})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path / "hub") as hub:
        let_push(hub, TOKEN, monkeypatch)
        hub.accounts["hf_may_only_read"] = False
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> AssetStore:
    """A home with a base model and two trained ones."""
    store = AssetStore(tmp_path / "home")
    publish_checkpoint(store, BASE)
    publish_checkpoint(store, SFT, "future_l1")
    publish_checkpoint(store, RL, "la_dapo", rl_provenance(provenance()))
    return store


def push(store: AssetStore, model: str = "la_dapo", published_data: bool = True) -> dg.ExecuteInProcessResult:
    cards = {"future_l1": FIELDS, "la_dapo": FIELDS}
    asset = model_hub_asset("lab/future-l1-{model}", CHECKPOINTS, cards, published_data)
    return dg.materialize([asset], partition_key=model, resources={"store": store}, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = (event for event in result.all_node_events if event.is_step_failure)
    error = event.step_failure_data.error
    assert error is not None
    return error.to_string()


def pulled(hub: Hub, folder: Path, repo: str = REPO) -> dict[str, bytes]:
    """A repository's files as the hub's own client downloads them."""
    api = HfApi(endpoint=hub.url, token=TOKEN)
    names = [name for name in api.list_repo_files(repo) if name != ".gitattributes"]
    return {name: Path(api.hf_hub_download(repo, name, cache_dir=folder)).read_bytes() for name in names}


def test_what_is_pulled_is_the_checkpoint_with_its_scores_and_the_artifact_stays(
    hub: Hub, store: AssetStore, tmp_path: Path
) -> None:
    checkpoint = store.current(RL, "la_dapo")
    publish_report(store, FUTURE_REPORT, FUTURE_ANSWERS, made_reports.futurebench("la_dapo"), checkpoint)
    publish_report(store, TWIFF_REPORT, TWIFF_ANSWERS, made_reports.twiffbench("la_dapo"), checkpoint)
    publish_report(store, NECESSITY, INTERVENED, made_reports.necessity("la_dapo"), checkpoint)
    manifest = json.dumps(checkpoint.manifest)
    result = push(store)
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["commit"].value == f"{hub.url}/{REPO}/commit/{hub.refs(REPO)['main']}"
    files = pulled(hub, tmp_path / "pulled")
    folder = checkpoint.folder(MODEL)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files.keys() == names - {"optimizer.pt", "metrics.jsonl"}
    assert all(files[name] == (folder / name).read_bytes() for name in files.keys() - {CARD})
    card = files[CARD].decode()
    assert metadata["pushed_card"].value == ModelCard(card).text
    average = percent(made_reports.futurebench("la_dapo")["average"])
    for text in (
        f"| average | {average.value} ({average.note}) |",
        "These latents are used: every replacement costs accuracy.",
        "### TwiFF-Bench",
        "### Latent necessity",
        "180 of 180 items judged",
    ):
        assert text in card
    results = {(one.dataset_type, one.metric_type): one for one in ModelCard(card).data.eval_results}
    assert results.keys() == {("futurebench", "accuracy"), *(("twiffbench", m) for m in ("cot", "answer", "average"))}
    assert "n = 800, 95 % interval" in results["futurebench", "accuracy"].metric_name
    checkpoint.verify()
    assert json.dumps(store.current(RL, "la_dapo").manifest) == manifest
    assert "No scores are known" in (folder / CARD).read_text()
    assert {request.token for request in hub.uploads()} == {None}  # the storage never sees it
    assert all(TOKEN.encode() not in content and str(tmp_path).encode() not in content for content in files.values())


def test_a_report_of_another_version_of_the_checkpoint_is_not_on_the_card(
    hub: Hub, store: AssetStore, tmp_path: Path
) -> None:
    publish_report(
        store, FUTURE_REPORT, FUTURE_ANSWERS, made_reports.futurebench("la_dapo"), store.current(SFT, "future_l1")
    )
    assert push(store).success
    assert "No scores are known" in pulled(hub, tmp_path / "pulled")[CARD].decode()


def test_the_toy_worlds_scores_are_not_called_the_benchmarks(hub: Hub, store: AssetStore, tmp_path: Path) -> None:
    publish_report(
        store, FUTURE_REPORT, FUTURE_ANSWERS, made_reports.futurebench("la_dapo"), store.current(RL, "la_dapo")
    )
    assert push(store, published_data=False).success
    card = ModelCard(pulled(hub, tmp_path / "pulled")[CARD].decode())
    assert "### FutureBench format, items of the demo's toy world" in card.text
    assert [one.dataset_name for one in card.data.eval_results] == ["FutureBench format, items of the demo's toy world"]


def test_texts_of_a_report_are_no_markup(hub: Hub, tmp_path: Path) -> None:
    values = made_reports.necessity("la_dapo") | {"verdict": "used <img src=x> | [here](http://evil)\n# not"}
    judged = made_reports.twiffbench("la_dapo") | {"judge": {"model": "<b>j|k", "prompt": "`p`"}}
    reports = RunReports(curation={}, futurebench={}, twiffbench={"x": judged}, necessity={"x": values})
    _, card = push_checkpoint(write_checkpoint(tmp_path / "model"), REPO, FIELDS, reports)
    assert "\\<img src=x\\> \\| \\[here\\](http://evil) # not" in card and "\\<b\\>j\\|k" in card
    assert "<img" not in card.replace("\\<img", "")


def test_a_judge_that_is_called_by_its_folder_has_its_name_on_the_card(hub: Hub, tmp_path: Path) -> None:
    judged = made_reports.twiffbench("la_dapo") | {"judge": {"model": "/srv/models/Qwen3-VL", "prompt": "p"}}
    reports = RunReports(curation={}, futurebench={}, twiffbench={"x": judged})
    _, card = push_checkpoint(write_checkpoint(tmp_path / "model"), REPO, FIELDS, reports)
    assert "Judge: Qwen3-VL (prompt p)" in card and "/srv" not in card


def test_pushing_a_version_again_changes_nothing(hub: Hub, store: AssetStore) -> None:
    assert push(store).success
    refs, uploads = hub.refs(REPO), hub.uploads()
    again = push(store)
    assert again.success
    assert (hub.refs(REPO), hub.uploads()) == (refs, uploads)
    (event,) = again.get_asset_materialization_events()
    assert event.materialization.metadata["commit"].value.endswith(refs["main"])


def test_a_push_that_broke_off_goes_on_with_the_weights_that_are_missing(
    hub: Hub, store: AssetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.framework.retries.RETRY_DELAY", 0.01)
    monkeypatch.setattr("huggingface_hub.lfs.http_backoff", partial(http_backoff, max_retries=0))
    hub.lost_uploads = 1
    result = push(store)
    again = [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    assert result.success and len(again) == 1
    assert sum(request.path.endswith("/commit/main") for request in hub.requests) == 1, "nothing half is committed"
    sent = Counter(request.path for request in hub.uploads())
    assert sorted(sent.values()) == [1, 2], "what was sent is not sent again"
    assert set(SHARDS) < pulled(hub, tmp_path / "pulled").keys()


def test_files_of_another_shape_of_the_checkpoint_go_and_those_of_others_stay(hub: Hub, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    push_checkpoint(folder, REPO, FIELDS)
    others = {"LICENSE", "old.safetensors", "model-int8/model.safetensors", "int8/processor_config.json"}
    hub.change(REPO, "main", dict.fromkeys(others, b"of the owner"))
    for shard in (*SHARDS, "model.safetensors.index.json"):
        (folder / shard).unlink()
    (folder / "model.safetensors").write_bytes(b"whole")
    push_checkpoint(folder, REPO, FIELDS)
    files = pulled(hub, tmp_path / "pulled").keys()
    assert {*others, "model.safetensors"} < files
    assert not files & {*SHARDS, "model.safetensors.index.json"}


def test_the_base_model_is_not_pushed(hub: Hub, store: AssetStore) -> None:
    assert "base is the base model, which was not trained here" in failure(push(store, "base"))
    assert hub.requests == []


def test_a_damaged_artifact_is_not_pushed(hub: Hub, store: AssetStore) -> None:
    shard = store.current(RL, "la_dapo").path / MODEL / SHARDS[0]
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    error = failure(push(store))
    assert SHARDS[0] in error and "has other content than it was published with" in error
    assert hub.requests == []


def spoil(folder: Path, **changes: Any) -> None:
    (folder / "provenance.json").write_text(json.dumps(provenance(**changes)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").touch(), "holds an adapter: merge it"),
        (lambda folder: shutil.rmtree(folder), "is no checkpoint"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no checkpoint"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no checkpoint"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "is no checkpoint"),
        (lambda folder: (folder / INDEX).write_text("{}"), "is no checkpoint"),
        (lambda folder: (folder / INDEX).write_text("[]"), "is no checkpoint"),
        (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": null}}'), "lacks None"),
        (lambda folder: (folder / "config.json").write_text('{"future_l1": {"max_latents": 4}}'), "is no checkpoint"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is a base model, or was trained elsewhere"),
        (lambda folder: (folder / "provenance.json").unlink(), "is a base model, or was trained elsewhere"),
        (lambda folder: (folder / "provenance.json").write_text('{"a": 1}'), "is a base model, or was trained"),
        (lambda folder: (folder / "provenance.json").write_text("[" * 100_000), "is a base model, or was trained"),
        (lambda folder: spoil(folder, recipe=["name"]), "is a base model, or was trained"),
        (lambda folder: spoil(folder, base={"name": "x", "hash": "y", "provenance": {}}), "is a base model, or was"),
        (lambda folder: (folder / SHARDS[1]).unlink(), f"lacks {SHARDS[1]}: save"),
        (lambda folder: (folder / DECODING_LOOP).unlink(), f"lacks {DECODING_LOOP}: save"),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_refused_before_anything_is_sent(
    hub: Hub, tmp_path: Path, change: Any, message: str
) -> None:
    folder = write_checkpoint(tmp_path / "model")
    change(folder)
    with pytest.raises(ValueError, match=message):
        push_checkpoint(folder, REPO, FIELDS)
    assert hub.requests == []


def test_without_a_license_nothing_is_sent(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name one as hub\.model_license in the profile"):
        push_checkpoint(write_checkpoint(tmp_path / "model"), REPO, CardFields())
    assert hub.requests == []


@pytest.mark.parametrize(("token", "reason"), [("", "set HF_TOKEN"), ("hf_may_only_read", "required permissions")])
def test_without_a_token_that_may_write_nothing_is_pushed(
    hub: Hub, store: AssetStore, monkeypatch: pytest.MonkeyPatch, token: str, reason: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    error = failure(push(store))
    assert reason in error and REPO in error and not hub.refs(REPO)
    assert not token or token not in error


def test_the_files_of_a_checkpoint_are_those_that_a_training_writes(sft_checkpoint: Path) -> None:
    written = {str(path.relative_to(sft_checkpoint)) for path in sft_checkpoint.rglob("*") if path.is_file()}
    pushed = {str(path.relative_to(sft_checkpoint)) for pattern in FILES for path in sft_checkpoint.glob(pattern)}
    assert pushed == written - {CARD}
