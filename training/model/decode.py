"""Batched decoding of interleaved text and latents.

Rows in text mode and rows in latent mode share one forward per step: a row that emits `<|latent_start|>` feeds its own
last hidden state back as its next input until its span ends.  A prompt is prefilled once, its cache repeated for every
answer.  The randomness of an answer depends on its seed alone, not on the batch that it is decoded in (but for
rounding, which decides ties).  Names: B rows, S steps, D hidden size, V vocabulary.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import Qwen3VLForConditionalGeneration

from training.model.encoding import Encoded
from training.model.prefill import prefill
from training.model.randomness import LATENTS, TOKENS, normal, uniform
from training.model.tokens import Tokens
from training.model.vision import FrozenVision

BANNED_LOGIT = -1e9
MODEL_CHOICE = -1  # in a script: no token is forced here

# Replaces the vectors about to be fed: (vectors [B,D], index of the span [B], of the latent in it [B]) -> [B,D];
# rows in text mode have -1 for the latent, and what is returned for them is ignored
Intervention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Sampling:
    """Sampling of tokens and latents; temperature 0 is greedy.  `latent_std`: sigma of the Gaussian around the
    hidden state.

    Raises ValueError for values out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    latent_std: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.latent_std < 0:
            wanted = "max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1 and latent_std >= 0"
            raise ValueError(f"sampling needs {wanted}; found {self}")


@dataclass(frozen=True)
class Spans:
    """The latent budget of a span, whether the model or the budget ends it, and whether the model may open one.

    `may_open`: None allows the model to open spans where the budget is above 0; True with a budget of 0 allows spans
    that close at once; False allows no spans but those of a script.
    """

    latents: int
    end: Literal["model", "fixed"]
    may_open: bool | None = None

    @property
    def opened(self) -> bool:
        """Whether the model may open spans."""
        return self.latents > 0 if self.may_open is None else self.may_open


@dataclass(frozen=True)
class Completion:
    """One answer without padding: ids, log_probs [T], sampled [T], latents [n,D], noise [n], finished (see Decoded)."""

    ids: list[int]
    log_probs: torch.Tensor
    sampled: torch.Tensor
    latents: torch.Tensor
    noise: torch.Tensor
    finished: bool

    def decoded_text(self, tokens: Tokens, tokenizer: Any) -> str:
        """The text with its special tokens, without the end of the turn."""
        ids = tokens.without_end(self.ids)
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@dataclass(frozen=True)
class Decoded:
    """Answers of B rows, right-padded with the pad token.

    ids, log_probs, sampled (neither padding nor forced) [B,S]; latents [n,D] as they were
    fed, in row-major order of `ids == latent`; latent_noise [n]: mean square of (latent - hidden state) / sigma, zero
    for deterministic latents; finished [B]: ended the turn by itself.  The seconds are those of the whole batch.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    sampled: torch.Tensor
    latents: torch.Tensor
    latent_noise: torch.Tensor
    finished: torch.Tensor
    prefill_seconds: float
    decode_seconds: float

    def completions(self, tokens: Tokens) -> Iterator[Completion]:
        """The rows one by one; nothing is copied."""
        counts = (self.ids == tokens.latent).sum(1).tolist()
        lengths = (self.ids != tokens.pad).sum(1).tolist()
        latents, noise = self.latents.split(counts), self.latent_noise.split(counts)
        for row, (ids, n) in enumerate(zip(self.ids.tolist(), lengths, strict=True)):
            yield Completion(ids[:n], self.log_probs[row, :n], self.sampled[row, :n], latents[row], noise[row],
                             bool(self.finished[row]))  # fmt: skip


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
    prefilled = prefill(model, vision, tokens, prompts, groups)
    prefill_end = now(device)
    prefilled.select([number for number, of_prompt in enumerate(seeds) for _ in of_prompt])
    hidden, position, mask, cache = prefilled.hidden, prefilled.position, prefilled.mask, prefilled.cache
    seed = torch.tensor([seed for of_prompt in seeds for seed in of_prompt], device=device)
    machine = _ModeMachine(tokens, spans, len(hidden), device)
    script = _padded(scripts or [()] * len(hidden), len(hidden), device)
    embed = model.get_input_embeddings()
    finish_every = 1 if device.type == "cpu" else 16  # looking at `done` waits for the device
    out_ids, out_logp, out_sampled, out_fed, out_noise = [], [], [], [], []
    for step in range(sampling.max_new_tokens):
        logits = model.lm_head(hidden).float()
        picked, log_prob = _pick(machine.forbid(logits), sampling, seed, step)
        scripted = step < script.shape[1]
        if scripted:
            picked = torch.where(script[:, step] == MODEL_CHOICE, picked, script[:, step])
        ids, sampled = machine.advance(picked)
        if scripted:
            sampled = sampled & (script[:, step] == MODEL_CHOICE)
        latent = (ids == tokens.latent).unsqueeze(-1)
        vectors, noise = hidden, torch.zeros(len(hidden), device=device)
        if sampling.latent_std > 0:
            eps = normal(seed, LATENTS, step, hidden.shape[-1])
            vectors, noise = hidden + sampling.latent_std * eps.to(hidden.dtype), eps.pow(2).mean(-1)
        if intervention is not None:
            vectors = intervention(vectors, machine.span, machine.slot - 1)
        out_ids.append(ids)
        out_logp.append(torch.where(sampled, log_prob, 0.0))
        out_sampled.append(sampled)
        out_fed.append(vectors)
        out_noise.append(noise)
        last = step == sampling.max_new_tokens - 1
        if last or (step % finish_every == 0 and bool(machine.done.all())):
            break
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        hidden = model.model.language_model(
            inputs_embeds=torch.where(latent, vectors.to(hidden.dtype), embed(ids)).unsqueeze(1),
            attention_mask=mask,
            position_ids=(position + step).expand(3, -1).unsqueeze(-1),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    ids = torch.stack(out_ids, 1)
    latent = ids == tokens.latent
    return Decoded(
        ids=ids,
        log_probs=torch.stack(out_logp, 1),
        sampled=torch.stack(out_sampled, 1),
        latents=torch.stack(out_fed, 1)[latent],
        latent_noise=torch.stack(out_noise, 1)[latent],
        finished=machine.done,
        prefill_seconds=prefill_end - start,
        decode_seconds=now(device) - prefill_end,
    )


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


def _pick(
    logits: torch.Tensor, sampling: Sampling, seeds: torch.Tensor, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token [B] and its log-probability under the tempered distribution (before the top-p cut).

    Sampled by inverting the distribution over the vocabulary in its own order (sorted by probability, rounding could
    exchange two tokens), in whole steps of 2**-40, whose sums are exact: a token of probability 0 is never met.
    """
    if sampling.temperature == 0:
        log_probs = logits.log_softmax(-1)
        picked = logits.argmax(-1)
    else:
        log_probs = (logits / sampling.temperature).log_softmax(-1)
        probs = log_probs.exp()
        if sampling.top_p < 1:
            ordered, index = probs.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the first token is always kept
            probs = torch.zeros_like(probs).scatter(-1, index, ordered.masked_fill(beyond, 0.0))
        reached = (probs * 2.0**40).long().cumsum(-1)
        threshold = (uniform(seeds, TOKENS, step, 1) * reached[:, -1:]).long()
        picked = torch.searchsorted(reached, threshold, right=True)[:, 0]
    return picked, log_probs.gather(-1, picked.unsqueeze(-1))[:, 0]


