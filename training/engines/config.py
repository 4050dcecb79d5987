"""What a vLLM config says of our checkpoint and of its requests."""

from vllm.config import VllmConfig
from vllm.tokenizers import cached_tokenizer_from_config

from training.engines import ARCHITECTURE
from training.engines.rows import Rows
from training.model.modes import Spans
from training.model.tokens import Tokens, lookup

_ROWS: list[tuple[VllmConfig, Rows]] = []
"""The requests of the V1 runners in this process, by their config: vLLM makes the logits processor before the model."""


def tokens_and_spans(config: VllmConfig) -> tuple[Tokens, Spans]:
    """Those of the checkpoint."""
    hf_config = config.model_config.hf_config
    tokens = lookup(cached_tokenizer_from_config(config.model_config))
    return tokens, Spans(hf_config.latent_cap, hf_config.future_l1["span_end"])


def rows_of(config: VllmConfig) -> Rows | None:
    """The requests of the V1 runner with this config; None under the V2 runner, and for another model."""
    if config.use_v2_model_runner or ARCHITECTURE not in config.model_config.architectures:
        return None
    for other, rows in _ROWS:
        if other is config:
            return rows
    width = config.model_config.hf_config.text_config.hidden_size
    rows = Rows(*tokens_and_spans(config), width, config.scheduler_config.max_num_seqs)
    _ROWS.append((config, rows))
    return rows
