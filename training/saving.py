"""Weights in and out of training: fp32 while they learn, whole and in one dtype when they are saved."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.artifacts import replaced
from training.model.checkpoint import FutureL1
from training.model.teaching import Teaching
from training.provenance import write_provenance


def placement(device: str) -> tuple[torch.device, torch.dtype]:
    """Where this process computes and in which dtype weights are read: its own GPU where there is one."""
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(place)
    return place, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32


def learn_in_fp32(model: torch.nn.Module) -> None:
    """Weights that learn become fp32, the others stay.

    In bf16 a weight has 8 bits: a step of 1e-5 on one of 0.02 is rounded away.  FSDP and ZeRO keep such copies
    themselves; one GPU, and several with a whole model each, do not.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def leave_checkpoint(
    accelerator: Any,
    bundle: FutureL1,
    teaching: Teaching,
    folder: Path,
    dtype: torch.dtype,
    provenance: Mapping[str, Any],
) -> None:
    """Writes the model as `folder`, whole or not at all; every process must call this, the first one writes.

    Sharded weights are gathered to the first process's memory.
    """
    weights = accelerator.get_state_dict(bundle.model)
    if not accelerator.is_main_process:
        return
    tied = bundle.model.all_tied_weights_keys
    whole = {name: weight.to("cpu", dtype) for name, weight in weights.items() if name not in tied}
    with replaced(folder) as fresh:
        bundle.save(fresh, teaching, whole)
        write_provenance(fresh, {**provenance, "dtype": str(dtype).removeprefix("torch.")})
