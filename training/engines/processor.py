"""vLLM's V1 runner: our rows follow its batch, and the tokens of spans are forced."""


import torch
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from training.engines.config import rows_of


class SpanProcessor(LogitsProcessor):
    """Entry point `vllm.logits_processors`; for other models than ours it does nothing."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows = rows_of(vllm_config)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if self._rows is None or batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.remove(row)
        for row, params, prompt, output in batch_update.added:
            self._rows.add(row, params, prompt or (), output)
        for source, target, how in batch_update.moved:
            self._rows.move(source, target, how == MoveDirectionality.SWAP)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self._rows is None else self._rows.force(logits)
