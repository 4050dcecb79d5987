"""A checkpoint is a plain transformers folder that remembers its latent configuration."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from tests.toy import LATENT_CONFIG
from training.model.checkpoint import FutureL1, load
from training.model.modes import Spans
from training.model.tokens import LATENT, LATENT_END, LATENT_START, add_latent_tokens, lookup
from training.tiny import BASE


def test_the_base_decodes_no_spans(base: FutureL1) -> None:
    assert base.latent_config is None
    assert base.spans == Spans(0, "model")


def test_a_trained_checkpoint_keeps_weights_tokens_and_latent_config(base: FutureL1, tmp_path: Path) -> None:
    fresh = load(BASE)
    fresh.save(tmp_path, LATENT_CONFIG)
    again = load(tmp_path)
    assert again.latent_config == LATENT_CONFIG
    assert again.spans == Spans(4, "fixed")
    assert again.tokens == fresh.tokens
    for name, weight in fresh.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name


def test_twice_the_budget_is_decoded_where_the_teaching_says_so(tmp_path: Path) -> None:
    load(BASE).save(tmp_path, LATENT_CONFIG.model_copy(update={"release_cap": True}))
    again = load(tmp_path)
    assert again.spans == Spans(8, "fixed")
    assert (again.model.config.latent_cap, again.model.config.latent_cap_origin) == (8, "2 x L_max, the release's")
    assert again.model.config.max_latent_token == 4, "the span budget stays"


def test_any_loader_reads_it_and_the_release_finds_its_names(sft_checkpoint: Path, sft_model: FutureL1) -> None:
    plain = Qwen3VLForConditionalGeneration.from_pretrained(sft_checkpoint)
    tokenizer = AutoProcessor.from_pretrained(sft_checkpoint).tokenizer
    config = plain.config
    assert [config.latent_id, config.latent_start_id, config.latent_end_id] == tokenizer.convert_tokens_to_ids(
        [LATENT, LATENT_START, LATENT_END]
    )
    assert config.max_latent_token == 4
    assert (config.latent_cap, config.latent_cap_origin) == (4, "L_max")
    assert not any(path.suffix in {".py", ".bin", ".pt"} for path in sft_checkpoint.iterdir())


def test_a_tokenizer_that_disagrees_with_the_config_is_an_error(sft_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(sft_checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_id": 5}))
    with pytest.raises(ValueError, match=r"<\|latent\|> is .*\d+ in the tokenizer but 5 in config.json"):
        load(tmp_path)


def test_latent_tokens_are_added_in_the_releases_order(base: FutureL1) -> None:
    assert base.tokens.latent_start == base.tokens.latent + 1
    assert base.tokens.latent_end == base.tokens.latent + 2


def test_new_rows_look_like_trained_ones_and_differ(base: FutureL1) -> None:
    weight = base.model.get_input_embeddings().weight.detach()
    trained, new = weight[: base.tokens.latent], weight[base.tokens.latent : base.tokens.latent + 3]
    assert torch.cdist(new, new).fill_diagonal_(9).min() > 0.1
    assert 0.5 < float(new.norm(dim=-1).mean() / trained.norm(dim=-1).mean()) < 2


def test_rows_that_a_checkpoint_has_are_kept() -> None:
    bundle = load(BASE, seed=1)
    before = bundle.model.get_input_embeddings().weight.clone()
    assert add_latent_tokens(bundle.model, bundle.processor.tokenizer, seed=2) == bundle.tokens
    assert torch.equal(bundle.model.get_input_embeddings().weight, before)


def test_a_tokenizer_without_latent_tokens_is_named() -> None:
    tokenizer = AutoProcessor.from_pretrained(BASE).tokenizer
    with pytest.raises(ValueError, match=r"the tokenizer lacks <\|latent\|>, <\|latent_start\|>, <\|latent_end\|>"):
        lookup(tokenizer)
