"""Batches that fit a device: prompts are decoded in parts, each within a budget of tokens."""

import logging
import math
from collections.abc import Hashable, Iterator, Sequence

import torch
from transformers import Qwen3VLForConditionalGeneration

from training.model.completions import Decoded
from training.model.decode import Intervention, decode
from training.model.encoding import Encoded
from training.model.modes import Spans
from training.model.sampling import Sampling
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
    ) -> Iterator[tuple[slice, Decoded]]:
        """The answers to all prompts part by part, with the place of the part's prompts.

        Arguments are those of `training.model.decode.decode`; an intervention's rows are those of all prompts.  When
        the device runs out of memory, the budget becomes half of what did not fit, and stays so.

        Raises torch.OutOfMemoryError for a single prompt that does not fit, and when half does not fit either.
        """
        begin, halved = 0, False
        limit = _free_tokens(model) if self.max_tokens is None else self.max_tokens
        while begin < len(prompts):
            part = slice(begin, part_end(begin, limit, prompts, seeds, sampling.max_new_tokens, groups))
            first = sum(map(len, seeds[:begin]))
            answers = slice(first, first + sum(map(len, seeds[part])))
            try:
                decoded = decode(
                    model, vision, tokens, prompts[part], sampling, spans, seeds[part], groups and groups[part],
                    intervention and _shifted(intervention, first), scripts and scripts[answers],
                )  # fmt: skip
            except torch.OutOfMemoryError:
                if halved or part.stop - begin == 1:
                    raise
                decoded = None
            if decoded is None:  # here, since the exception holds the part's tensors
                size = batch_tokens(prompts[part], seeds[part], sampling.max_new_tokens)
                self.max_tokens = limit = size // 2
                halved = True
                _log.warning("out of memory with a batch of %d tokens: going on with at most %d", size, limit)
                if model.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield part, decoded
            begin = part.stop


def part_end(
    begin: int,
    limit: float,
    prompts: Sequence[Encoded],
    seeds: Sequence[Sequence[int]],
    max_new_tokens: int,
    groups: Sequence[Hashable] | None,
) -> int:
    """One past the last prompt of the part that begins here: at least one, and no group is cut that fits whole."""
    longest = answers = 0
    for end in range(begin, len(prompts)):
        longest, answers = max(longest, len(prompts[end].ids)), answers + 1 + len(seeds[end])
        if end > begin and answers * (longest + max_new_tokens) > limit:
            whole = [at for at in range(begin + 1, end + 1) if groups is None or groups[at] != groups[at - 1]]
            return max(whole, default=end)
    return len(prompts)


def batch_tokens(prompts: Sequence[Encoded], seeds: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """The tokens of a batch as `TokenBudget` counts them."""
    longest = max(len(prompt.ids) for prompt in prompts)
    return (len(prompts) + sum(map(len, seeds))) * (longest + max_new_tokens)


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


def _shifted(intervention: Intervention, first: int) -> Intervention:
    """The intervention for a part whose first row is this one of all."""
    return lambda vectors, span, slot, rows: intervention(vectors, span, slot, rows + first)
