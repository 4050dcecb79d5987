"""A random Qwen3-VL of middle size: Qwen3-VL-8B with an eighth of its widths and a third of its depth.

47 million parameters; patches of 16 px, 2x2 merged, three DeepStack levels, grouped queries, an untied head.  The tiny
base's tokenizer; the vocabulary has spare rows, as Qwen's, so many that the head keeps the share in a token's
arithmetic that it has in the 8B model, a twelfth.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from training.model.checkpoint import FutureL1
from training.model.latent_config import LatentConfig
from training.model.tokens import CHAT_TEMPLATE, add_latent_tokens
from training.tiny import BASE

LATENT_CONFIG = LatentConfig(image_tokens=(2, 32), max_latents=4, span_end="model", system_prompt=None)
TEXT = {
    "vocab_size": 6144, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 8192,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5e6, "mrope_section": [12, 10, 10], "mrope_interleaved": True
    },
}  # fmt: skip
VISION = {
    "depth": 9, "hidden_size": 144, "intermediate_size": 538, "num_heads": 2, "patch_size": 16, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "out_hidden_size": 512, "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [2, 5, 8],
}  # fmt: skip


def midsize(seed: int = 0) -> FutureL1:
    """The model in float32 on the CPU; frames are of at most 32 tokens, spans of at most 4 latents."""
    return random_model(
        {"text_config": TEXT, "vision_config": VISION, "tie_word_embeddings": False}, LATENT_CONFIG, seed
    )


def random_model(
    config: Mapping[str, Any],
    latent_config: LatentConfig,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FutureL1:
    """A model with random weights, by what its config.json says of text, vision and embeddings, with the tiny base's
    tokenizer."""
    processor = _processor()
    ids = processor.tokenizer.get_vocab()
    text = {**config["text_config"], "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    full = Qwen3VLConfig(
        text_config=text | {"tie_word_embeddings": config["tie_word_embeddings"]},
        vision_config=dict(config["vision_config"]),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )  # fmt: skip
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration._from_config(full, dtype=dtype).eval()
    return FutureL1(model, processor, add_latent_tokens(model, processor.tokenizer, seed), latent_config)


def _processor() -> Qwen3VLProcessor:
    """The real one with the release's limits: a merged token is 32x32 px, an image has 2 to 16,384 of them."""
    size = {"shortest_edge": 2 * 32 * 32, "longest_edge": 16384 * 32 * 32}
    cut = {
        "patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3
    }  # fmt: skip
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **cut),
        tokenizer=AutoTokenizer.from_pretrained(BASE),
        video_processor=Qwen3VLVideoProcessor(**cut),
        chat_template=CHAT_TEMPLATE,
    )
