"""The three latent tokens, and the chat markers and the template that a dialogue is built from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

LATENT, LATENT_START, LATENT_END = "<|latent|>", "<|latent_start|>", "<|latent_end|>"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'video' -%}
                {{- '<|video_pad|>' -}}
            {%- elif message.role == 'assistant' -%}
                {{- '<|latent_start|><|image_pad|><|latent_end|>' -}}
            {%- else -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Our chat template: it renders frames in every turn, where Qwen3-VL's own drops an assistant's.

A frame of the assistant is a latent span around `<|image_pad|>`, which a processor expands to the frame's tokens.  A
video is `<|video_pad|>` alone: transformers 5.23 and vLLM 0.32 put each pair's time and markers in its place, and would
leave markers around it standing.  Nothing is put between the parts of a message.  Encoder renders the same text without
jinja, since it must know which token belongs to which part; a test holds the two to each other.
"""


def chat_template(system_prompt: str | None) -> str:
    """CHAT_TEMPLATE, with this system turn before dialogues that have none: the one of the checkpoint's training."""
    if system_prompt is None:
        return CHAT_TEMPLATE
    turn = f"<|im_start|>system\n{system_prompt}<|im_end|>\n"
    return f"{{%- if messages[0].role != 'system' -%}}\n    {{{{- {turn!r} -}}}}\n{{%- endif -%}}\n{CHAT_TEMPLATE}"


@dataclass(frozen=True)
class Tokens:
    """Token ids that the encoder and the decoder need, looked up in the tokenizer."""

    latent: int
    latent_start: int
    latent_end: int
    image: int
    video: int
    end_of_turn: int
    pad: int

    @property
    def control(self) -> tuple[int, ...]:
        """Control tokens: neither text nor latents."""
        return (self.latent_start, self.latent_end, self.end_of_turn)

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Tokens that stand for vectors: no text may hold them."""
        return (self.latent, self.image, self.video)

    def without_end(self, generated: Sequence[int]) -> list[int]:
        """An answer's tokens without the end-of-turn token."""
        return list(generated[:-1] if generated and generated[-1] == self.end_of_turn else generated)

    def span_sizes(self, generated: Sequence[int]) -> list[int]:
        """Latents of each span of an answer, an open last one included."""
        sizes: list[int] = []
        for token in generated:
            if token == self.latent_start:
                sizes.append(0)
            elif token == self.latent:
                sizes[-1] += 1
        return sizes

    def inside_span(self, generated: Sequence[int]) -> list[bool]:
        """For each token of an answer, whether a span was open when it was chosen."""
        inside, is_open = [], False
        for token in generated:
            inside.append(is_open)
            is_open = token == self.latent_start if not is_open else token != self.latent_end
        return inside


def lookup(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The ids of a tokenizer that already has the latent tokens.  Raises ValueError naming what is missing."""
    names = (LATENT, LATENT_START, LATENT_END, "<|image_pad|>", "<|video_pad|>", "<|im_end|>", "<|endoftext|>")
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise ValueError(f"the tokenizer lacks {', '.join(missing)}: prepare the checkpoint with add_latent_tokens")
    return Tokens(*(vocabulary[name] for name in names))


def add_latent_tokens(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> Tokens:
    """Adds the latent tokens (placeholder, start, end, in the release's order) and initialises their embedding rows.

    Idempotent: tokens that the tokenizer already has keep their rows.  New rows are sampled with the mean and the
    standard deviation of the trained rows, so that they neither stand out nor coincide (Qwen's spare rows do).
    """
    vocabulary = tokenizer.get_vocab()
    new = [name for name in (LATENT, LATENT_START, LATENT_END) if name not in vocabulary]
    trained = len(tokenizer)
    tokenizer.add_tokens(new, special_tokens=False)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    generator = torch.Generator().manual_seed(seed)
    matrices = {id(e.weight): e.weight for e in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight in matrices.values():
            rows = weight[:trained].float()
            fresh = torch.randn(len(new), weight.shape[1], generator=generator).to(weight.device)
            weight[trained : trained + len(new)] = (rows.mean(0) + rows.std(0) * fresh).to(weight.dtype)
    return lookup(tokenizer)
