"""Interventions: replacements of a model's own latents while it answers, which measure whether the answer needs them.

Most replace the vectors that are fed (zeros, noise, mean, another item's, the span's first); `markers_only` lets spans
open that close at once, `no_span` lets none open, and `spans_k` forces exactly k (`forced_spans` says where).
`kept_k` puts noise in the place of all latents of a span but the first k, `added_noise_k` adds noise of k per cent of
their norm; `masked_frames` and `masked_spans` hide frames or spans from what follows a span.  Prompt, seeds and
sampling stay the same.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from evaluation.generation.jobs import InterventionName, MediationName
from evaluation.generation.requests import Request
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.interventions import Intervention, added_noise, constant, first_repeated, noise, zeros
from training.model.masking import Masking
from training.model.modes import Spans
from training.model.tokens import Tokens

NONE = -1  # an answer without a donor


class Draw(Protocol):
    """The answers of one batch, decoded again under an intervention; without arguments, the model's own."""

    def __call__(
        self,
        intervention: Intervention | None = None,
        spans: Spans | None = None,
        scripts: Sequence[Sequence[int]] | None = None,
        masking: Masking | None = None,
    ) -> Decoded: ...


def intervene(
    name: InterventionName | MediationName, bundle: FutureL1, draw: Draw, requests: Sequence[Request],
    mean: torch.Tensor | None, draw_original: Draw | None = None,
) -> tuple[Decoded, dict[str, str]]:  # fmt: skip
    """The answers of a batch under an intervention, and the prompts to which it cannot be applied, with the reason.

    `draw_original` decodes the same prompts without their control, for mediation; an answer without spans lends
    nothing, and the other one keeps its own latents.

    Raises ValueError for forced spans of a checkpoint that opens none, and for prompts without a reference where donors
    depend on it.
    """
    tokens, spans = bundle.tokens, bundle.spans
    seeds = torch.tensor([seed for request in requests for seed in request.seeds], device=bundle.model.device)
    match name:
        case "none":
            return draw(), {}
        case "zeros":
            return draw(zeros()), {}
        case "noise":
            return draw(noise(seeds)), {}
        case "kept_1" | "kept_2" | "kept_3":
            return draw(noise(seeds, int(name.removeprefix("kept_")))), {}
        case "added_noise_25" | "added_noise_50" | "added_noise_100" | "added_noise_200":
            return draw(added_noise(seeds, int(name.removeprefix("added_noise_")) / 100)), {}
        case "masked_frames" | "masked_spans":
            return draw(masking=Masking("frames" if name == "masked_frames" else "spans")), {}
        case "mean":
            assert mean is not None, "the backend reads it before it answers"
            return draw(constant(mean)), {}
        case "first_repeated":
            return draw(first_repeated(len(seeds))), {}
        case "other_item" | "same_answer" | "other_answer":
            return _borrowed(name, draw, requests, tokens, spans.latents)
        case "original_latents" | "changed_latents":
            assert draw_original is not None, "the backend has the prompts without their control, too"
            lender, borrower = (draw_original, draw) if name == "original_latents" else (draw, draw_original)
            plain = lender()
            used = (plain.ids == tokens.latent).any(1).tolist()
            lenders = [row if has else NONE for row, has in enumerate(used)]
            return borrower(lent(plain, tokens.latent, spans.latents, lenders)), {}
        case "no_span":
            return draw(spans=Spans(0, spans.end)), {}
    if not spans.opened:
        raise ValueError(f"intervention {name!r} needs a checkpoint with latent spans: this one opens none")
    if name == "markers_only":
        return draw(spans=Spans(0, spans.end, may_open=True)), {}
    scripts = forced_spans(draw(), tokens, bundle.processor.tokenizer, int(name.removeprefix("spans_")), spans.latents)
    return draw(spans=replace(spans, may_open=False), scripts=scripts), {}


def read_mean(path: Path, width: int, device: torch.device) -> torch.Tensor:
    """The tensor `mean` [width] of a safetensors file, on the device.  Raises ValueError where it is not there."""
    tensors = load_file(path, device=str(device))
    if "mean" not in tensors or tensors["mean"].shape != (width,):
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"{path}: the model needs a tensor `mean` of [{width}]; found {shapes}")
    return tensors["mean"]


def _borrowed(
    name: InterventionName | MediationName, draw: Draw, requests: Sequence[Request], tokens: Tokens, budget: int
) -> tuple[Decoded, dict[str, str]]:
    """Other items' latents."""
    check_references(name, requests)
    plain = draw()
    donor_of, alone = lenders(name, requests, (plain.ids == tokens.latent).any(1).tolist())
    return draw(lent(plain, tokens.latent, budget, donor_of)), alone


def check_references(name: InterventionName | MediationName, requests: Sequence[Request]) -> None:
    """Raises ValueError for prompts without a reference, where donors depend on it."""
    without = [request.prompt_id for request in requests if request.reference is None]
    if name != "other_item" and without:
        raise ValueError(f"intervention {name!r} needs the column `reference`; prompt {without[0]!r} has none")


