"""Where the size of a served model's vision tokens comes from."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.generation.image_factor import QWEN3_VL, image_factor, processor_factor, unknown_factor
from tests import hub
from training.chat.endpoint import EndpointSettings
from training.tiny import BASE


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    processor_factor.cache_clear()
    yield
    processor_factor.cache_clear()


def settings(model: str, factor: int | None = None) -> EndpointSettings:
    return EndpointSettings(base_urls=("http://127.0.0.1:9/v1",), model=model, image_factor=factor)


def processor(folder: Path, patch: int, merge: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "preprocessor_config.json").write_text(json.dumps({"patch_size": patch, "merge_size": merge}))
    return folder


def test_a_model_is_looked_up_in_its_folder_and_in_the_profiles_where_that_has_its_name(tmp_path: Path) -> None:
    folder = processor(tmp_path / "Qwen2.5-VL", 14, 2)
    assert image_factor(settings(str(folder))) == 28
    assert image_factor(settings("Qwen2.5-VL"), folder) == 28
    assert image_factor(settings("other"), folder) == QWEN3_VL
    assert image_factor(settings(str(BASE))) == 16  # as transformers 5 writes it


def test_what_the_profile_says_counts(tmp_path: Path) -> None:
    folder = processor(tmp_path / "model", 14, 2)
    assert image_factor(settings(str(folder), 16)) == 16


def test_a_name_on_the_hub_is_looked_up_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(tmp_path / "model", 14, 2)
    with hub.serve(tmp_path / "hub") as there:
        monkeypatch.setenv("HF_ENDPOINT", there.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        there.commit("lab/vl", tmp_path / "model")
        assert image_factor(settings("lab/vl")) == 28
        assert unknown_factor(settings("lab/vl")) is None


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"patch_size": 14}', '{"patch_size": "x", "merge_size": 2}',
                                    '{"patch_size": 1e9, "merge_size": 2}', '{"image_processor": []}'])  # fmt: skip
def test_a_guess_is_a_warning(tmp_path: Path, config: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(config)
    assert image_factor(settings(str(tmp_path))) == QWEN3_VL
    guess = unknown_factor(settings(str(tmp_path)))
    assert guess and "--image-factor" in guess and str(QWEN3_VL) in guess
    assert unknown_factor(settings(str(tmp_path), QWEN3_VL)) is None
