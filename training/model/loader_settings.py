"""The settings by which other loaders use a checkpoint as this project does: they travel in its folder.

transformers, vLLM and TRL read the chat template, the processor's sizes and the generation config, and nothing of
`config.future_l1`.
"""

from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from training.model.latent_config import LatentConfig
from training.model.tokens import Tokens, chat_template


def set_generation_config(model: Qwen3VLForConditionalGeneration, tokens: Tokens) -> None:
    """Sets the tokens that end an answer, and a ban on spans.

    A loader that runs no code of the folder would embed `<|latent|>` as a word and answer worse than in text alone
    (docs/using-the-models.md has figures), so it is kept to text; `custom_generate/generate.py` lifts the ban.
    """
    config = model.generation_config
    config.eos_token_id, config.pad_token_id = [tokens.end_of_turn, tokens.pad], tokens.pad
    config.suppress_tokens = [tokens.latent, tokens.latent_start]


def set_processor(processor: Qwen3VLProcessor, latent_config: LatentConfig) -> None:
    """Sets the chat template with the checkpoint's system prompt, padding on the left, and the sizes of frames.

    An image has the checkpoint's least to most tokens.  So has a video's frame pair at most; its least is a bound on
    the whole video, since transformers has no other.
    """
    processor.chat_template = chat_template(latent_config.system_prompt)
    tokenizer = processor.tokenizer
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # what `save_pretrained` keeps
    images, videos = processor.image_processor, processor.video_processor
    low, high = latent_config.image_tokens
    token = (images.patch_size * images.merge_size) ** 2
    images.size = {"shortest_edge": low * token, "longest_edge": high * token}
    videos.size = {"shortest_edge": low * token, "longest_edge": videos.size["longest_edge"]}
    videos.cap_pixels_per_frame, videos.max_video_tokens = True, min(high, videos.max_video_tokens)
