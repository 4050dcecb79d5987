"""Memory of an RL step at the paper's size, by the trainer's own loss on fake tensors (tests/performance/fake_8b.py).

What is executed: the sharding of accelerate with profiles/accelerate/fsdp2.yaml, the frozen tower, `_compute_loss` with
policy and reference, and its backward pass with activation checkpointing.  Adam's state is counted, its step is not.
What is not: decoding, TRL's loop around the loss, NCCL's buffers, and what CUDA's allocator loses to fragments.
"""

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.performance.conftest import Table
from tests.performance.fake_8b import GIB, FakeDevice, FakeRl, fake_machine, frame, rollout
from tests.training.sft.test_launch_configs import launched
from training.model import splice

FRAMES = {"TwiFF": (4, 22, 40), "V1-33K": (16, 22, 40), "V1-33K, image_tokens 64": (16, 6, 10)}
"""Frames of a prompt and their merged tokens, rows and columns: 720p whole, and at most 64 tokens."""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    """What `accelerate launch --config_file profiles/accelerate/fsdp2.yaml` gives to each process."""
    for name, value in prepare_multi_gpu_env(launched("fsdp2.yaml")).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    return plugin


def peak(device: FakeDevice, rl: FakeRl, frames: str, synchronised: bool = True) -> int:
    """Bytes at most in a micro-batch of four answers of 2,048 tokens, which is not a step's first."""
    number, rows, columns = FRAMES[frames]
    answers = [rollout([frame(rows, columns, 100 * j + i) for i in range(number)], answer=2048) for j in range(4)]
    device.peak = device.live
    rl.micro_batch(answers, synchronised)
    return device.peak


@pytest.mark.parametrize("processes", [8, 64])
def test_an_rl_step_fits_80_gb(processes: int, plugin: FullyShardedDataParallelPlugin, table: Table) -> None:
    with fake_machine(processes) as (device, mesh):
        rl = FakeRl(plugin, mesh, mended=True)
        placed = device.live
        for parameter in rl.learning:
            parameter.grad = torch.zeros_like(parameter)
        gradients = device.live - placed
        peaks = [peak(device, rl, frames) for frames in ("TwiFF", "V1-33K, image_tokens 64")]
    show(table, processes, placed, gradients, peaks)
    assert max(peaks) < 0.9 * 80e9


@pytest.mark.parametrize("processes", [8, 64])
def test_without_the_mends_v1_33k_does_not_fit(
    processes: int, plugin: FullyShardedDataParallelPlugin, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients whole until a step's last micro-batch, a whole reference, all logits at once, frames at full size."""
    monkeypatch.setattr(splice, "MAX_LOGITS", 2**40)
    with fake_machine(processes) as (device, mesh):
        rl = FakeRl(plugin, mesh, mended=False)
        placed = device.live
        rl.micro_batch([rollout([frame(2, 2, 0)], answer=16)], synchronised=False)
        gradients = device.live - placed
        peaks = [peak(device, rl, frames, synchronised=False) for frames in ("TwiFF", "V1-33K")]
    show(table, processes, placed, gradients, peaks)
    assert peaks[1] > 80e9


def show(table: Table, processes: int, placed: int, gradients: int, peaks: list[int]) -> None:
    head = ["weights, reference, Adam", "gradients", "peak, TwiFF", "peak, V1-33K"]
    table(f"{processes} GPUs, GiB on each", head, [[f"{n / GIB:.1f}" for n in (placed, gradients, *peaks)]])