def banned(logits: torch.Tensor, tokens: Tokens, in_span: torch.Tensor, spans: bool = True) -> torch.Tensor:
    """Logits [n,V] after the decoder's bans: no placeholders, except `<|latent|>` inside a span (in_span [n]).

    Without `spans` the markers of spans are banned, too.
    """
    logits = logits.clone()
    latent = logits[:, tokens.latent].where(in_span, BANNED_LOGIT)
    logits[:, list(tokens.placeholders)] = BANNED_LOGIT
    logits[:, tokens.latent] = latent
    if not spans:
        logits[:, [tokens.latent_start, tokens.latent_end]] = BANNED_LOGIT
    return logits


class _ModeMachine:
    """The mode of each row: text, in a span, or done.

    slot [B]: 0 outside and at the start of a span, else how many of its latents have been fed; span [B]: index of the
    current or last span, -1 before the first; open [B]: `<|latent_start|>` was emitted, the end not yet; done [B].
    """

    def __init__(self, tokens: Tokens, spans: Spans, rows: int, device: torch.device) -> None:
        self.tokens, self.spans = tokens, spans
        self.slot = torch.zeros(rows, dtype=torch.long, device=device)
        self.span = torch.full((rows,), -1, device=device)
        self.open = torch.zeros(rows, dtype=torch.bool, device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)

    def forbid(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B,V] after the bans; inside a span the model may continue it or end it."""
        return banned(logits, self.tokens, self.open, self.spans.opened)

    def advance(self, picked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that are really emitted [B], and which of them were the model's own choice [B]."""
        t = self.tokens
        wants_out = self.open & (picked == t.latent_end) & (self.spans.end == "model")
        closing = wants_out | (self.open & (self.slot >= self.spans.latents))
        feeding = self.open & ~closing
        text = ~self.open & ~self.done
        ids = torch.where(feeding, t.latent, torch.where(closing, t.latent_end, picked))
        ids = torch.where(self.done, t.pad, ids)
        entering = text & (ids == t.latent_start)
        self.slot = torch.where(feeding, self.slot + 1, 0)
        self.span = self.span + entering.long()
        self.open = feeding | entering
        self.done = self.done | (text & ((ids == t.end_of_turn) | (ids == t.pad)))
        return ids, text | wants_out
