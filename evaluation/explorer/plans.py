"""From an edit to one decoding: what is forced, what is fed in the latents' place, and whether spans may open.

What stands before the edited span stays as it is, and the answer goes on from there.  The replacements and the forced
spans are those of the reports (evaluation.generation.interventions, training.model.interventions).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from evaluation.explorer.state import EDIT_LABELS, Edit, EditKind
from evaluation.generation.interventions import forced_spans
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.interventions import Intervention, noise, replayed, zeros
from training.model.masking import Masking
from training.model.tokens import Tokens

REPLACEMENTS: frozenset[EditKind] = frozenset(("zeros", "noise", "other_item", "future", "cut"))
"""Edits of what a span holds."""


@dataclass(frozen=True)
class Plan:
    """script: the first tokens, which are forced; replaced: the interventions by index of their span; closed_from: the
    index of the span from which none opens that is not forced; grey: the prompt's frames are grey; hidden_after: the
    index of the span after which no token attends to them; edits: those that made it and were not taken back by a later
    one, an added span with its number."""

    script: tuple[int, ...] = ()
    replaced: Mapping[int, Intervention] = field(default_factory=dict)
    closed_from: int | None = None
    grey: bool = False
    hidden_after: int | None = None
    edits: tuple[Edit, ...] = ()

    def until(self, index: int) -> "Plan":
        """Without what it changes at the spans after this one, and without what it feeds in this one."""
        replaced = {number: fed for number, fed in self.replaced.items() if number < index}
        closed, hidden = (None if at is None or at > index else at for at in (self.closed_from, self.hidden_after))
        return replace(self, replaced=replaced, closed_from=closed, hidden_after=hidden)

    @property
    def marks(self) -> dict[int, str]:
        """What is changed at each span, by its number."""
        spans = dict.fromkeys(edit.span for edit in self.edits if edit.span)
        return {span: "; ".join(EDIT_LABELS[edit.kind] for edit in self.edits if edit.span == span) for span in spans}

    @property
    def may_open(self) -> bool | None:
        """As in `Spans`."""
        return None if self.closed_from is None else False

    def intervention(self) -> Intervention | None:
        """Each replaced span's latents by its own intervention; the others are the model's."""
        if not self.replaced:
            return None

        def apply(vectors: torch.Tensor, span: torch.Tensor, slot: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            for number, intervention in self.replaced.items():
                fed = intervention(vectors, span, slot, rows)
                vectors = torch.where((span == number).unsqueeze(-1), fed.to(vectors.dtype), vectors)
            return vectors

        return apply

    def masking(self) -> Masking | None:
        """What later tokens do not attend to."""
        return None if self.hidden_after is None else Masking("frames", self.hidden_after + 1)


@dataclass(frozen=True)
class Run:
    """An answer as it was decoded, by its plan."""

    plan: Plan
    decoded: Decoded
    seconds: float

    @property
    def nbytes(self) -> int:
        """Of its latents, and of those that it was lent, which are as many."""
        return 2 * self.decoded.latents.nbytes + self.decoded.ids.nbytes


@dataclass(frozen=True)
class Lenders:
    """Where replaced latents come from: [n,D] of another item's span or of the true future frame for a span's index,
    asked for only when they are needed; both raise ValueError where there are none.  seed: of noise."""

    other_item: Callable[[int], torch.Tensor]
    future: Callable[[int], torch.Tensor]
    seed: int


def span_places(ids: Sequence[int], tokens: Tokens) -> list[tuple[int, int]]:
    """Of each span of an answer the place of its start token, and the one behind its end (or its last token)."""
    places, inside = [], tokens.inside_span(ids)
    for at, token in enumerate(ids):
        if token == tokens.latent_start and not inside[at]:
            end = next((t for t in range(at + 1, len(ids)) if ids[t] == tokens.latent_end), len(ids) - 1)
            places.append((at, end + 1))
    return places


def plan_of(edit: Edit, before: Plan, decoded: Decoded, bundle: FutureL1, lenders: Lenders) -> Plan:
    """The plan of the answer `decoded` (one row, made by the plan `before`) after an edit.

    Raises ValueError, a sentence for people, for a span that the answer does not have, and as `lenders` do.
    """
    tokens, (completion,) = bundle.tokens, decoded.completions(bundle.tokens)
    ids, spans = completion.ids, bundle.spans
    if edit.kind == "no_frames":
        return Plan(grey=True, edits=(edit,))
    if not spans.opened:
        raise ValueError("this checkpoint opens no spans, so there is none to change or to add")
    places = span_places(ids, tokens)
    if edit.kind == "add":
        script = forced_spans(decoded, tokens, bundle.processor.tokenizer, len(places) + 1, spans.latents)[0]
        edits = (*before.edits, Edit("add", len(places) + 1))
        return replace(before, script=tuple(script), closed_from=len(places), edits=edits)
    if edit.span > len(places):
        has = f"{len(places)} spans" if len(places) != 1 else "one span"
        raise ValueError(f"the answer has {has}, and no span {edit.span}: choose another edit")
    index, (start, end) = edit.span - 1, places[edit.span - 1]
    edits = (*(earlier for earlier in before.edits if not _takes_back(edit, earlier)), edit)
    plan = replace(before.until(index), edits=edits)
    match edit.kind:
        case "forbid":
            hidden = None if plan.hidden_after == index else plan.hidden_after
            return replace(plan, script=tuple(ids[:start]), closed_from=index, hidden_after=hidden)
        case "cut":
            return replace(plan, script=(*ids[: start + 1], tokens.latent_end))
        case "hide":
            kept = {number: fed for number, fed in before.replaced.items() if number <= index}
            return replace(plan, script=tuple(ids[:end]), replaced=kept, hidden_after=index)
    size = end - start - 2 if ids[end - 1] == tokens.latent_end else end - start - 1
    fed, size = _fed(edit, index, size, lenders, bundle.model.device)
    span = (tokens.latent_start, *[tokens.latent] * size, tokens.latent_end)
    return replace(plan, script=(*ids[:start], *span), replaced={**plan.replaced, index: fed})


def _takes_back(edit: Edit, earlier: Edit) -> bool:
    """Whether an edit of a span takes back one before it: frames are hidden after one span alone, and at the same span
    the last replacement counts, and none where spans are forbidden from it on."""
    if edit.kind == earlier.kind == "hide" or earlier.span > edit.span:
        return True
    return earlier.span == edit.span and (edit.kind == "forbid" or {edit.kind, earlier.kind} <= REPLACEMENTS)


def _fed(edit: Edit, index: int, size: int, lenders: Lenders, device: Any) -> tuple[Intervention, int]:
    """What is fed in a span of `size` latents, and how many latents it has then."""
    if edit.kind in ("zeros", "noise") and not size:
        raise ValueError(f"span {edit.span} is empty, so there are no latents to replace: undo that first, or take "
                         "another item's or the true future's, which bring their own")  # fmt: skip
    if edit.kind == "zeros":
        return zeros(), size
    if edit.kind == "noise":
        return noise(torch.tensor([lenders.seed], device=device)), size
    latents = lenders.future(index) if edit.kind == "future" else lenders.other_item(index)
    return replayed([latents.to(device)]), len(latents)
