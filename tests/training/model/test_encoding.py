"""Dialogues to tensors: the text the model reads, what it learns from, and where everything stands."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.toy import LATENT_CONFIG
from training.data.dialogue import Slot
from training.model.checkpoint import FutureL1
from training.model.encoding import IGNORE, Encoded, Encoder, collate, rope_positions
from training.model.rows import RowReader

OBSERVED, FUTURE = Slot("observed", 0), Slot("future", 0)
FRAMES = {OBSERVED: np.zeros((64, 64, 3), np.uint8), FUTURE: np.full((64, 64, 3), 200, np.uint8)}
USER = ["frame_1", OBSERVED, "Which colour is the marble on at step 1?"]
ASSISTANT = ["<reason>First it rolls on.</reason>\n", FUTURE, "\n", "<answer>red</answer>"]
TALKATIVE = "Imagine between <|latent_start|> and <|latent_end|>.\nAnswer as the assistant\nin <answer> tags."


def text_of(encoder: Encoder, ids: list[int]) -> str:
    return encoder.tokenizer.decode(ids, skip_special_tokens=False)


def with_latent_config(base: FutureL1, **changes: Any) -> Encoder:
    return base.encoder(LATENT_CONFIG.model_copy(update=changes))


def test_a_dialogue_is_rendered_as_the_release_renders_it(base: FutureL1) -> None:
    encoder = with_latent_config(base, system_prompt="Be brief.", span_end="model")
    encoded = encoder.dialogue(USER, ASSISTANT, FRAMES)
    assert text_of(encoder, encoded.ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nframe_1<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"
        "Which colour is the marble on at step 1?<|im_end|>\n"
        "<|im_start|>assistant\n<reason>First it rolls on.</reason>\n"
        "<|latent_start|>" + "<|latent|>" * 4 + "<|latent_end|>\n<answer>red</answer><|im_end|>\n"
    )
    assert [p.merged_grid for p in encoded.observed] == [(4, 4)]
    assert [p.merged_grid for p in encoded.future] == [(2, 2)]


def test_without_a_system_prompt_there_is_no_system_turn(base: FutureL1) -> None:
    encoder = with_latent_config(base)
    assert text_of(encoder, encoder.dialogue(USER, ASSISTANT, FRAMES).ids).startswith("<|im_start|>user\nframe_1")


@pytest.mark.parametrize("span_end", ["model", "fixed"])
@pytest.mark.parametrize("system", [None, TALKATIVE])
def test_the_assistant_turn_is_learned_but_not_what_is_forced(base: FutureL1, span_end: str, system: str) -> None:
    encoder = with_latent_config(base, span_end=span_end, system_prompt=system)
    encoded = encoder.dialogue(USER, ASSISTANT, FRAMES)
    learned = text_of(encoder, [label for label in encoded.labels if label != IGNORE])
    end = "<|latent_end|>" if span_end == "model" else ""
    assert learned == f"\n<reason>First it rolls on.</reason>\n<|latent_start|>{end}\n<answer>red</answer><|im_end|>\n"
    assert all(label in (IGNORE, i) for label, i in zip(encoded.labels, encoded.ids, strict=True))


def test_a_prompt_is_the_dialogue_up_to_the_answer(base: FutureL1) -> None:
    encoder = with_latent_config(base, system_prompt=TALKATIVE)
    dialogue = encoder.dialogue(USER, ASSISTANT, FRAMES)
    prompt = encoder.prompt([USER[0], encoder.patch(FRAMES[OBSERVED], 4, 16), USER[2]])
    length = len(prompt.ids)
    assert prompt.ids == dialogue.ids[:length]
    assert torch.equal(prompt.positions, dialogue.positions[:, :length])
    assert text_of(encoder, dialogue.ids[length:]).startswith("<reason>")


def test_a_fixed_span_must_be_full(base: FutureL1) -> None:
    strip = FRAMES | {FUTURE: np.zeros((16, 96, 3), np.uint8)}
    assert len(with_latent_config(base, span_end="model").dialogue(USER, ASSISTANT, strip).ids) > 0
    square_budget = with_latent_config(base, max_latents=5)
    with pytest.raises(ValueError, match=r'gives 4 latents, but spans are fixed at 5.*use span_end "model"'):
        square_budget.dialogue(USER, ASSISTANT, FRAMES)


def test_positions_are_those_of_transformers(base: FutureL1) -> None:
    grids, pairs = [(4, 4), (1, 3), (5, 2)], [(2, 3)] * 4
    image, video = base.tokens.image, base.tokens.video
    text = base.processor.tokenizer("frame_1 red\n<|vision_start|>", add_special_tokens=False)["input_ids"]
    ids: list[int] = []
    for rows, columns in grids:
        ids += text + [image] * (rows * columns)
    for rows, columns in pairs:
        ids += text + [video] * (rows * columns)
    ids += text + [base.tokens.latent] * 4 + text
    expected, _ = base.model.model.get_rope_index(
        torch.tensor([ids]),
        torch.tensor([[1 if i == image else 2 if i == video else 0 for i in ids]]),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids]),
        video_grid_thw=torch.tensor([[4, 4, 6]]),
    )
    assert torch.equal(rope_positions(ids, (image, video), grids + pairs), expected[:, 0])


@pytest.mark.parametrize("grids", [[], [(2, 2)], [(2, 2), (2, 2), (1, 1)]])
def test_placeholders_that_no_frame_accounts_for_are_an_error(base: FutureL1, grids: list[tuple[int, int]]) -> None:
    image, video = base.tokens.image, base.tokens.video
    with pytest.raises(ValueError, match="8 vision placeholders"):
        rope_positions([1, *[image] * 4, 1, *[video] * 4], (image, video), grids)


def test_a_video_is_frame_pairs_with_their_times(base: FutureL1) -> None:
    encoder = with_latent_config(base)
    frames = [np.full((64, 64, 3), 40 * i, np.uint8) for i in range(3)]
    encoded = encoder.prompt([*encoder.patch_video(frames, [0, 4, 9], 8.0, 1, 4), "What next?"])
    pair = "<|vision_start|>" + "<|video_pad|>" * 4 + "<|vision_end|>"
    assert text_of(encoder, encoded.ids) == (
        f"<|im_start|>user\n<0.2 seconds>{pair}<1.1 seconds>{pair}What next?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_masked_and_unlearned(base: FutureL1, side: Any) -> None:
    short = Encoded([5, 6], [IGNORE, 6], torch.tensor([[0, 1]] * 3), [])
    long = Encoded([5, 6, 7], [IGNORE, 6, 7], torch.tensor([[0, 1, 2]] * 3), [])
    batch = collate([short, long], pad=0, side=side)
    padding = 0 if side == "left" else 2
    assert batch.mask.tolist()[1] == [1, 1, 1]
    assert batch.mask[0].tolist() == [int(i != padding) for i in range(3)]
    assert (batch.ids[0, padding], batch.labels[0, padding]) == (0, IGNORE)
    assert batch.ids[0][batch.mask[0].bool()].tolist() == short.ids
    assert batch.positions[:, 0, batch.mask[0].bool()].tolist() == short.positions.tolist()


def test_a_row_is_encoded_with_its_own_key_frames(rows: list[dict[str, Any]], encoder: Encoder) -> None:
    row = rows[2]
    encoded = RowReader(encoder, keep=False).dialogue(row, spans=True)
    assert len(encoded.observed) == 1
    assert len({p.key for p in (*encoded.observed, *encoded.future)}) == 1 + len(row["future"])
    assert encoded.ids.count(encoder.tokens.latent) == 4 * len(row["future"])
    plain = RowReader(encoder, keep=False).dialogue(row, spans=False)
    assert plain.future == [] and encoder.tokens.latent not in plain.ids


def test_a_kept_row_is_decoded_once(rows: list[dict[str, Any]], encoder: Encoder) -> None:
    reader = RowReader(encoder, keep=True)
    assert reader.prompt(rows[0]) is reader.prompt(rows[0])
    assert reader.dialogue(rows[0], True) is not reader.dialogue(rows[0], False)
    forgetful = RowReader(encoder, keep=False)
    assert forgetful.prompt(rows[0]) is not forgetful.prompt(rows[0])
