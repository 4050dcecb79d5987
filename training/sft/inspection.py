"""Inspection of SFT records: rendered, tokenised and labelled as SFT does, with both losses.

For debugging data, and for checking parity with the public release.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from transformers import AutoConfig

from training.data.records import Record, name_of, read_record
from training.model.checkpoint import FutureL1, UnusableCheckpointError, load
from training.model.encoding import IGNORE, Encoded, collate
from training.model.latent_config import PAPER, LatentConfig
from training.model.rows import RowReader
from training.model.splice import inputs_of, spliced_forward
from training.model.tokens import LATENT
from training.model.vision import FrozenVision
from training.storage.artifacts import checkpoint_folder

CACHE_BYTES = 2**28
"""The size of the cache of vision features: every record is used twice, alone and in the batch."""


def open_checkpoint(folder: Path) -> FutureL1:
    """A checkpoint, an artifact that holds one, or a base model: on the GPU in its own precision, else in float32.

    Raises ValueError, saying what the folder lacks.
    """
    folder = checkpoint_folder(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["model_type"] != "qwen3_vl":
            raise ValueError(f"its config.json is that of a {config['model_type']}, not of a Qwen3-VL")
        if torch.cuda.is_available():
            return load(
                folder, "cuda", AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype or torch.float32
            )
        return load(folder)
    except UnusableCheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no checkpoint that can be loaded: {error}") from error


def latent_config_of(bundle: FutureL1, max_latents: int | None, system: str | None) -> LatentConfig:
    """The checkpoint's latent configuration, a base model's is the paper's; `max_latents` and `system` replace its
    values.

    Raises ValueError for a system prompt that holds placeholders of vectors.
    """
    latent_config = bundle.latent_config or PAPER
    changes = {"max_latents": max_latents, "system_prompt": system}
    latent_config = latent_config.model_copy(
        update={name: value for name, value in changes.items() if value is not None}
    )
    placeholders = [
        mark for mark in (LATENT, "<|image_pad|>", "<|video_pad|>") if mark in (latent_config.system_prompt or "")
    ]
    if placeholders:
        raise ValueError(f"the system prompt holds {', '.join(placeholders)}, which stand for vectors: take them out")
    return latent_config


def inspect_records(
    bundle: FutureL1,
    values: Sequence[Any],
    folder: Path,
    latent_config: LatentConfig,
    resize: Literal["exact", "release"] = "exact",
) -> dict[str, Any]:
    """`records`, an entry for each value, and `batch`, all records that can be rendered as one right-padded batch (or
    None).

    An entry has `error` and no tensors where a record cannot be rendered (docs/data-contracts.md has the fields).
    """
    reader, vision = RowReader(bundle.encoder(latent_config, resize=resize), keep=False), bundle.vision(CACHE_BYTES)
    entries: list[dict[str, Any]] = []
    usable: list[Encoded] = []
    for number, value in enumerate(values):
        name = name_of(value, number)
        try:
            record = read_record(value, number, folder)
            encoded = reader.dialogue(record.row, spans=True)
        except (ValueError, OSError) as error:
            entries.append({"record": name, "error": f"record {name}: {error}; correct it, or leave it out"})
            continue
        entries.append(_entry(bundle, vision, record, encoded))
        usable.append(encoded)
    return {"records": entries, "batch": _batch(bundle, vision, usable) if usable else None}


def _entry(bundle: FutureL1, vision: FrozenVision, record: Record, encoded: Encoded) -> dict[str, Any]:
    sizes = [patches.tokens for patches in encoded.future]
    positions = _latent_positions(bundle, encoded)
    ends = torch.tensor(sizes, dtype=torch.long).cumsum(0).tolist()
    ce, mse = _losses(bundle, vision, [encoded])
    return {
        "record": record.name,
        "problem": record.problem,
        "rendered_text": bundle.processor.tokenizer.decode(
            encoded.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        ),
        "input_ids": encoded.ids,
        "labels": encoded.labels,
        "spans": [[positions[end - size], positions[end - 1]] for size, end in zip(sizes, ends, strict=True)],
        "latents_per_span": sizes,
        "latent_positions": positions,
        "observed_frames": record.frame_numbers("observed"),
        "future_frames": record.frame_numbers("future"),
        "ce": ce,
        "latent_mse": mse,
    }


def _batch(bundle: FutureL1, vision: FrozenVision, rows: Sequence[Encoded]) -> dict[str, Any]:
    batch = collate(rows, bundle.tokens.pad)
    ce, mse = _losses(bundle, vision, rows)
    return {
        "input_ids": batch.ids.tolist(),
        "labels": batch.labels.tolist(),
        "latent_positions": [_latent_positions(bundle, row) for row in rows],
        "ce": ce,
        "latent_mse": mse,
    }


def _latent_positions(bundle: FutureL1, encoded: Encoded) -> list[int]:
    return [position for position, token in enumerate(encoded.ids) if token == bundle.tokens.latent]


@torch.no_grad()
def _losses(bundle: FutureL1, vision: FrozenVision, rows: Sequence[Encoded]) -> tuple[float, float | None]:
    """CE, the mean over labelled tokens, and MSE, the mean over latents and components, of rows as one batch."""
    batch = collate(rows, bundle.tokens.pad)
    inputs = inputs_of(batch, vision, bundle.model.device)
    latent = inputs["input_ids"] == bundle.tokens.latent
    targets = vision.merged(batch.future)
    following = batch.labels.to(latent.device).roll(-1, 1)  # the next token's label; a row's first has none
    labelled = following != IGNORE
    states, logits = spliced_forward(bundle.model, inputs, latent, targets, labelled)
    ce = float(F.cross_entropy(logits.float(), following[labelled]))
    if not len(targets):
        return ce, None
    return ce, float((states[latent.roll(-1, 1)].float() - targets.float()).pow(2).mean())
