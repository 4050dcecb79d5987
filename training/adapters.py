"""LoRA, in SFT and in RL: adapters in place of all weights, and whole rows of the three latent tokens.

A model with its adapters off is the model that training started from, bit for bit: RL's reference without a second
model.  What is saved is that model with the adapters merged into it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from training.model.checkpoint import FutureL1
from training.recipes import LoraSettings


def add_adapters(bundle: FutureL1, settings: LoraSettings, seed: int) -> PeftModel:
    """Puts adapters, the same for a seed in each process, into the bundle's model; they change nothing yet.

    The embedding and head rows of the three latent tokens are new, so they are trained themselves, without an adapter.
    """
    t = bundle.tokens
    new = [t.latent, t.latent_start, t.latent_end]
    tied = bundle.model.config.tie_word_embeddings
    projections = "|".join(settings.target_modules)
    config = LoraConfig(
        **settings.model_dump(exclude={"target_modules"}),
        target_modules=rf".*\.language_model\.layers\.\d+\.(self_attn|mlp)\.({projections})",
        trainable_token_indices={"embed_tokens": new} if tied else {"embed_tokens": new, "lm_head": new},
    )
    torch.manual_seed(seed)  # the trainer does the same after this
    return get_peft_model(bundle.model, config)


@contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """Context in which a model computes what it did before it had adapters.

    PEFT's own `disable_adapter` also makes adapters forget that they learn, of which FSDP2 takes note.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def shard_adapted(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Shards a model with adapters as FSDP2 shards one without, where it does; accelerate's `prepare` then leaves it.

    For a model of PEFT transformers 5.23 sets a wrapping policy that accelerate 1.15 ignores under FSDP2: all layers
    would be gathered at once.  Adapters are off, so that tied embeddings are seen to be tied.
    """
    if accelerator.is_fsdp2 and isinstance(model, PeftModel):
        with adapters_off(model):
            fsdp2_prepare_model(accelerator, model)


def adapter_weights(model: torch.nn.Module) -> dict[str, Any]:
    """What was learned, gathered to the first process's memory; every process must call this."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return get_model_state_dict(model, options=options)


def merged(start: FutureL1, settings: LoraSettings, weights: Mapping[str, torch.Tensor]) -> FutureL1:
    """The model that training started from with `adapter_weights` merged into it; `start` is used up."""
    adapted = add_adapters(start, settings, seed=0)
    unknown = adapted.load_state_dict(weights, strict=False).unexpected_keys
    assert weights and not unknown, f"learned weights that the start has no place for: {unknown}"
    return replace(start, model=adapted.merge_and_unload())
