"""One greedy answer to each of a few questions, with its spans and latents: for people, and for parity checks.

Benchmarks are answered by `evaluation.generate`; here all prompts are one batch, and the entries hold the latents.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.data.records import name_of, read_prompt
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import decode
from training.model.encoding import Encoded
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.sft.inspection import latent_config_of

NO_LATENTS = "a base model: no span may be opened"


def with_latent_config(bundle: FutureL1, latents: int | None, system: str | None, release_cap: bool) -> FutureL1:
    """The checkpoint with the given L_max and system prompt; a base model opens spans if L_max is given.

    Raises ValueError for the release's rule where there is no cap to double.
    """
    latent_config = latent_config_of(bundle, latents, system)
    if bundle.latent_config is None and latents is None:
        if release_cap:
            raise ValueError("a base model has no cap on its spans that could be doubled: say how many latents")
        latent_config = latent_config.model_copy(update={"max_latents": 0})
    if release_cap:
        latent_config = latent_config.model_copy(update={"release_cap": True})
    return replace(bundle, latent_config=latent_config)


def predict(bundle: FutureL1, values: Sequence[Any], folder: Path, max_new_tokens: int) -> dict[str, Any]:
    """`prompts`, an entry for each value, `cap` and `cap_origin`; `bundle` is what `with_latent_config` returned.

    All that can be read is decoded as one batch; an entry has `error` where a prompt cannot be read or rendered
    (docs/data-contracts.md has the fields).
    """
    latent_config = bundle.latent_config
    assert latent_config is not None
    entries: list[dict[str, Any]] = []
    encoded: list[Encoded] = []
    reader = RowReader(bundle.encoder(latent_config), keep=False)
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
    origin = latent_config.cap_origin if latent_config.max_latents else NO_LATENTS
    return {"prompts": entries, "cap": latent_config.cap, "cap_origin": origin}


def _answers(bundle: FutureL1, decoded: Decoded) -> Iterator[dict[str, Any]]:
    """The rows of a batch, each with its own ids, spans and latents."""
    tokens = bundle.tokens
    for completion in decoded.completions(tokens):
        sizes = tokens.span_sizes(completion.ids)
        starts = [place + 1 for place, token in enumerate(completion.ids) if token == tokens.latent_start]
        yield {
            "text": completion.decoded_text(tokens, bundle.processor.tokenizer),
            "ids": completion.ids,
            "spans": [[start, start + size - 1] for start, size in zip(starts, sizes, strict=True)],
            "latents_per_span": sizes,
            "latents": completion.latents.float().tolist(),
            "finished": completion.finished,
        }
