"""Batched decoding of interleaved text and latents.

Rows in text mode and rows in latent mode share one forward per step: a row that emits `<|latent_start|>` feeds its own
last hidden state back as its next input until its span ends.  A prompt is prefilled once, its cache repeated for every
answer; rows that are done leave the batch.  The randomness of an answer depends on its seed alone, not on the batch
that it is decoded in (but for rounding, which decides ties).  Names: B rows, S steps, D hidden size, V vocabulary.
"""

import time
from collections.abc import Callable, Hashable, Sequence

import torch
from transformers import Qwen3VLForConditionalGeneration

from training.model.completions import Decoded, Record
from training.model.encoding import Encoded
from training.model.modes import ModeMachine, Spans
from training.model.prefill import prefill
from training.model.randomness import LATENTS, normal
from training.model.sampling import Sampling, pick
from training.model.tokens import Tokens
from training.model.vision import FrozenVision

MODEL_CHOICE = -1  # in a script: no token is forced here
MIN_ROWS = 16
"""Rows that a batch keeps, done ones among them: with fewer a step costs as much, and a CPU's matrix products are
rounded otherwise."""
MIN_DONE = 1 / 8
"""The least share of the rows that leave at once: the cache of the others is copied."""

# Replaces the vectors about to be fed: (vectors [b,D], index of the span [b], of the latent in it [b], place of the row
# in the whole batch [b]) -> [b,D], for the b rows that are left; rows in text mode have -1 for the latent, and what is
# returned for them is ignored
Intervention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def decode(
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
) -> Decoded:
    """An answer for each seed (63 bits) of each prompt, in their order.

    Prompts of one group may share a prefix, which is processed once; the prefix is determined by comparing the prompts.

    In latent mode the placeholder is forced until the model picks `<|latent_end|>` (at once for an empty span) or the
    budget is spent; then the end is forced.  Any other token that is picked inside a span is discarded, also an end of
    turn.  In text mode placeholders are banned, and the padding token ends the turn, as in Qwen's generation config,
    and is not recorded.  A span cut by `max_new_tokens` stays open.

    `scripts`: the first tokens of each answer, which are forced; they are not `sampled`.
    The latents of a script's spans are the model's own hidden states, and a span longer than the budget ends there.

    Raises ValueError for a prompt without seeds, and for scripts of another number than the answers.
    """
    if len(seeds) != len(prompts) or not all(seeds):
        raise ValueError(f"each prompt needs its seeds, one an answer: {[len(s) for s in seeds]} for {len(prompts)}")
    device = model.device
    start = now(device)
    batch = prefill(model, vision, tokens, prompts, groups)
    prefill_end = now(device)
    prompt_of_row = [number for number, of_prompt in enumerate(seeds) for _ in of_prompt]
    if prompt_of_row != list(range(len(prompts))):
        batch.select(torch.tensor(prompt_of_row, device=device))
    rows, width = len(prompt_of_row), batch.cache.get_seq_length()
    bias = None if batch.mask is None else _attention_bias(batch.mask, sampling.max_new_tokens, batch.hidden.dtype)
    seed = torch.tensor([seed for of_prompt in seeds for seed in of_prompt], device=device)
    script = _padded(scripts or [()] * rows, rows, device)
    machine, record = ModeMachine(tokens, spans, rows, device), Record(rows, device)
    embed = model.get_input_embeddings()
    look_every = 1 if device.type == "cpu" else 16  # looking at `done` waits for the device
    for step in range(sampling.max_new_tokens):
        hidden = batch.hidden
        picked, log_prob = pick(machine.forbid(model.lm_head(hidden).float()), sampling, seed, step)
        scripted = step < script.shape[1]
        if scripted:
            picked = torch.where(script[:, step] == MODEL_CHOICE, picked, script[:, step])
        ids, sampled = machine.advance(picked)
        if scripted:
            sampled = sampled & (script[:, step] == MODEL_CHOICE)
        vectors, noise = hidden, torch.zeros(len(hidden), device=device)
        if sampling.latent_std > 0:
            eps = normal(seed, LATENTS, step, hidden.shape[-1])
            vectors, noise = hidden + sampling.latent_std * eps.to(hidden.dtype), eps.pow(2).mean(-1)
        if intervention is not None:
            vectors = intervention(vectors, machine.span, machine.slot - 1, record.rows)
        record.add(ids, torch.where(sampled, log_prob, 0.0), sampled, vectors, noise)
        if step == sampling.max_new_tokens - 1:
            break
        if step % look_every == 0:
            left = rows_left(machine.done)
            if not left:
                break
            if len(left) < len(ids):
                index = torch.tensor(left, device=device)
                for part in (batch, machine, record):
                    part.select(index)
                ids, vectors, seed, script = ids[index], vectors[index], seed[index], script[index]
                bias = None if bias is None else bias[index]
        latent = (ids == tokens.latent).unsqueeze(-1)
        batch.hidden = model.model.language_model(
            inputs_embeds=torch.where(latent, vectors.to(hidden.dtype), embed(ids)).unsqueeze(1),
            attention_mask=None if bias is None else bias[..., : width + step + 1],
            position_ids=(batch.position + step).expand(3, -1).unsqueeze(-1),
            past_key_values=batch.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    return record.decoded(tokens, machine.done, prefill_end - start, now(device) - prefill_end)


def rows_left(done: torch.Tensor) -> list[int]:
    """The rows to go on with: all, unless enough are done to leave; none when all are done.  Waits for the device."""
    is_done = done.tolist()
    left = [row for row, finished in enumerate(is_done) if not finished]
    if left and len(is_done) - max(len(left), MIN_ROWS) < MIN_DONE * len(is_done):
        return list(range(len(is_done)))
    fillers = [row for row, finished in enumerate(is_done) if finished][: max(0, MIN_ROWS - len(left))]
    return sorted(left + fillers) if left else []


def _attention_bias(mask: torch.Tensor, new_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """The additive attention mask [B,1,1,P+S] over the prompts' slots and those of the new tokens: minus infinity for
    padding.  transformers uses it as it is; to make one from a mask, it would wait for the device at each step."""
    bias = torch.zeros(len(mask), 1, 1, mask.shape[1] + new_tokens, dtype=dtype, device=mask.device)
    bias[:, 0, 0, : mask.shape[1]].masked_fill_(mask == 0, -torch.inf)
    return bias


def _padded(scripts: Sequence[Sequence[int]], rows: int, device: torch.device) -> torch.Tensor:
    """The scripts of all rows, [B,P], MODEL_CHOICE behind the end of each."""
    if len(scripts) != rows:
        raise ValueError(f"each answer needs its script, if an empty one: {len(scripts)} for {rows} answers")
    longest = max(map(len, scripts))
    return torch.tensor(
        [[*script, *[MODEL_CHOICE] * (longest - len(script))] for script in scripts], device=device
    ).long()


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, after the device is synchronised."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
