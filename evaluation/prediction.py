"""One greedy answer to each of a few questions, with its spans and latents: for people, and for parity checks.

Benchmarks are answered by `evaluation.answer`; here all prompts are one batch, and the latents are told, too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from training.data.records import name_of, read_prompt
from training.inspection import teaching_of
from training.model.checkpoint import FutureL1
from training.model.decode import Decoded, Sampling, decode
from training.model.encoding import Encoded
from training.model.rows import RowReader
from training.model.tokens import LATENT, LATENT_END, LATENT_START

UNTAUGHT = "untaught: no span may be opened"

_PARTS = re.compile(
    rf"<reason>(?P<reason>.*?)</reason>|<answer>(?P<answer>.*?)</answer>"
    rf"|{re.escape(LATENT_START)}(?P<span>(?:{re.escape(LATENT)})*)(?:{re.escape(LATENT_END)})?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """A piece of an answer: text that was reasoned or answered or is neither, or a span (`text` is then empty)."""

    kind: Literal["reason", "answer", "text", "span"]
    text: str = ""
    latents: int = 0


def with_teaching(bundle: FutureL1, latents: int | None, system: str | None, release_cap: bool) -> FutureL1:
    """The checkpoint with the L_max and the system prompt asked for; an untaught base opens spans if L_max is given.

    Raises ValueError when the release's rule is asked for where there is no cap to double.
    """
    teaching = teaching_of(bundle, latents, system)
    if bundle.teaching is None and latents is None:
        if release_cap:
            raise ValueError("an untaught base has no cap on its spans that could be doubled: say how many latents")
        teaching = teaching.model_copy(update={"latents": 0})
    if release_cap:
        teaching = teaching.model_copy(update={"release_cap": True})
    return replace(bundle, teaching=teaching)


def predict(bundle: FutureL1, values: Sequence[Any], folder: Path, max_new_tokens: int) -> dict[str, Any]:
    """`prompts`, an entry for each value, `cap` and `cap_origin`; `bundle` is what `with_teaching` returned.

    All that can be read is decoded as one batch; an entry has `error` where a prompt cannot be read or rendered
    (docs/data-contracts.md has the fields).
    """
    teaching = bundle.teaching
    assert teaching is not None
    entries: list[dict[str, Any]] = []
    encoded: list[Encoded] = []
    reader = RowReader(bundle.encoder(teaching), keep=False)
    for number, value in enumerate(values):
        name = name_of(value, number)
        try:
            encoded.append(reader.prompt(read_prompt(value, number, folder).row))
            entries.append({"prompt": name})
        except (ValueError, OSError) as error:
            entries.append({"prompt": name, "error": f"prompt {name}: {error}; correct it, or leave it out"})
    if encoded:
        decoded = decode(
            bundle.model, bundle.vision(), bundle.tokens, encoded, Sampling(max_new_tokens), bundle.spans,
            [[0]] * len(encoded),
        )  # fmt: skip
        answered = [entry for entry in entries if "error" not in entry]
        for entry, answer in zip(answered, _answers(bundle, decoded), strict=True):
            entry |= answer
    origin = teaching.cap_origin if teaching.latents else UNTAUGHT
    return {"prompts": entries, "cap": teaching.cap, "cap_origin": origin}


def parts(text: str) -> list[Part]:
    """An answer's text in pieces, in their order; what is in no block is plain text, blank stretches are left out."""
    found: list[Part] = []
    at = 0
    for match in [*_PARTS.finditer(text), None]:
        between = text[at : match.start() if match else None].strip()
        if between:
            found.append(Part("text", between))
        if match:
            at = match.end()
            if match["span"] is not None:
                found.append(Part("span", latents=match["span"].count(LATENT)))
            else:
                kind: Literal["reason", "answer"] = "answer" if match["reason"] is None else "reason"
                found.append(Part(kind, match[kind].strip()))
    return found


def _answers(bundle: FutureL1, decoded: Decoded) -> Iterator[dict[str, Any]]:
    """The rows of a batch, each with its own ids, spans and latents."""
    tokens = bundle.tokens
    for completion in decoded.completions(tokens):
        sizes = tokens.span_sizes(completion.ids)
        starts = [place + 1 for place, token in enumerate(completion.ids) if token == tokens.latent_start]
        yield {
            "text": completion.said(tokens, bundle.processor.tokenizer),
            "ids": completion.ids,
            "spans": [[start, start + size - 1] for start, size in zip(starts, sizes, strict=True)],
            "latents_per_span": sizes,
            "latents": completion.latents.float().tolist(),
            "finished": completion.finished,
        }
