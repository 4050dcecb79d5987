"""Sizes of what is measured: Qwen3-VL-2B and -8B, or models so narrow that a CPU runs all of it in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.estimate.shape import QWEN3_VL_8B
from training.model.latent_config import LatentConfig

QWEN3_VL_2B: dict[str, Any] = {
    "text_config": QWEN3_VL_8B["text_config"] | {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
    },
    "vision_config": QWEN3_VL_8B["vision_config"] | {
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    "tie_word_embeddings": True,
}  # fmt: skip
"""The config.json of Qwen/Qwen3-VL-2B-Instruct."""


@dataclass(frozen=True)
class Shapes:
    """Models by name, the first of which is trained too.

    frame: (height, width) of a row's four observed frames.  image_tokens: most merged tokens of a frame in decoding,
    where many answers are read at once; training has whole frames.  batches, new_tokens: answers at once, and their
    length, in decoding; answer: in RL.
    """

    models: Mapping[str, Mapping[str, Any]]
    frame: tuple[int, int]
    image_tokens: int
    batches: tuple[int, ...]
    new_tokens: int
    answer: int

    @property
    def trained(self) -> str:
        return next(iter(self.models))


def latent_config(most_image_tokens: int) -> LatentConfig:
    return LatentConfig(image_tokens=(2, most_image_tokens), max_latents=4, span_end="model", system_prompt=None)


def _narrow(tied: bool) -> dict[str, Any]:
    text = QWEN3_VL_8B["text_config"] | {
        "vocab_size": 1088, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    text["rope_parameters"] = text["rope_parameters"] | {"mrope_section": [4, 2, 2]}
    vision = QWEN3_VL_8B["vision_config"] | {
        "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied}


SHAPES = {
    "qwen3-vl": Shapes({"2B": QWEN3_VL_2B, "8B": QWEN3_VL_8B}, (704, 1280), 64, (1, 8, 64), new_tokens=64, answer=256),
    "tiny": Shapes({"tied": _narrow(True), "untied": _narrow(False)}, (64, 96), 4, (1, 2, 4), new_tokens=24, answer=24),
}
