"""Verification of a saved checkpoint: it is loaded with plain transformers, decodes an answer, and reads a dialogue
with teacher-forced latents."""

import gc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.model.checkpoint import FutureL1, load
from training.model.decode import decode
from training.model.encoding import Encoded, collate
from training.model.rows import SKIPPED, Row, RowReader, Rows
from training.model.sampling import Sampling
from training.model.splice import inputs_of, spliced_forward
from training.model.vision import FrozenVision
from training.runtime.programs import CHECKPOINT, Reporter, is_first
from training.storage.files import AppendLog

MAX_NEW_TOKENS = 256
"""The cap on an answer to a question without a reference dialogue."""


def verify(
    out: Path, rows: Sequence[Row], device: torch.device, dtype: torch.dtype, reporter: Reporter
) -> dict[str, Any]:
    """Verifies the checkpoint in a program's folder on the first readable row; also counts the rows that are not
    readable.

    Runs in the first process; {} in the others.  One model is in memory at a time: the trainer's must be freed.
    """
    if not is_first():
        return {}
    reporter.log("opening the saved checkpoint")
    _free_memory(device)
    skipped = out / SKIPPED
    facts = _plain_transformers(out / CHECKPOINT, dtype)
    _free_memory(device)
    bundle = load(out / CHECKPOINT, device, dtype)
    assert bundle.latent_config is not None, out
    row, prompt, dialogue = _first_usable(rows, RowReader(bundle.encoder(bundle.latent_config), keep=False), skipped)
    tokens = 2 * (len(dialogue.ids) - len(prompt.ids)) if dialogue else MAX_NEW_TOKENS
    vision = bundle.vision()
    facts |= {"row_id": row["row_id"]}
    facts |= _decoded(bundle, vision, prompt, tokens) | _teacher_forced(bundle, vision, dialogue or prompt)
    return {"skipped": len(skipped_ids(skipped)), "verified": facts}


def skipped_ids(skipped: Path) -> set[str]:
    """The ids of all rows that were skipped; what other machines of the training recorded is moved to `skipped`."""
    log = AppendLog(skipped)
    for other in skipped.parent.glob(f"{skipped.stem}.*{skipped.suffix}"):
        for record in AppendLog(other).records():
            log.append(record)
        other.unlink()
    return {record["row_id"] for record in log.records()}


def _first_usable(rows: Sequence[Row], reader: RowReader, skipped: Path) -> tuple[Row, Encoded, Encoded | None]:
    """The first usable row with future frames, its prompt and its dialogue.

    Where there is none the first usable row, and no dialogue: multiple-choice rows of RL have nothing to imagine.
    """
    if with_future := [row for row in rows if row["future"]]:
        usable = Rows(with_future, reader, skipped)
        with suppress(ValueError):  # none can be used
            dialogue = usable.dialogue(0, spans=True)
            return *usable.prompt(0), dialogue  # of the same row: what is no dialogue is passed over here, too
    return *Rows(rows, reader, skipped).prompt(0), None


def _free_memory(device: torch.device) -> None:
    gc.collect()  # a trainer and its model refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _plain_transformers(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The classes that plain transformers loads it as, and missing and unexpected weights; no code of ours."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model, loading = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
    )
    return {
        "plain_class": type(model).__name__,
        "plain_processor": type(processor).__name__,
        "weights_missing": sorted(loading["missing_keys"]),
        "weights_unknown": sorted(loading["unexpected_keys"]),
    }


def _decoded(bundle: FutureL1, vision: FrozenVision, prompt: Encoded, tokens: int) -> dict[str, Any]:
    """The greedy answer to a prompt, of so many tokens at most."""
    sampling = Sampling(max_new_tokens=max(1, tokens))
    decoded = decode(bundle.model, vision, bundle.tokens, [prompt], sampling, bundle.spans, [[0]])
    (completion,) = decoded.completions(bundle.tokens)
    return {
        "decoded": completion.decoded_text(bundle.tokens, bundle.processor.tokenizer),
        "decoded_tokens": len(completion.ids),
        "decoded_spans": bundle.tokens.span_sizes(completion.ids),
        "finished": completion.finished,
        "latents_finite": bool(completion.latents.isfinite().all()),
    }


@torch.no_grad()
def _teacher_forced(bundle: FutureL1, vision: FrozenVision, dialogue: Encoded) -> dict[str, Any]:
    """One pass over a dialogue with the true frames' features as latents."""
    batch = collate([dialogue], bundle.tokens.pad)
    inputs = inputs_of(batch, vision, bundle.model.device)
    ids = inputs["input_ids"]
    latent, last = ids == bundle.tokens.latent, torch.zeros_like(ids, dtype=torch.bool)
    last[:, -1] = True
    states, logits = spliced_forward(bundle.model, inputs, latent, vision.merged(batch.future), last)
    return {
        "teacher_forced_spans": [patches.tokens for patches in batch.future],
        "states_finite": bool(states.isfinite().all() and logits.isfinite().all()),
    }
