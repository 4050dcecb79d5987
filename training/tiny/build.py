"""Architecture, tokenizer and processor of the tiny Qwen3-VL; every class is the real one from transformers."""

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from training.tiny import world

PATCH, MERGE, WIDTH = 8, 2, 128
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
            "<|image_pad|>", "<|video_pad|>")  # fmt: skip
TILE_DRILL = "What colour is tile "
MARBLE_DRILLS = ("Where is the marble?", "What kind is the marble?", "Which colour is under the marble?")
# What carries information stands alone; the phrases between are left whole and become one entry each.
PIECES = (r"</?(?:reason|answer)>|\n[A-D]\. |\n|\. |frame_\d|\d+|\b(?:" + "|".join(world.COLOURS)
          + r"|white|black|system|user|assistant)\b")  # fmt: skip


def toy_texts() -> Iterable[str]:
    """The phrases of the toy world that the shipped base's vocabulary was made from."""
    for category in world.CATEGORIES:
        for hop in range(4):
            for colour in range(len(world.COLOURS)):
                yield world.question_text(category, hop, event=(hop + 1, colour)) + world.options_text([colour] * 4)
                yield world.question_text(category, hop)
    for thought in ("First it rolls on.", "Then it rolls on."):  # phrases are the base's vocabulary: none may change
        yield f"<reason>{thought}</reason>\n<answer>red</answer>\n"
    yield from (f"{drill}\n" for drill in MARBLE_DRILLS)
    yield from (f"{TILE_DRILL}{tile}" for tile in range(world.N_TILES))
    yield "frame_1 system user assistant white black"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 1,024 entries, with Qwen's chat and vision tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=list(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(list(toy_texts()) * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> Qwen3VLProcessor:
    """The real processor, with patches of 8 px: one merged token is 16x16 px."""
    sizes = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    image = Qwen2VLImageProcessor(size={"shortest_edge": 16 * 16, "longest_edge": 64 * 16 * 16}, **sizes, **normal)
    video = Qwen3VLVideoProcessor(**sizes, **normal)
    return Qwen3VLProcessor(image_processor=image, tokenizer=build_tokenizer(), video_processor=video)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """About a million parameters.  Wide initialisation and loud vision positions: with the defaults this size never
    learns where something is."""
    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    rows = -(-(len(tokenizer) + 3) // 64) * 64  # spare rows, as Qwen has them: the latent tokens fit without a resize
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": rows, "hidden_size": WIDTH, "intermediate_size": 384, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 2048,
            "initializer_range": 0.08, "tie_word_embeddings": True, "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5],
                                "mrope_interleaved": True},
        },
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 256, "num_heads": 2, "patch_size": PATCH,
            "spatial_merge_size": MERGE, "temporal_patch_size": 2, "out_hidden_size": WIDTH,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [], "initializer_range": 0.08,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3VLForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.visual.pos_embed.weight, std=0.5)
    return model