def lenders(
    name: InterventionName | MediationName, requests: Sequence[Request], used: Sequence[bool]
) -> tuple[list[int], dict[str, str]]:
    """The donor of each answer of a batch, as `donors` has it, and the prompts that are not answered, with the reason:
    one of their answers has latents (`used`) and finds no donor."""
    owners = [request for request in requests for _ in request.samples]
    donor_of = donors(name, owners, used)
    alone = {
        owner.prompt_id: f"{name}: no other item of its batch of {len(requests)} can lend it latents"
        for owner, has, donor in zip(owners, used, donor_of, strict=True)
        if has and donor == NONE
    }
    return donor_of, alone


def donors(name: InterventionName | MediationName, owners: Sequence[Request], used: Sequence[bool]) -> list[int]:
    """The donor of each answer of a batch: the number of the next answer that may lend it latents, else NONE.

    A donor used latents itself and is about another item: any (`other_item`), or one with the same or another
    reference.  So an answer's donor depends on the batch that it is decoded in.
    """

    def lends(donor: Request, owner: Request) -> bool:
        if donor.group == owner.group:
            return False
        return name == "other_item" or (donor.reference == owner.reference) == (name == "same_answer")

    n = len(owners)
    able = [number for number in range(n) if used[number]]
    lenders = []
    for row, owner in enumerate(owners):
        after = bisect_right(able, row)
        others = (number for number in able[after:] + able[:after] if lends(owners[number], owner))
        lenders.append(next(others, NONE))
    return lenders


def lent(plain: Decoded, latent_id: int, budget: int, lenders: Sequence[int]) -> Intervention:
    """The latents of each answer's donor at the same span and place; an answer without a donor keeps its own.

    `plain` are the same rows' answers with their own latents.  A donor with fewer spans lends its last one, a shorter
    span its last latent.
    """
    is_latent = plain.ids == latent_id
    starts = is_latent & ~is_latent.roll(1, 1)
    span_of = starts.long().cumsum(1)[is_latent] - 1  # of each latent in plain.latents
    row_of = is_latent.nonzero()[:, 0]
    counts = starts.sum(1)
    width = plain.latents.shape[-1]
    store = plain.latents.new_zeros(len(plain.ids), max(1, int(counts.max())), max(1, budget), width)
    first = is_latent.long().cumsum(1) - 1
    place = first[is_latent] - (first.masked_fill(~starts, -1).cummax(1).values)[is_latent]
    store[row_of, span_of, place] = plain.latents
    lengths = store.new_zeros(store.shape[:2], dtype=torch.long)
    lengths.index_put_((row_of, span_of), torch.ones_like(row_of), accumulate=True)
    donor = torch.tensor(lenders, device=plain.ids.device)
    has_donor, donor = (donor != NONE).unsqueeze(-1), donor.clamp(min=0)

    def replaced(vectors: torch.Tensor, span: torch.Tensor, slot: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        lender = donor[rows]
        which = torch.minimum(span, counts[lender] - 1).clamp(min=0)
        at = torch.minimum(slot, lengths[lender, which] - 1).clamp(min=0)
        return torch.where(has_donor[rows], store[lender, which, at].to(vectors.dtype), vectors)

    return replaced


def forced_spans(plain: Decoded, tokens: Tokens, tokenizer: Any, wanted: int, budget: int) -> list[list[int]]:
    """The forced first tokens of each answer, with `wanted` spans; the rest of the answer may open none.

    They are the answer's own first tokens up to the end of its `wanted`-th span.  Where it has fewer spans, they are
    everything before its `<answer>` tag (without a tag: up to its last span) and then the missing spans, each on a line
    of its own, as SFT renders a frame without text before it, and as long as the answer's last span (the budget, if it
    has none).
    """
    return [forced_script(answer.ids, tokens, tokenizer, wanted, budget) for answer in plain.completions(tokens)]


def forced_script(ids: list[int], tokens: Tokens, tokenizer: Any, wanted: int, budget: int) -> list[int]:
    """Those of one answer, whose tokens are `ids`."""
    inside = tokens.inside_span(ids)
    ends = [at + 1 for at, token in enumerate(ids) if inside[at] and token == tokens.latent_end]
    if len(ends) >= wanted:
        return ids[: ends[wanted - 1]]
    newline = tokenizer.encode("\n", add_special_tokens=False)
    begun = ids[: max([_before_answer(ids, tokenizer), *ends])]
    size = tokens.span_sizes(begun)[-1] if ends else 0
    span = [tokens.latent_start, *[tokens.latent] * (size or budget), tokens.latent_end, *newline]
    return begun + span * (wanted - len(ends))


def _before_answer(ids: Sequence[int], tokenizer: Any) -> int:
    """The number of an answer's tokens before its first `<answer>` tag; 0 without one."""

    def decoded(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    at = decoded(len(ids)).find("<answer>")
    if at <= 0:
        return 0
    return bisect_right(range(len(ids) + 1), at, key=lambda count: len(decoded(count))) - 1
