"""The video route against transformers itself: its processor's text and pixels, its rope index, its forward pass."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BatchFeature, Qwen3VLForConditionalGeneration
from transformers.video_utils import VideoMetadata

from training.data.images import fit_grid
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoder, FrameLimits, collate
from training.model.vision import Patches

FPS = 29.97
NUMBERS = [0, 7, 13, 20, 26, 33]
SHAPE = (48, 80, 3)  # 3 x 5 merged tokens of the tiny base
QUESTION = "Which colour is the marble on at step 1?"


@pytest.fixture(scope="module")
def deep(base: FutureL1) -> FutureL1:
    """An untrained model of the same size with DeepStack after both layers of its tower, as the real ones have it."""
    config = copy.deepcopy(base.model.config)
    config.vision_config.deepstack_visual_indexes = [0, 1]
    torch.manual_seed(0)
    return replace(base, model=Qwen3VLForConditionalGeneration(config).eval())


@pytest.fixture
def encoder(base: FutureL1) -> Encoder:
    return Encoder(base.processor, FrameLimits((4, 16), 4), system=None)


def frames(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(count).integers(0, 256, (count, *SHAPE), dtype=np.uint8))


def pairs(encoder: Encoder, clip: list[np.ndarray], numbers: list[int]) -> list[Patches]:
    return encoder.patch_video(clip, numbers, FPS, 4, 16)


def by_transformers(base: FutureL1, text: str, clip: list[np.ndarray], numbers: list[int], **images) -> BatchFeature:
    metadata = VideoMetadata(total_num_frames=40, fps=FPS, frames_indices=list(numbers))
    return base.processor(
        text=[text], videos=[np.stack(clip)], video_metadata=[metadata], do_sample_frames=False, do_resize=False,
        cap_pixels_per_frame=False, return_tensors="pt", **images,
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 5, 6])
def test_a_video_reads_as_the_processor_writes_it(base: FutureL1, encoder: Encoder, count: int) -> None:
    clip, numbers = frames(count), NUMBERS[:count]
    ours = encoder.prompt([*pairs(encoder, clip, numbers), QUESTION])
    text = f"<|im_start|>user\n<|video_pad|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    theirs = by_transformers(base, text, clip, numbers)
    assert ours.ids == theirs["input_ids"][0].tolist()
    assert torch.equal(torch.cat([p.pixels for p in ours.observed]), theirs["pixel_values_videos"])
    assert [p.grid.tolist() for p in ours.observed] == [[1, *theirs["video_grid_thw"][0, 1:]]] * -(-count // 2)


def test_a_pair_is_timed_by_the_mean_of_its_frames(encoder: Encoder) -> None:
    clip = pairs(encoder, frames(4), [0, 30, 60, 120])
    assert [p.seconds for p in clip] == pytest.approx([15 / FPS, 90 / FPS])
    assert "<0.5 seconds><|vision_start|>" in encoder.prompt_text(clip)


@pytest.mark.parametrize("name", ["base", "deep"])
def test_images_and_videos_stand_where_transformers_puts_them(
    name: str, encoder: Encoder, request: pytest.FixtureRequest
) -> None:
    base: FutureL1 = request.getfixturevalue(name)
    picture, clip = frames(1)[0], frames(6)
    ours = encoder.prompt(["frame_1", encoder.patch(picture, 4, 16), *pairs(encoder, clip, NUMBERS), QUESTION])
    text = (
        "<|im_start|>user\nframe_1<|vision_start|><|image_pad|><|vision_end|><|video_pad|>"
        f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    theirs = by_transformers(base, text, clip, NUMBERS, images=[picture])
    assert ours.ids == theirs["input_ids"][0].tolist()
    grids = {name: theirs[name] for name in ("mm_token_type_ids", "image_grid_thw", "video_grid_thw")}
    expected, _ = base.model.model.get_rope_index(theirs["input_ids"], **grids)
    assert torch.equal(ours.positions, expected[:, 0])
    batch = collate([ours], base.tokens.pad)
    with torch.no_grad():
        fed = base.model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            mm_encoder_outputs=base.vision().encoder_outputs(batch.observed),
        )
        whole = base.model(**theirs)
    torch.testing.assert_close(fed.logits, whole.logits)


def test_the_features_of_pairs_are_those_of_the_video(deep: FutureL1, encoder: Encoder) -> None:
    clip = pairs(encoder, frames(6), NUMBERS)
    _, height, width = clip[0].grid.tolist()
    with torch.no_grad():
        whole = deep.model.model.get_video_features(
            torch.cat([p.pixels for p in clip]), torch.tensor([[len(clip), height, width]])
        )
    ours = deep.vision().encoder_outputs(clip)
    assert ours is not None and set(ours) == {"video"}
    torch.testing.assert_close(torch.cat(ours["video"].pooler_output), whole.pooler_output[0])
    for layer, expected in zip(ours["video"].deepstack_features, whole.deepstack_features, strict=True):
        torch.testing.assert_close(torch.cat(layer), expected[0])


def test_a_pair_shown_twice_is_encoded_once(base: FutureL1, encoder: Encoder, monkeypatch) -> None:
    vision, encoded = base.vision(cache_bytes=2**20), []
    encode = vision._encode
    monkeypatch.setattr(vision, "_encode", lambda patches: encoded.extend(patches) or encode(patches))
    clip = pairs(encoder, frames(6), NUMBERS)
    vision.encoder_outputs(clip)
    vision.encoder_outputs([*pairs(encoder, frames(6), [n + 50 for n in NUMBERS]), *clip])
    assert len(encoded) == 3  # features do not depend on the time


@pytest.mark.parametrize(
    ("height", "width", "grid", "tokens"),
    [(720, 1280, (20, 36), 11_520), (360, 640, (11, 20), 3_520)],  # reference/evaluation.md 1.4
)
def test_video_frames_have_the_releases_sizes(height: int, width: int, grid: tuple[int, int], tokens: int) -> None:
    rows, columns = fit_grid(height, width, 196, 768, 32)
    assert (rows, columns) == grid
    assert rows * columns * 16 == tokens
