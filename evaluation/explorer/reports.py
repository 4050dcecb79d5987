"""What the page shows of an item and of an answer, as JSON: blocks, spans, probabilities, attention."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluation.explorer.attention import attention_shares
from evaluation.explorer.difference import Block, blocks
from evaluation.explorer.examples import Example
from evaluation.explorer.footage import observed_images
from evaluation.explorer.imagery import Imagery, data_url
from evaluation.explorer.plans import Plan, Run
from evaluation.explorer.probabilities import Joint, joints, option_probabilities
from evaluation.explorer.state import State
from evaluation.generation.segments import Segment, segments
from training.data.video import FrameCache
from training.grading.parsers import answer_text, normalised
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoded
from training.model.modes import Spans
from training.model.vision import FrozenVision


def item_report(
    example: Example, state: State, spans: Spans, imagery: Imagery, frame_cache: FrameCache
) -> dict[str, Any]:
    """The item, and what can be done with its answer."""
    return {
        "key": example.key,
        "name": example.name,
        "link": state.fragment,
        "edits": list(map(str, state.edits)),
        "frames": [data_url(pixels) for pixels in observed_images(example, frame_cache)],
        "question": example.question,
        "options": [{"letter": letter, "text": text} for letter, text in example.options.items()],
        "right": example.right_letter or example.answer,
        "future_frames": example.future_frames,
        "opens_spans": spans.opened,
        "believe": imagery.believe,
    }


def changes_report(plan: Plan) -> dict[str, Any]:
    """The changes that an answer is made with, and those of each span by its number."""
    return {"changes": [edit.label for edit in plan.edits], "marks": plan.marks}


@dataclass(frozen=True)
class AnswerReport:
    """An answer: its blocks, the pictures of each span by its number, what it chose, and the probabilities of the
    options at its joints."""

    segments: Sequence[Segment]
    blocks: Sequence[Block]
    spans: Mapping[int, dict[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def marked_against(self, other: "AnswerReport") -> "AnswerReport":
        """The same, with what the other answer does not have marked."""
        return replace(self, blocks=blocks(self.segments, other.segments))

    @property
    def nbytes(self) -> int:
        """Of its pictures and texts."""
        return len(json.dumps(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        return {"blocks": [block_json(block) for block in self.blocks], "spans": self.spans, **self.facts}


def block_json(block: Block) -> dict[str, Any]:
    return {
        "kind": block.segment.kind,
        "latents": block.segment.latents,
        "number": block.number,
        "pieces": block.pieces,
        "differs": block.differs,
    }


def answer_report(
    bundle: FutureL1, vision: FrozenVision, example: Example, imagery: Imagery, prompt: Encoded, run: Run
) -> AnswerReport:
    """The whole report on an answer to a prompt."""
    tokens, (completion,) = bundle.tokens, run.decoded.completions(bundle.tokens)
    text = completion.decoded_text(tokens, bundle.processor.tokenizer)
    parts = segments(text)
    latents = completion.latents.split(tokens.span_sizes(completion.ids))
    spans = {n: imagery.of_span(s.float().cpu().numpy()) for n, s in enumerate(latents, start=1) if len(s)}
    options = example.options or ({example.answer: example.answer} if example.answer else {})
    places = joints(completion.ids, bundle.processor.tokenizer)
    masking = run.plan.masking()
    probabilities = (
        option_probabilities(bundle, vision, prompt, completion, places, options, masking) if options else []
    )
    choice = example.choice(text) if example.options else answer_text(text)
    right = example.right_letter or example.answer
    facts = changes_report(run.plan) | {
        "finished": completion.finished,
        "choice": choice,
        "right": None if right is None else normalised(choice or "") == normalised(right),
        "seconds": run.seconds,
        "tokens": len(completion.ids),
        "attention": attention_shares(bundle, vision, prompt, completion, masking),
        "options": [{"letter": letter, "text": option} for letter, option in options.items()],
        "probabilities": [{"after": _joint_label(place, earlier), "values": values}
                          for place, earlier, values in zip(places, [None, *places], probabilities, strict=False)],
    }  # fmt: skip
    return AnswerReport(parts, blocks(parts), spans, facts)


def _joint_label(place: Joint, earlier: Joint | None) -> str:
    """What has just ended there."""
    if earlier is None:
        return "question"
    return f"span {place.spans}" if place.spans > earlier.spans else f"reason {place.reasons}"
