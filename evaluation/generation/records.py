"""The record of an answer: its columns, from its tokens and latents."""

from collections.abc import Sequence

import torch

from evaluation.generation.requests import Answer
from training.model.tokens import Tokens


def answer_record(
    prompt_id: str,
    sample: int,
    ids: Sequence[int],
    text: str,
    tokens: Tokens,
    *,
    finished: bool,
    prompt_tokens: int,
    prefill_seconds: float,
    decode_seconds: float,
) -> Answer:
    """The columns of an answer but for its latents; ids: its tokens, without padding."""
    latents, control = ids.count(tokens.latent), sum(token in tokens.control for token in ids)
    return {
        "prompt_id": prompt_id,
        "sample": sample,
        "text": text,
        "tokens": list(ids),
        "text_tokens": len(ids) - latents - control,
        "latent_tokens": latents,
        "control_tokens": control,
        "spans": tokens.span_sizes(ids),
        "finished": finished,
        "prompt_tokens": prompt_tokens,
        "prefill_seconds": prefill_seconds,
        "decode_seconds": decode_seconds,
    }


def stored_latents(prompt_id: str, latents: torch.Tensor) -> bytes | None:
    """Latents [n,D] as the column `latents` holds them (float16, little-endian, row-major); None where there are none.

    Raises ValueError for values that float16 does not hold.
    """
    if not len(latents):
        return None
    small = latents.to("cpu", torch.float16)
    if not bool(small.isfinite().all()):
        raise ValueError(f"latents of {prompt_id!r} are not finite in float16: largest {latents.abs().max():.3g}")
    return small.numpy().astype("<f2").tobytes()
