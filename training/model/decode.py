"""Batched decoding of interleaved text and latents.

Rows in text mode and rows in latent mode share one forward per step: a row that emits `<|latent_start|>` feeds its own
last hidden state back as its next input until its span ends.  A prompt is prefilled once, its cache repeated for every
answer; rows that are done leave the batch.  The randomness of an answer depends on its seed alone, not on the batch
that it is decoded in (but for rounding, which decides ties).  Names: B rows, S steps, D hidden size, V vocabulary.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from transformers import Qwen3VLForConditionalGeneration

from training.model.completions import Decoded, Record, joined
from training.model.encoding import Encoded
from training.model.interventions import Intervention
from training.model.masking import MaskedBatch, Masking
from training.model.modes import MODEL_CHOICE, ModeMachine, Spans
from training.model.prefill import prefill
from training.model.randomness import LATENTS, normal
from training.model.running_batch import RunningBatch
from training.model.sampling import Sampling, pick
from training.model.scheduler import Scheduler
from training.model.tokens import Tokens
from training.model.vision import FrozenVision

Observer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Takes what each step emits: the ids [b] of the b rows that are left, the vectors [b,D] that are fed where the id is a
latent, and the place of each row in the whole batch [b].  What it raises ends the batch."""
MIN_ROWS = 16
"""Rows that a batch keeps, done ones among them: with fewer a step costs as much, and a CPU's matrix products are
rounded otherwise."""
MIN_DONE = 1 / 8
"""The least share of the rows that leave at once: the cache of the others is copied."""


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
    masking: Masking | None = None,
    observer: Observer | None = None,
) -> Decoded:
    """An answer for each seed (63 bits) of each prompt, in their order, all in one batch.

    Arguments and errors are those of `Scheduler` and `decode_stream`.
    """
    scheduler = Scheduler(prompts, seeds, groups, sampling.max_new_tokens)
    of_prompts = decode_stream(
        model, vision, tokens, scheduler, sampling, spans, intervention, scripts, masking, observer
    )
    parts = dict(of_prompts)
    return joined([parts[number] for number in range(len(prompts))], tokens.pad)


