"""Operations are those that torch counts, and decoding's steps those of the scheduler's own rule."""

import math
import random
import statistics
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.performance.test_hours import TOKEN_BYTES, lengths, steps_as_scheduled
from tests.training.estimate.test_memory import config
from training.adapters import add_adapters
from training.estimate.devices import device_of
from training.estimate.hours import ADAPTED_STEP, decoding_steps, forward_flops, step_seconds, vision_flops
from training.estimate.shape import QWEN3_VL_8B, BatchShape, ModelShape
from training.model.checkpoint import load
from training.model.placement import learn_in_fp32
from training.model.token_budget import FREE_SHARE
from training.recipes import LoraSettings
from training.tiny import BASE


def test_a_forward_pass_has_the_operations_that_torch_counts() -> None:
    narrow = config(tied=False, vocabulary=2048)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**narrow))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.ones(2, 50, dtype=torch.long))
    shape = ModelShape.of(narrow)
    assert forward_flops(shape, BatchShape(2, 50, 0, 50)) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_frame_of_720p_has_the_operations_that_torch_counts() -> None:
    shape = ModelShape.of(QWEN3_VL_8B)
    with torch.device("meta"):
        tower = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**QWEN3_VL_8B)).model.visual
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for block in tower.blocks:
                qkv = block.attn.qkv(torch.ones(3520, 1152))
                block.mlp(block.attn.proj(qkv[:, :1152]))
    attention = 4 * 3520 * 3520 * 1152 * 27
    assert vision_flops(shape, BatchShape(1, 1000, 880, 0)) == pytest.approx(
        counter.get_total_flops() + attention, rel=0.2
    )


@pytest.mark.parametrize(("devices", "mean"), [(8, 300), (8, 500), (64, 300), (64, 500)])
def test_a_round_takes_the_steps_of_the_scheduler(devices: int, mean: int) -> None:
    numbers, of_device, prompt, tokens, rounds = random.Random(0), 512 // devices, 3_620, 250_000, []
    for _ in range(10):
        answers = [lengths(of_device, mean, 2048, numbers) for _ in range(devices)]
        free = tokens * TOKEN_BYTES / FREE_SHARE
        rounds.append(max(steps_as_scheduled(of_one, 8, prompt, 2048, free) for of_one in answers))
    at_once = tokens // (prompt + 2048) - 1
    assert decoding_steps(of_device, at_once, devices, mean, 2048) == pytest.approx(statistics.mean(rounds), rel=0.1)


def test_a_step_takes_at_least_the_reading_of_the_weights() -> None:
    shape = ModelShape.of(QWEN3_VL_8B)
    fast, slow = (step_seconds(shape, device_of(name)) for name in ("h200-141gb", "l40s-48gb"))
    assert 0.01 < fast[0] < fast[1] < 0.1 and fast[0] < slow[0]


def test_a_device_is_one_of_the_table_or_has_so_many_gib() -> None:
    assert device_of("H100-80GB").gib == 79.1 and device_of("cpu").gib == math.inf
    assert (device_of("48").gib, device_of("48 GiB").gib, device_of("48GiB").name) == (48, 48, "48 GiB")
    for wrong in ("h100", "0", "nan", "inf", "-1", ""):
        with pytest.raises(ValueError, match=r"no device .*: choose from h100-80gb"):
            device_of(wrong)


class LaunchCount(TorchDispatchMode):
    """Counts operations that are no views: each is a launch on a GPU."""

    launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.launches += not func.is_view
        return func(*args, **(kwargs or {}))


def test_adapters_make_more_launches_of_a_decoding_step() -> None:
    bundle = load(BASE, dtype=torch.bfloat16)

    def launches() -> int:
        token = torch.ones(1, 1, dtype=torch.long)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            bundle.model(input_ids=token)  # autocast keeps its copies of weights for all steps
            with LaunchCount() as count:
                bundle.model(input_ids=token)
        return count.launches

    before = launches()
    learn_in_fp32(add_adapters(bundle, LoraSettings(), seed=0))
    assert launches() / before == pytest.approx(ADAPTED_STEP, rel=0.1)
