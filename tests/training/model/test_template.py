"""The chat template and the encoder render the same dialogue; a checkpoint keeps the template it was trained with."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoProcessor

from training.data.dialogue import Slot, assistant_pieces, user_pieces
from training.model.checkpoint import FutureL1, load
from training.model.encoding import Encoder
from training.model.rows import RowReader
from training.model.tokens import CHAT_TEMPLATE, chat_template
from training.recipes import paper_sft
from training.tiny import BASE

PARITY = Path(__file__).parents[2] / "data" / "parity" / "checkpoint"


def messages(row: dict[str, Any], system: str | None) -> list[dict[str, Any]]:
    """The row as transformers has dialogues."""

    def content(pieces: list[Any]) -> list[dict[str, str]]:
        return [{"type": "image"} if isinstance(p, Slot) else {"type": "text", "text": p} for p in pieces]

    turns = [
        {"role": "user", "content": content(user_pieces(row["question"], len(row["observed"])))},
        {"role": "assistant", "content": content(assistant_pieces(row["reasoning"], row["answer"]))},
    ]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


@pytest.mark.parametrize("system", [None, "Imagine <|latent_start|> first <|latent_end|>.\n"])
def test_the_template_and_the_encoder_render_the_same_text(
    sft_model: FutureL1, rows: list[dict[str, Any]], system: str | None
) -> None:
    assert sft_model.latent_config is not None
    encoder = sft_model.encoder(sft_model.latent_config.model_copy(update={"system_prompt": system}))
    dialogue = RowReader(encoder, keep=False).dialogue(rows[1], spans=True)
    assert len(dialogue.future) == 2
    rendered = sft_model.processor.apply_chat_template(messages(rows[1], system), tokenize=False)
    before, *after = rendered.split("<|image_pad|>")
    expanded = ["<|image_pad|>" * frame.tokens for frame in dialogue.observed]
    expanded += ["<|latent|>" * frame.tokens for frame in dialogue.future]
    rendered = before + "".join(vectors + text for vectors, text in zip(expanded, after, strict=True))
    assert rendered == sft_model.processor.tokenizer.decode(dialogue.ids, skip_special_tokens=False)


def test_a_prompt_ends_where_the_answer_begins(
    sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]
) -> None:
    user_turn = messages(rows[0], None)[:1]
    rendered = sft_model.processor.apply_chat_template(user_turn, tokenize=False, add_generation_prompt=True)
    prompt = RowReader(encoder, keep=False).prompt(rows[0])
    decoded = sft_model.processor.tokenizer.decode(prompt.ids, skip_special_tokens=False)
    assert rendered.replace("<|image_pad|>", "<|image_pad|>" * prompt.observed[0].tokens) == decoded


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\"'\\ {{ messages }} {% endif %} {# #} \n")
def test_a_system_prompt_of_any_text_is_put_in(base: FutureL1, system: str) -> None:
    turns = [{"role": "user", "content": "Where?"}]
    with_turn = [{"role": "system", "content": system}, *turns]
    tokenizer, template = base.processor.tokenizer, chat_template(system)
    rendered = [
        tokenizer.apply_chat_template(dialogue, chat_template=of_dialogue, tokenize=False)
        for dialogue, of_dialogue in ((turns, template), (with_turn, template), (with_turn, CHAT_TEMPLATE))
    ]
    assert len(set(rendered)) == 1


def test_it_goes_with_the_checkpoint(sft_checkpoint: Path) -> None:
    assert AutoProcessor.from_pretrained(sft_checkpoint).chat_template == CHAT_TEMPLATE
    assert load(BASE).processor.chat_template == CHAT_TEMPLATE, "a base gets it, whatever it came with"


def test_a_checkpoint_with_another_template_is_refused(sft_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sft_checkpoint, tmp_path / "other")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ValueError, match="its chat template is not the one it was trained with"):
        load(folder)


# ---- the public release's checkpoints: its fields in config.json, no field of ours


def released(tmp_path: Path, **fields: Any) -> Path:
    folder = shutil.copytree(PARITY, tmp_path / "released")
    config = json.loads((folder / "config.json").read_text())
    config |= {"latent_id": 547, "latent_start_id": 548, "latent_end_id": 549, "max_latent_token": 32}
    config |= {"architectures": ["Qwen3VLWithLatents"], "latent_loss": "mse", "latent_lambda": 0.2, "use_cache": False}
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def test_a_checkpoint_of_the_release_loads(tmp_path: Path) -> None:
    bundle = load(released(tmp_path))
    paper = paper_sft("future_l1").latent_config
    assert bundle.latent_config == paper.model_copy(update={"max_latents": 32})
    assert (bundle.spans.latents, bundle.spans.end) == (32, "model"), "its own habit of twice the budget is an option"
    before = load(PARITY).model.state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in bundle.model.state_dict().items())


def test_its_fixed_budget_is_kept(tmp_path: Path) -> None:
    bundle = load(released(tmp_path, train_fixed_latent_budget=6))
    assert (bundle.spans.latents, bundle.spans.end) == (6, "fixed")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_projection_head": True}, "decodes through a projection head"),
        ({"latent_end_id": 7}, r"<\|latent_end\|> is 549 in the tokenizer but 7 in config.json"),
        ({"latent_start_id": 549}, r"<\|latent_start\|> is 548 in the tokenizer but 549"),
    ],
)
def test_what_cannot_be_decoded_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(released(tmp_path, **fields))
