"""A Future-L1 checkpoint: plain transformers folders whose config also holds the latent budget and how it was taught.

Nothing needs remote code: any Qwen3-VL loader reads the weights; what decoding needs is in `config.future_l1`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from training.model.decode import Spans
from training.model.encoding import Encoder, FrameLimits
from training.model.teaching import Teaching
from training.model.tokens import Tokens, add_latent_tokens, lookup
from training.model.vision import FrozenVision


@dataclass
class FutureL1:
    """A loaded model with everything that answers and training need around it."""

    model: Qwen3VLForConditionalGeneration
    processor: Qwen3VLProcessor
    tokens: Tokens
    teaching: Teaching | None  # None: an untaught base model

    @property
    def spans(self) -> Spans:
        """The spans this checkpoint decodes: none for a base model."""
        return Spans(self.teaching.latents, self.teaching.span_end) if self.teaching else Spans(0, "model")

    def encoder(self, teaching: Teaching) -> Encoder:
        """The encoder of dialogues under a teaching."""
        limits = FrameLimits(teaching.observed_tokens, max(1, teaching.latents))
        return Encoder(self.processor, limits, teaching.system, teaching.span_end)

    def vision(self, cache_bytes: int = 0) -> FrozenVision:
        """The frozen tower and merger, with a feature cache of at most `cache_bytes`."""
        return FrozenVision(self.model, cache_bytes)

    def save(self, folder: Path, teaching: Teaching) -> None:
        """Writes safetensors, config and processor; the release's names of the token ids and the budget go along."""
        config = self.model.config
        config.future_l1 = teaching.model_dump(mode="json")
        config.latent_id, config.latent_start_id = self.tokens.latent, self.tokens.latent_start
        config.latent_end_id, config.max_latent_token = self.tokens.latent_end, teaching.latents
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def load(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> FutureL1:
    """Loads a checkpoint or a base model (whose latent tokens are then added, their rows drawn from `seed`).

    Raises ValueError when a taught checkpoint's tokenizer and config disagree about the latent tokens.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).to(device).eval()
    stored = getattr(model.config, "future_l1", None)
    if stored is None:
        return FutureL1(model, processor, add_latent_tokens(model, processor.tokenizer, seed), None)
    tokens = lookup(processor.tokenizer)
    if tokens.latent != model.config.latent_id:
        raise ValueError(
            f"{folder}: <|latent|> is {tokens.latent} in the tokenizer but {model.config.latent_id} in config.json"
        )
    return FutureL1(model, processor, tokens, Teaching(**stored))
