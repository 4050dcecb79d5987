"""Qwen3-VL in vLLM, with latents as inputs: the architecture that the plug-in registers."""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from training.engines.checks import check_config
from training.engines.config import rows_of


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class FutureL1ForConditionalGeneration(Qwen3VLForConditionalGeneration):
    """Under the V2 runner `LatentModelState` feeds the latents; under the V1 runner the model itself does."""

    requires_raw_input_tokens = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "model") -> None:
        check_config(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.rows = rows_of(vllm_config)
        self._is_step = False
        self.sampled_hidden: torch.Tensor | None = None  # what the latest logits are of

    @staticmethod
    def get_model_state_cls() -> type:
        from training.engines.state import LatentModelState

        return LatentModelState

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        metadata = get_forward_context().attn_metadata
        if self.rows is not None and metadata:  # there is none in vLLM's trial runs
            of_layers = next(iter(metadata.values()))
            starts, lengths = of_layers.query_start_loc.tolist(), of_layers.seq_lens.tolist()
            inputs_embeds = self.rows.feed(input_ids, inputs_embeds, starts, lengths)
            self._is_step = True
        return super().forward(None, positions, intermediate_tensors, inputs_embeds, **kwargs)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        logits, is_step = super().compute_logits(hidden_states), self._is_step
        self._is_step = False
        if self.rows is not None and is_step:  # and no prompt's log-probabilities, which vLLM computes after it
            return self.rows.constrain(logits, hidden_states)
        self.sampled_hidden = hidden_states
        return logits
