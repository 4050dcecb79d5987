"""Control strings: text that steers the model or the parsers, and so must not occur inside data.

The tokenizer turns these strings into control tokens wherever they stand, a parser would read the tags as the model's
own; a row that carries one is rejected, by this one function.
"""

CONTROL = (
    "<|latent|>",
    "<|latent_start|>",
    "<|latent_end|>",
    "<answer>",
    "</answer>",
    "<reason>",
    "</reason>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)


def control_in(text: str) -> str | None:
    """The first control string that `text` carries, in any letter case, or None.

    Letter case is ignored because TwiFF's answer clean-up ignores it (`reference/evaluation.md` 2.3).
    """
    folded = text.lower()
    found = [(folded.index(control), control) for control in CONTROL if control in folded]
    return min(found)[1] if found else None
