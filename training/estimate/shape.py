"""Shapes of a Qwen3-VL and of what it is fed, as far as memory and time depend on them.

Names: L layers, D hidden size, I intermediate size, A and K widths of all query and key heads, V vocabulary.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QWEN3_VL_8B: dict[str, Any] = {
    "text_config": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True
        },
    },
    "vision_config": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "out_hidden_size": 4096,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    },
    "tie_word_embeddings": False,
}  # fmt: skip
"""The config.json of Qwen/Qwen3-VL-8B-Instruct."""

KIND = "qwen3_vl"
"""The `model_type` of a config."""


@dataclass(frozen=True)
class ModelShape:
    """The widths of a model, and the weights of its tower with all mergers (`vision_parameters`).

    levels: of DeepStack.  tile: the side of one merged token in pixels.
    """

    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    head: int
    vocabulary: int
    tied: bool
    vision_parameters: int
    levels: int
    tile: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelShape":
        """The shape by a config.json.  Raises KeyError for one that is not a Qwen3-VL's."""
        text, vision = config["text_config"], config["vision_config"]
        head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
        return cls(
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            queries=text["num_attention_heads"] * head,
            keys=text["num_key_value_heads"] * head,
            head=head,
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            vision_parameters=_vision_parameters(vision),
            levels=len(vision["deepstack_visual_indexes"]),
            tile=vision["patch_size"] * vision["spatial_merge_size"],
        )

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden * (self.queries + self.keys) + 2 * self.head
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def language_parameters(self) -> int:
        """All weights besides the tower's and the mergers': those that learn."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + embeddings + self.hidden

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision_parameters

    @property
    def cache_bytes(self) -> int:
        """Bytes of a token's keys and values in bf16."""
        return 2 * self.layers * self.keys * 2


@dataclass(frozen=True)
class BatchShape:
    """Rows that one device takes at once: all of `tokens`, with so many merged vision tokens, and so many positions
    whose logits are computed, each."""

    rows: int
    tokens: int
    vision_tokens: int
    scored: int


def model_shape(base: Path) -> tuple[ModelShape, str]:
    """The shape of a base model, and its source: the folder's config.json; without a folder, Qwen3-VL-8B's where the
    folder's name says so.

    Raises ValueError where neither tells, and for another kind of model.
    """
    file = base / "config.json"
    if not file.is_file() and "qwen3-vl-8b" in base.name.lower():
        return ModelShape.of(QWEN3_VL_8B), f"the published config of Qwen3-VL-8B-Instruct: there is no {file} yet"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{base} has no config.json that can be read, and so no shape: {error}") from error
    try:
        kind, shape = config.get("model_type", KIND), ModelShape.of(config)
    except KeyError as error:
        raise ValueError(f"{file} is no Qwen3-VL's: {error} is absent") from error
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{file} is no Qwen3-VL's: {error}") from error
    if kind != KIND:
        raise ValueError(f"{file} is no Qwen3-VL's: its model_type is {kind!r}")
    for name, value in vars(shape).items():
        if name not in ("tied", "levels") and not (type(value) is int and value > 0):
            raise ValueError(f"{file} is no Qwen3-VL's: {name} is {value!r}, and no positive whole number")
    return shape, str(file)


def _vision_parameters(vision: Mapping[str, Any]) -> int:
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    merged, out = width * vision["spatial_merge_size"] ** 2, vision["out_hidden_size"]
    pixels = vision.get("in_channels", 3) * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 4 * width + 4 * width * (width + 1) + width * (2 * inner + 1) + inner
    projection = merged * (merged + 1) + out * (merged + 1)
    mergers = projection + 2 * width + len(vision["deepstack_visual_indexes"]) * (projection + 2 * merged)
    return width * (pixels + 1 + vision["num_position_embeddings"]) + vision["depth"] * block + mergers
