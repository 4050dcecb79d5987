"""What other loaders read of a checkpoint makes prompts as this project does, and keeps to text who cannot do more."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.video_utils import VideoMetadata

from evaluation.benchmarks.futurebench_items import video_frame_numbers
from tests.training.model.test_template import messages
from training.data.images import fit_grid
from training.model.checkpoint import FutureL1, load
from training.model.encoding import Encoded, Encoder
from training.model.latent_config import PAPER
from training.runtime.project import PROJECT

QUESTION = "Where does it go next?"
SYSTEM = PAPER.system_prompt


@pytest.fixture(scope="module")
def checkpoint(sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the paper's system prompt."""
    bundle, folder = load(sft_checkpoint), tmp_path_factory.mktemp("checkpoint")
    assert bundle.latent_config is not None
    bundle.save(folder, bundle.latent_config.model_copy(update={"system_prompt": SYSTEM}))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> FutureL1:
    return load(checkpoint)


@pytest.fixture(scope="module")
def encoder(bundle: FutureL1) -> Encoder:
    assert bundle.latent_config is not None
    return bundle.encoder(bundle.latent_config)


@pytest.fixture(scope="module")
def processor(checkpoint: Path) -> Qwen3VLProcessor:
    return AutoProcessor.from_pretrained(checkpoint)


def prompt(processor: Qwen3VLProcessor, *content: Any, **options: Any) -> Any:
    """A user turn, as the processor makes a prompt of it."""
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return processor.apply_chat_template(
        [[{"role": "user", "content": parts}]], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt", processor_kwargs=options,
    )  # fmt: skip


def assert_alike(theirs: Any, ours: Encoded, pixels: str) -> None:
    """The same tokens, and pixels that differ by two of 256 levels at most: Pillow's resize rounds otherwise."""
    assert theirs["input_ids"][0].tolist() == ours.ids
    expected = torch.cat([patches.pixels for patches in ours.observed])
    torch.testing.assert_close(theirs[pixels], expected, atol=2.01 / 127.5, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (374, 374), (123, 200), (20, 20), (400, 90), (31, 95)])
def test_an_image_has_the_size_of_training(processor: Qwen3VLProcessor, encoder: Encoder, size: Any) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (*(max(2, side // 9) for side in size), 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize(size[::-1], Image.Resampling.BICUBIC)
    theirs = prompt(processor, "frame_1", {"type": "image", "image": image}, QUESTION)
    assert_alike(theirs, encoder.prompt(["frame_1", encoder.patch(np.asarray(image), 4, 16), QUESTION]), "pixel_values")


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (120, 160)])
def test_a_video_has_the_times_and_sizes_of_training(
    processor: Qwen3VLProcessor, encoder: Encoder, size: tuple[int, int]
) -> None:
    numbers = [0, 7, 13, 20, 26]
    rough = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    clip = [np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)) for frame in rough]
    metadata = VideoMetadata(total_num_frames=40, fps=29.97, frames_indices=list(numbers))
    theirs = prompt(
        processor, {"type": "video", "video": np.stack(clip)}, QUESTION, video_metadata=[[metadata]],
        do_sample_frames=False,
    )  # fmt: skip
    ours = encoder.prompt([*encoder.patch_video(clip, numbers, 29.97, 4, 16), QUESTION])
    assert_alike(theirs, ours, "pixel_values_videos")


@pytest.mark.parametrize("frames", [32, 33, 95])
def test_the_pages_settings_of_a_video_are_futurebenchs_layout(
    processor: Qwen3VLProcessor, encoder: Encoder, frames: int
) -> None:
    page = (PROJECT / "docs" / "using-the-models.md").read_text()
    (options,) = re.findall(r'`processor_kwargs=(\{"num_frames.*?\})`', page)
    clip = np.random.default_rng(0).integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8)
    metadata = VideoMetadata(total_num_frames=frames, fps=29.97, frames_indices=list(range(frames)))
    video = {"type": "video", "video": clip}
    theirs = prompt(processor, video, QUESTION, video_metadata=[[metadata]], **ast.literal_eval(options))
    numbers = video_frame_numbers(frames)
    ours = encoder.prompt([*encoder.patch_video(list(clip[numbers]), numbers, 29.97, 4, 16), QUESTION])
    assert_alike(theirs, ours, "pixel_values_videos")


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 64), st.integers(0, 2000), st.sampled_from([16, 32]))
def test_a_grid_is_qwens_but_for_strips(height: int, width: int, low: int, more: int, tile: int) -> None:
    if max(height, width) > 200 * min(height, width) or min(height, width) * 2 < tile:
        return  # Qwen's refuses the first, and takes the second for an image without pixels
    theirs = smart_resize(height, width, tile, low * tile**2, (low + more) * tile**2)
    rows, columns = theirs[0] // tile, theirs[1] // tile
    if rows * columns <= low + more:
        assert fit_grid(height, width, low, low + more, tile) == (rows, columns)


def test_an_answer_ends_at_the_end_of_turn_or_at_padding(checkpoint: Path, bundle: FutureL1) -> None:
    config, tokens = json.loads((checkpoint / "generation_config.json").read_text()), bundle.tokens
    assert (config["eos_token_id"], config["pad_token_id"]) == ([tokens.end_of_turn, tokens.pad], tokens.pad)


def test_a_loader_that_runs_no_code_answers_in_text(
    checkpoint: Path, bundle: FutureL1, processor: Qwen3VLProcessor, rows: list[dict[str, Any]]
) -> None:
    """Padding is on the left by default, so a batch is answered as its rows alone."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    tokens = bundle.tokens
    model.lm_head.register_forward_hook(lambda _module, _args, logits: prefers_spans(logits, tokens.latent_start))
    frame = {"type": "image", "image": Image.new("RGB", (64, 64), "grey")}
    turns = [[{"role": "user", "content": [frame, {"type": "text", "text": text}]}] for text in (QUESTION, "Where?")]
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    assert not inputs["attention_mask"][1, 0] and bool(inputs["attention_mask"][:, -1].all())
    sequences = model.generate(**inputs, max_new_tokens=8)
    banned = torch.tensor([tokens.latent, tokens.latent_start])
    assert not torch.isin(sequences[:, inputs["input_ids"].shape[1] :], banned).any()


def prefers_spans(logits: torch.Tensor, start: int) -> torch.Tensor:
    """Logits of a model that wants to open a span at every step."""
    logits = logits.clone()
    logits[..., start] += 1000
    return logits


def test_the_system_turn_of_training_is_put_in_where_there_is_none(
    processor: Qwen3VLProcessor, bundle: FutureL1, rows: list[dict[str, Any]]
) -> None:
    def rendered(system: str | None) -> str:
        return processor.apply_chat_template(messages(rows[0], system), tokenize=False)

    assert rendered(None) == rendered(SYSTEM) != rendered("Be brief.")
    assert rendered("Be brief.").startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert bundle.processor.chat_template == processor.chat_template
