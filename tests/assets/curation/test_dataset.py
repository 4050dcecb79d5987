"""The published folder with the real `datasets`: it loads as it lies, says nothing of this machine, and concatenates
with the public release; its card is one that the hub's and the datasets' own libraries read."""

import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from huggingface_hub import DatasetCard

from assets.curation.contamination import benchmark_index
from assets.curation.dataset_card import CARD, CURATED_TABLE, PUBLIC_COLUMNS, SIZES, Origin, SourceShards
from assets.curation.local_clips import LOCAL_CLIPS, training_rows
from assets.curation.previews import REJECTED, STORYBOARDS, TOP_ROWS
from assets.curation.publication import CHANGE, EXPORT, PUBLISHED, publish, write_publication
from assets.curation.selection import SelectionSettings
from tests.assets.curation.public_release import FEATURES, ROW, write_release
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards
from tests.assets.trajectories.shard_rows import pull_shard
from training.storage.artifacts import Artifact, ArtifactStore


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A publication of four rows, the last without texts about its clip, under a home with a hidden name."""
    folder = tmp_path_factory.mktemp("home")
    rows = [trajectory(i) for i in range(3)] + [trajectory(3, process=None, summary=None, start=None, end=None)]
    shards = write_shards(folder / "scored", scored_of(rows, [(0, 8 - i) for i in range(4)]))
    store = ArtifactStore(folder / ".future-l1")
    workspace = store.workspace("curation/future_l1_50k", "v1")
    origin = Origin([SourceShards("lab/twiff", "0123abcd", 1, 4)], "lab/model-8b", 8)
    publish(workspace, shards, SelectionSettings(), benchmark_index({}), None, origin)
    for name in (STORYBOARDS, TOP_ROWS, REJECTED):
        (workspace / name).write_text("frames of clips")
    return store.publish("curation/future_l1_50k", "v1", workspace, {})


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)

    def load_dataset(path: Path | str, **options: object) -> Dataset:
        return datasets.load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"), **options)

    return load_dataset


def test_an_artifacts_folder_is_a_data_set(artifact: Artifact, load: Callable[..., Dataset]) -> None:
    rows = load(artifact.path)
    table = pl.read_parquet(artifact.file(CURATED_TABLE))
    assert rows.to_list() == table.to_dicts()
    assert rows.column_names == table.columns
    assert load(artifact.path, streaming=True).take(1).features == rows.features


def test_a_published_folder_is_a_data_set_whatever_lies_beside_it(
    artifact: Artifact, load: Callable[..., Dataset], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    (folder / "work" / "train").mkdir(parents=True)
    for name in ("work/train/train.parquet", "train.jsonl", "test.csv", "data.parquet", "quarantine.parquet"):
        (folder / name).write_text("no rows of it")
    write_publication(artifact, folder, None)
    assert load(folder).to_list() == load(artifact.path).to_list()


def test_nothing_that_is_published_says_where_clips_lie(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / CHANGE).write_text("of a version that was published here before")
    write_publication(artifact, tmp_path, None)
    assert {path.name for path in tmp_path.rglob("*")} == set(PUBLISHED) - {CHANGE}
    for path in tmp_path.iterdir():
        is_table = path.suffix == ".parquet"
        content = repr(pl.read_parquet(path).to_dicts()).encode() if is_table else path.read_bytes()
        assert b"/clips/" not in content and str(artifact.path.parent).encode() not in content, path
    assert {"path", "reader"}.isdisjoint(pl.read_parquet(tmp_path / CURATED_TABLE).columns)


def test_rows_to_train_on_have_their_clips_again(artifact: Artifact) -> None:
    rows = training_rows(artifact.file(CURATED_TABLE), artifact.file(LOCAL_CLIPS))
    published = pl.read_parquet(artifact.file(CURATED_TABLE))
    assert rows.drop("path", "reader").equals(published)
    assert rows["path"].to_list() == [f"/clips/{video}" for video in published["video"]]
    assert set(rows["reader"]) == {"sequential"}


def test_the_public_release_and_ours_are_one_data_set(
    artifact: Artifact, load: Callable[..., Dataset], tmp_path: Path
) -> None:
    public = write_release(tmp_path / "public.parquet", rows=2)
    shared = list(FEATURES)
    assert set(shared) < set(PUBLIC_COLUMNS)
    ours = load(artifact.path).select_columns(shared)
    assert ours.features == FEATURES
    both = datasets.concatenate_datasets([public, ours])
    assert (both.num_rows, both[0]) == (6, ROW)
    assert datasets.interleave_datasets([ours, public]).num_rows == 4
    files = (artifact.file(CURATED_TABLE), tmp_path / "public.parquet")
    tables = [pq.read_table(path, columns=shared).replace_schema_metadata() for path in files]
    assert pa.concat_tables(tables).num_rows == 6


def test_meta_data_has_the_sources_texts_or_null(artifact: Artifact, load: Callable[..., Dataset]) -> None:
    texts = {"Process": "It rolls over tiles.", "Summary": "It rolls.", "classification": "predictive"}
    times = {"start": "0:00:00.000", "end": "0:00:03.000"}
    nothing = dict.fromkeys(("Process", "Summary", "start", "end"))
    meta = load(artifact.path)["meta_data"]
    assert list(meta) == [texts | times] * 3 + [nothing | {"classification": "predictive"}]
    assert [record["meta_data"] for record in json.loads(artifact.file(EXPORT).read_text())] == list(meta)


def test_what_is_published_is_a_shard_again(artifact: Artifact) -> None:
    rows, quarantine = pull_shard(artifact.file(CURATED_TABLE))
    table = pl.read_parquet(artifact.file(CURATED_TABLE))
    content = ("video", "question", "reasoning", "answer", "observed", "future", "category", "start", "end")
    texts = table["meta_data"].struct.unnest().select(process="Process", summary="Summary")
    assert quarantine.is_empty() and rows.select(content).equals(table.select(content))
    assert rows.select("process", "summary").equals(texts)
    assert rows.select("source_p_t", "source_p_v").equals(table.select(source_p_t="p_t", source_p_v="p_v"))


@pytest.fixture
def card(artifact: Artifact, tmp_path: Path) -> DatasetCard:
    write_publication(artifact, tmp_path, "cc-by-4.0")
    return DatasetCard.load(tmp_path / CARD)


def test_the_license_is_in_the_published_card_alone(artifact: Artifact, card: DatasetCard) -> None:
    unpublished = DatasetCard.load(artifact.path / CARD)
    assert unpublished.data.license is None and card.data.license == "cc-by-4.0"
    assert card.text == unpublished.text
    assert card.data.to_dict() == unpublished.data.to_dict() | {"license": "cc-by-4.0"}


def test_the_cards_metadata_has_the_words_that_the_datasets_library_knows(card: DatasetCard) -> None:
    def vocabulary(name: str) -> dict[str, list[str]] | list[str]:
        return json.loads((resources.files("datasets.utils.resources") / f"{name}.json").read_text())

    data = card.data
    assert set(data.language) <= set(vocabulary("languages"))
    assert data.size_categories == ["n<1K"] and set(SIZES.values()) <= set(vocabulary("size_categories"))
    assert set(data.annotations_creators) <= set(dict(vocabulary("creators"))["annotations"])
    assert set(data.multilinguality) <= set(vocabulary("multilingualities"))
    assert data.configs == [{"config_name": "default", "data_files": [{"split": "train", "path": CURATED_TABLE}]}]


def test_every_figure_of_the_card_is_published_beside_it(card: DatasetCard, tmp_path: Path) -> None:
    figures = re.findall(r"!\[[^]]*]\(([^)]*)\)", card.text)
    assert len(figures) == 2 and all((tmp_path / figure).read_bytes().startswith(b"\x89PNG") for figure in figures)
