"""Batches that fit a device: prompts are decoded within a budget of tokens, and the next ones join as others end."""

import logging
import math
from collections.abc import Hashable, Iterator, Sequence

import torch
from transformers import Qwen3VLForConditionalGeneration

from training.model.completions import Decoded
from training.model.decode import decode_stream
from training.model.encoding import Encoded
from training.model.interventions import Intervention
from training.model.masking import Masking
from training.model.modes import Spans
from training.model.sampling import Sampling
from training.model.scheduler import Scheduler
from training.model.tokens import Tokens
from training.model.vision import FrozenVision

FREE_SHARE = 0.8
"""The share of the free memory that keys and values take; logits, vision features and fragments take the rest."""

_log = logging.getLogger(__name__)


class TokenBudget:
    """The most tokens that are decoded at once: for each answer those of its prompt and the longest answer, padding
    counted.  Each prompt counts as one answer more: in Qwen3-VL-8B the activations of a token's prefill take as much
    memory as its keys and values.

    max_tokens: None is what the free memory of the model's GPU holds; a CPU has no bound then.
    """

    def __init__(self, max_tokens: int | None = None) -> None:
        self.max_tokens = max_tokens

    def decode(
        self,
        model: Qwen3VLForConditionalGeneration,
        vision: FrozenVision,
        tokens: Tokens,
        prompts: Sequence[Encoded],
        sampling: Sampling,
        spans: Spans,
        seeds: Sequence[Sequence[int]],
        groups: Sequence[Hashable] | None = None,
        intervention: Intervention | None = None,
        scripts: Sequence[Sequence[int]] | None = None,
        masking: Masking | None = None,
    ) -> Iterator[tuple[int, Decoded]]:
        """The answers to each prompt with the prompt's number, in the order in which they finish.

        Arguments are those of `training.model.decode.decode`.  When the device runs out of memory, the budget becomes
        half of what did not fit, and stays so.

        Raises torch.OutOfMemoryError for a single prompt that does not fit, and when half does not fit either.
        """
        waiting, halved = list(range(len(prompts))), False
        limit = _free_tokens(model) if self.max_tokens is None else self.max_tokens
        while waiting:
            scheduler = Scheduler(prompts, seeds, groups, sampling.max_new_tokens, limit, waiting)
            try:
                for number, decoded in decode_stream(
                    model, vision, tokens, scheduler, sampling, spans, intervention, scripts, masking
                ):
                    waiting.remove(number)
                    yield number, decoded
            except torch.OutOfMemoryError:
                if halved or len(scheduler.running) == 1:
                    raise
            if waiting:  # here, since the exception holds the batch's tensors
                self.max_tokens = limit = scheduler.size // 2
                halved = True
                _log.warning("out of memory with a batch of %d tokens: going on with at most %d", scheduler.size, limit)
                if model.device.type == "cuda":
                    torch.cuda.empty_cache()


def token_bytes(model: Qwen3VLForConditionalGeneration) -> int:
    """Bytes of a token's keys and values."""
    config = model.config.text_config
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize


def _free_tokens(model: Qwen3VLForConditionalGeneration) -> float:
    if model.device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(model.device)
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return int(FREE_SHARE * free / token_bytes(model))
