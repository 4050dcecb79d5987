"""A model card says in its first lines what goes wrong elsewhere, and the truth of each kind of checkpoint."""

import pytest
from huggingface_hub import EvalResult, ModelCard

from tests.made_checkpoint import LATENTS, provenance, rl_provenance
from tests.toy import sft_recipe
from training.runtime.model_card import CardFields, has_latent_spans, model_card

TEXT_ONLY = provenance(recipe=sft_recipe(name="text_only", latent_keep_prob=(0.0, 0.0, 0.0)).model_dump(mode="json"))


def first_lines(card: str) -> str:
    """What a reader sees without scrolling: the title and the paragraph below it."""
    return "\n".join(ModelCard(card).text.strip().splitlines()[:4])


@pytest.mark.parametrize("facts", [provenance(), rl_provenance(provenance())])
def test_a_latent_model_warns_of_other_loaders_first(facts: dict) -> None:
    card = model_card(facts, LATENTS, CardFields())
    assert has_latent_spans(facts)
    assert "answers wrongly and reports no error" in first_lines(card)
    assert "custom_generate" in ModelCard(card).data.tags


@pytest.mark.parametrize("facts", [TEXT_ONLY, rl_provenance(TEXT_ONLY)])
def test_a_text_only_model_claims_no_latents(facts: dict) -> None:
    card = model_card(facts, LATENTS, CardFields())
    assert not has_latent_spans(facts)
    assert "text-only control" in first_lines(card)
    assert "wrongly" not in card and "<|latent_start|>" not in card and "trust_remote_code" not in card
    assert not {"custom_generate", "latent-reasoning"} & set(ModelCard(card).data.tags)


def test_what_is_known_at_training_time_is_on_the_card() -> None:
    card = model_card(rl_provenance(provenance()), LATENTS, CardFields())
    for text in (
        "| started from | future_l1 (hash fedcba9876543210): training.sft of Qwen3-VL-8B-Instruct (hash "
        "0123456789abcdef) on future_l1.parquet, 2,400 rows |",
        "| training data | future_l1.parquet, 2,400 rows |",
        "| version of the training data | a1b2c3d4 |",
        "| optimiser steps | 900 |",
        "| seed | 7 |",
        "| code | future-l1 0.1.0, commit c0ffee |",
        "| libraries | torch 2.14.1 |",
        "| loss | 0.1235 |",
        "| num_generations | 4 |",
        "| max_latents | 4 |",
    ):
        assert text in card
    assert "No scores are known for this copy." in card


def test_the_hubs_metadata_has_what_the_profile_names_and_nothing_more() -> None:
    plain = ModelCard(model_card(provenance(), LATENTS, CardFields())).data.to_dict()
    assert plain == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["future-l1", "video", "latent-reasoning", "custom_generate"],
    }
    fields = CardFields(license="apache-2.0", base_model="Qwen/Qwen3-VL-8B-Instruct", dataset="lab/set")
    results = [EvalResult("image-text-to-text", "futurebench", "FutureBench", "accuracy", 0.5)]
    data = ModelCard(model_card(provenance(), LATENTS, fields, "lab/model", "### Scores", results)).data
    assert (data.license, data.base_model, data.datasets) == ("apache-2.0", "Qwen/Qwen3-VL-8B-Instruct", ["lab/set"])
    assert (data.model_name, data.eval_results) == ("future_l1", results)


def test_the_card_of_a_repository_says_how_that_is_loaded() -> None:
    card = model_card(provenance(), LATENTS, CardFields(), "lab/model")
    assert 'from_pretrained("lab/model"' in card and "hf download lab/model" in card
    assert "PATH/OF/THIS/FOLDER" not in card


def test_what_files_and_folders_are_called_is_no_markup() -> None:
    data = {"file": "a|b<script>.parquet", "sha256": "5" * 64, "version": None, "rows": 1}
    base = {"name": "x](http://evil)\n# y", "hash": "0", "files": {}}
    card = model_card(provenance(data=data, base=base), LATENTS, CardFields())
    assert "a\\|b\\<script\\>.parquet" in card and "x\\](http://evil) # y" in card
    assert "\n# y" not in card
