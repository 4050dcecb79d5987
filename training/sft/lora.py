"""LoRA on the language model, for SFT on smaller devices: adapters beside its projections, merged before saving.

The embedding and head rows of the three latent tokens are trained whole: they are new, and no low rank of anything
known.
"""

from typing import Any

from peft import LoraConfig

from training.model.checkpoint import FutureL1
from training.recipes import LoraSettings

PROJECTIONS = r".*\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def peft_config(settings: LoraSettings, bundle: FutureL1) -> LoraConfig:
    """PEFT's configuration for a model whose weights it has not touched yet."""
    t = bundle.tokens
    new = [t.latent, t.latent_start, t.latent_end]
    tied = bundle.model.config.tie_word_embeddings
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=PROJECTIONS,
        trainable_token_indices={"embed_tokens": new} if tied else {"embed_tokens": new, "lm_head": new},
    )


def merged(model: Any) -> Any:
    """The plain model with the adapters added into its weights."""
    return model.merge_and_unload()
