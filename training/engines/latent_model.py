"""A checkpoint as far as the rules of spans need it; no vLLM here."""

from dataclasses import dataclass
from typing import Any

from training.model.modes import Spans
from training.model.tokens import Tokens, lookup


@dataclass(frozen=True)
class LatentModel:
    """width: the hidden size.  vocabulary: the number of tokens that have embeddings."""

    tokens: Tokens
    spans: Spans
    width: int
    vocabulary: int


def latent_model(hf_config: Any, tokenizer: Any) -> LatentModel:
    """The one of this config and tokenizer."""
    text = hf_config.text_config
    spans = Spans(hf_config.latent_cap, hf_config.future_l1["span_end"])
    return LatentModel(lookup(tokenizer), spans, text.hidden_size, text.vocab_size)
