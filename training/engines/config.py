"""What a vLLM config says of our checkpoint and of its requests."""

from vllm.config import VllmConfig
from vllm.tokenizers import cached_tokenizer_from_config

from training.engines import ARCHITECTURE
from training.engines.latent_model import LatentModel, latent_model
from training.engines.rows import Rows

_ROWS: list[tuple[VllmConfig, Rows]] = []
"""The requests of the V1 runners in this process, by their config: vLLM makes the logits processor before the model."""


def latent_model_of(config: VllmConfig) -> LatentModel:
    """The one of the checkpoint."""
    return latent_model(config.model_config.hf_config, cached_tokenizer_from_config(config.model_config))


def rows_of(config: VllmConfig) -> Rows | None:
    """The requests of the V1 runner with this config; None under the V2 runner, and for another model."""
    if config.use_v2_model_runner or ARCHITECTURE not in config.model_config.architectures:
        return None
    for other, rows in _ROWS:
        if other is config:
            return rows
    rows = Rows(latent_model_of(config), config.scheduler_config.max_num_seqs)
    _ROWS.append((config, rows))
    return rows