@torch.no_grad()
def decode_stream(
    model: Qwen3VLForConditionalGeneration,
    vision: FrozenVision,
    tokens: Tokens,
    scheduler: Scheduler,
    sampling: Sampling,
    spans: Spans,
    intervention: Intervention | None = None,
    scripts: Sequence[Sequence[int]] | None = None,
    masking: Masking | None = None,
    observer: Observer | None = None,
) -> Iterator[tuple[int, Decoded]]:
    """The answers to each of the scheduler's prompts with the prompt's number, as soon as its last one is done.

    Prompts of one group may share a prefix, which is processed once; the prefix is determined by comparing the prompts.

    In latent mode the placeholder is forced until the model picks `<|latent_end|>` (at once for an empty span) or the
    budget is spent; then the end is forced.  Any other token that is picked inside a span is discarded, also an end of
    turn.  In text mode placeholders are banned, and the padding token ends the turn, as in Qwen's generation config,
    and is not recorded.  A span cut by `max_new_tokens` stays open.

    `scripts`: the first tokens of each answer, which are forced; they are not `sampled`.
    The latents of a script's spans are the model's own hidden states, and a span longer than the budget ends there; its
    `<|latent_end|>` ends a span also where spans are fixed.
    `masking`: what later tokens do not attend to.

    Raises ValueError for scripts of another number than the answers.
    """
    device, longest, groups = model.device, sampling.max_new_tokens, scheduler.groups
    seeds = torch.tensor([seed for of_prompt in scheduler.seeds for seed in of_prompt], device=device)
    script = None if scripts is None else _padded(scripts, len(seeds), device)
    machine, record = ModeMachine(tokens, spans, 0, device), Record(len(seeds), longest, tokens, device)
    embed, batch = model.get_input_embeddings(), RunningBatch(machine, record, longest)
    if masking is not None:
        batch = MaskedBatch(machine, record, longest, masking, scheduler.prompts)
    look_every = 1 if device.type == "cpu" else 16  # looking at `done` waits for the device
    admitted, step, end = scheduler.admit([]), 0, 0
    start, prefill_seconds = now(device), 0.0
    while admitted or batch.owners:
        if admitted:
            prefill_start = now(device)
            of_prompts = [scheduler.prompts[number] for number in admitted]
            prefilled = prefill(model, vision, tokens, of_prompts, groups and [groups[number] for number in admitted])
            prefill_seconds += now(device) - prefill_start
            scheduler.prefilled(admitted, prefilled.cache.get_seq_length())
            batch.join(admitted, prefilled, scheduler.answers)
            del prefilled
            admitted, end = [], step + longest
        hidden, seed = batch.prefilled.hidden, seeds[record.rows]
        picked, log_prob = pick(machine.forbid(model.lm_head(hidden).float()), sampling, seed, record.step)
        forced = None
        if script is not None:
            forced = script[record.rows, record.step.clamp(max=script.shape[1] - 1)]
            picked = torch.where(forced == MODEL_CHOICE, picked, forced)
        ids, sampled = machine.advance(picked, None if forced is None else forced == tokens.latent_end)
        if forced is not None:
            sampled = sampled & (forced == MODEL_CHOICE)
        vectors, noise = hidden, torch.zeros(len(hidden), device=device)
        if sampling.latent_std > 0:
            eps = normal(seed, LATENTS, record.step, hidden.shape[-1])
            vectors, noise = hidden + sampling.latent_std * eps.to(hidden.dtype), eps.pow(2).mean(-1)
        if intervention is not None:
            vectors = intervention(vectors, machine.span, machine.slot - 1, record.rows)
        position = batch.prefilled.position + record.step
        record.add(ids, torch.where(sampled, log_prob, 0.0), sampled, vectors, noise)
        if observer is not None:
            observer(ids, vectors, record.rows)
        machine.done = machine.done | (record.step == longest)
        step += 1
        if step == end or (step - 1) % look_every == 0:
            is_done = [True] * len(ids) if step == end else values_of(machine.done)
            live = [row for row, done in enumerate(is_done) if not done]
            if finished := batch.finish([batch.owners[row] for row in live]):
                decode_seconds = now(device) - start - prefill_seconds
                for number in finished:
                    shares = prefill_seconds / len(finished), decode_seconds / len(finished)
                    yield number, record.decoded(scheduler.answers[number], *shares)
                start, prefill_seconds = now(device), 0.0
            admitted = scheduler.admit([batch.owners[row] for row in live])
            left = live if admitted else rows_left(is_done)
            if len(left) < len(ids):
                index = batch.select(left)
                ids, vectors, position = ids[index], vectors[index], position[index]
        if batch.owners:
            latent = (ids == tokens.latent).unsqueeze(-1)
            batch.prefilled.hidden = model.model.language_model(
                inputs_embeds=torch.where(latent, vectors.to(hidden.dtype), embed(ids)).unsqueeze(1),
                attention_mask=batch.attention_mask(ids),
                position_ids=position.expand(3, -1).unsqueeze(-1),
                past_key_values=batch.prefilled.cache,
                use_cache=True,
            ).last_hidden_state[:, -1]


def values_of(done: torch.Tensor) -> list[bool]:
    """Waits for the device."""
    return done.tolist()


def rows_left(is_done: Sequence[bool]) -> list[int]:
    """The rows to go on with: all, unless enough are done to leave; none when all are done."""
    left = [row for row, done in enumerate(is_done) if not done]
    if left and len(is_done) - max(len(left), MIN_ROWS) < MIN_DONE * len(is_done):
        return list(range(len(is_done)))
    fillers = [row for row, done in enumerate(is_done) if done][: max(0, MIN_ROWS - len(left))]
    return sorted(left + fillers) if left else []


def _padded(scripts: Sequence[Sequence[int]], rows: int, device: torch.device) -> torch.Tensor:
    """The scripts of all rows, [B,P], MODEL_CHOICE behind the end of each."""
    if len(scripts) != rows:
        raise ValueError(f"each answer needs its script, if an empty one: {len(scripts)} for {rows} answers")
    width = max(map(len, scripts)) + 1
    padded = [[*script, *[MODEL_CHOICE] * (width - len(script))] for script in scripts]
    return torch.tensor(padded, device=device)


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, after the device is synchronised."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
