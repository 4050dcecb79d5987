"""Placement of weights in training: their device, their precision, and whether they are sharded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule


def placement(device: str) -> tuple[torch.device, torch.dtype]:
    """The device of this process, its own GPU where there is one, and the dtype that weights are read in."""
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(place)
    return place, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32


def learn_in_fp32(model: torch.nn.Module) -> None:
    """Casts the trainable weights to fp32; the others keep their dtype.

    In bf16 a weight has 8 bits: a step of 1e-5 on one of 0.02 is rounded away.  FSDP and ZeRO keep fp32 copies
    themselves; one GPU, and several with a whole model each, do not.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def is_sharded() -> bool:
    """Whether `accelerate launch` started FSDP: weights are then unsharded only during the model's own forward pass."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def reduce_in_fp32(accelerator: Accelerator) -> None:
    """Makes FSDP2 average gradients in fp32, and leave what a module returns in its dtype; call before `prepare`.

    accelerate 1.15 has bf16 for both: processes' gradients would be added in 8 bits, and log-probabilities cut to 8.
    """
    plugin = accelerator.state.fsdp_plugin if accelerator.is_fsdp2 else None
    if plugin and plugin.mixed_precision_policy:
        policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None)
        plugin.mixed_precision_policy = policy


def shard_frozen(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Shards a model that does not learn as FSDP2 shards the policy, where it does.

    Each unit is whole only in its own forward pass: without a backward pass nothing would shard the head again.
    """
    if accelerator.is_fsdp2:
        reduce_in_fp32(accelerator)
        fsdp2_prepare_model(accelerator, model).set_reshard_after_forward(True)


@contextmanager
def whole_weights(model: torch.nn.Module) -> Iterator[None]:
    """Context in which FSDP2's weights are unsharded in every process, in the dtype of its forward pass.

    Each is gathered once, when the context begins: all processes must enter it together, between two optimiser steps,
    and may then go any number of forward steps without gradients, each process its own number.  A frozen unit (the
    tower) stays in shards.  Does nothing to a model that is not sharded.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not sharded:
        yield
        return
    states = [module._get_fsdp_state() for module in sharded]
    states[0]._lazy_init()  # else the first submodule that decodes would be taken for the root
    kept = [(group, group.post_forward_mesh_info) for state in states for group in state._fsdp_param_groups]
    sharded[0].set_reshard_after_forward(False)
    for module in sharded:
        if any(parameter.requires_grad for parameter in module.parameters()):
            module.unshard()
    try:
        yield
    finally:
        for group, mesh in kept:
            group.post_forward_mesh_info = mesh
        sharded[0].reset_iter_state()  # shards again, and forgets the order of the decoder's passes
