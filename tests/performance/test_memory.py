"""Memory of training steps at the paper's size, by the trainers' own losses on fake tensors, and by the formula of
`future-l1 estimate` (tests/performance/fake_training.py, training/estimate/memory.py).

What is executed: the sharding of accelerate with profiles/accelerate/fsdp2.yaml, the frozen tower, the loss with policy
and reference, and its backward pass with activation checkpointing.  Adam's state is counted, its step is not.  What is
not: decoding, TRL's loop around the loss, NCCL's buffers, and what CUDA's allocator loses to fragments.  One GPU,
adapters and other shapes: tests/training/estimate/test_memory.py, with narrow models.
"""

import pytest
from accelerate.utils import FullyShardedDataParallelPlugin

from tests.performance.conftest import Table
from tests.performance.fake_training import FakeDevice, FakeRl, FakeSft, fake_machine, frame, fsdp2_plugin
from training.estimate.memory import GIB, Layout, gradients, states, total, updates
from training.estimate.shape import QWEN3_VL_8B, BatchShape, ModelShape
from training.model import splice
from training.model.vision import Patches

MODEL = ModelShape.of(QWEN3_VL_8B)
PARAMETERS = 8_767_123_696
"""The weights that the hub counts in Qwen/Qwen3-VL-8B-Instruct."""
FRAMES = {"TwiFF": (4, 22, 40), "V1-33K": (16, 22, 40), "V1-33K, image_tokens 64": (16, 6, 10)}
"""Frames of a prompt and their merged tokens, rows and columns: 720p whole, and at most 64 tokens."""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    return fsdp2_plugin(monkeypatch)


def frames_of(name: str, rows: int) -> list[list[Patches]]:
    number, height, width = FRAMES[name]
    return [[frame(height, width, 100 * row + i) for i in range(number)] for row in range(rows)]


def batch_of(name: str, rows: int, answer: int) -> BatchShape:
    number, height, width = FRAMES[name]
    vision = number * height * width
    return BatchShape(rows, 200 + vision + 2 * number + answer, vision, answer - 8)


def peak(device: FakeDevice, training: FakeRl | FakeSft, name: str, rows: int, answer: int) -> int:
    """Bytes at most in a micro-batch which is not a step's first."""
    frames = frames_of(name, rows)
    device.peak = device.live
    training.micro_batch(frames, answer)
    return device.peak


@pytest.mark.parametrize(
    ("kind", "processes", "rows", "answer", "names"),
    [
        (FakeRl, 8, 4, 2048, ["TwiFF", "V1-33K, image_tokens 64"]),
        (FakeRl, 64, 4, 2048, ["TwiFF"]),
        (FakeSft, 8, 1, 500, ["TwiFF"]),
    ],
)
def test_the_estimate_is_what_a_step_of_the_8b_model_takes(
    kind: type[FakeRl | FakeSft],
    processes: int,
    rows: int,
    answer: int,
    names: list[str],
    plugin: FullyShardedDataParallelPlugin,
    table: Table,
) -> None:
    layout = Layout(processes, sharded=True, reference=kind is FakeRl)
    with fake_machine(processes) as (device, mesh):
        training = kind(QWEN3_VL_8B, plugin, mesh)
        assert sum(p.numel() for p in training.policy.parameters()) == PARAMETERS == MODEL.parameters
        placed = device.live
        training.make_gradients()
        fake = [placed, device.live - placed]
        fake += [peak(device, training, name, rows, answer) for name in names]
    estimated = [total(states(MODEL, layout)), gradients(MODEL, layout)]
    estimated += [total(updates(MODEL, layout, batch_of(name, rows, answer))) for name in names]
    head = ["", "weights, Adam", "gradients", *(f"peak, {name}" for name in names)]
    lines = {"fake tensors": fake, "formula": estimated}
    title = f"{kind.__name__.removeprefix('Fake').upper()}, {processes} GPUs, GiB on each"
    table(title, head, [[name, *(f"{n / GIB:.1f}" for n in values)] for name, values in lines.items()])
    assert estimated == pytest.approx(fake, rel=0.05)
    assert max(fake) < 0.9 * 80e9


def test_without_the_mends_v1_33k_does_not_fit(
    plugin: FullyShardedDataParallelPlugin, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients whole until a step's last micro-batch, a whole reference, all logits at once, frames at full size."""
    monkeypatch.setattr(splice, "MAX_LOGITS", 2**40)
    with fake_machine(8) as (device, mesh):
        rl = FakeRl(QWEN3_VL_8B, plugin, mesh, mended=False)
        placed = device.live
        rl.micro_batch([[frame(2, 2, 0)]], 16, synchronised=False)
        whole_gradients = device.live - placed
        peaks = []
        for name in ("TwiFF", "V1-33K"):
            device.peak = device.live
            rl.micro_batch(frames_of(name, 4), 2048, synchronised=False)
            peaks.append(device.peak)
    head = ["weights, reference, Adam", "gradients", "peak, TwiFF", "peak, V1-33K"]
    line = [f"{n / GIB:.1f}" for n in (placed, whole_gradients, *peaks)]
    table("RL, 8 GPUs, without the mends, GiB on each", head, [line])
    assert peaks[1] > 80e9
