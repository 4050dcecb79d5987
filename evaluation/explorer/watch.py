"""The observer of one answer that is being decoded: it tells the page of every token."""

from typing import Any

import torch

from evaluation.explorer.difference import blocks
from evaluation.explorer.events import Emit
from evaluation.explorer.imagery import Imagery
from evaluation.explorer.reports import AnswerReport, block_json
from evaluation.generation.segments import segments
from training.model.checkpoint import FutureL1


class Watch:
    """The decoder's observer of one answer: emits its last blocks as they grow, and each span when it has closed."""

    def __init__(self, bundle: FutureL1, imagery: Imagery, before: AnswerReport | None, emit: Emit) -> None:
        self._tokens, self._tokenizer = bundle.tokens, bundle.processor.tokenizer
        self._imagery, self._before, self._emit = imagery, before, emit
        self._ids: list[int] = []
        self._latents: list[torch.Tensor] = []
        self._blocks: list[dict[str, Any]] = []
        self._closed = 0

    def __call__(self, ids: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor) -> None:
        place = rows.tolist().index(0)
        token = int(ids[place])
        if token == self._tokens.pad or self._ids[-1:] == [self._tokens.end_of_turn]:
            return
        self._ids.append(token)
        if token == self._tokens.latent:
            self._latents.append(vectors[place])
        self._emit_blocks()
        if token == self._tokens.latent_end:
            self._closed += 1
            if self._latents:
                latents = torch.stack(self._latents).float().cpu().numpy()
                self._emit({"event": "span", "number": self._closed, **self._imagery.of_span(latents)})
            self._latents = []

    def _emit_blocks(self) -> None:
        ids = self._tokens.without_end(self._ids)
        text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        other = None if self._before is None else self._before.segments
        grown = [block_json(block) for block in blocks(segments(_completed(text)), other)]
        same = next((n for n, (a, b) in enumerate(zip(grown, self._blocks, strict=False)) if a != b),
                    min(len(grown), len(self._blocks)))  # fmt: skip
        self._blocks = grown
        self._emit({"event": "blocks", "from": same, "blocks": grown[same:]})


def _completed(text: str) -> str:
    """The text of an answer that still grows, with the block that is open closed, and without half a tag."""
    text = text[: text.rindex("<")] if "<" in text[-10:] and ">" not in text[text.rindex("<") :] else text
    for kind in ("reason", "answer"):
        if text.rfind(f"<{kind}>") > text.rfind(f"</{kind}>"):
            return f"{text}</{kind}>"
    return text
