"""The memory that is estimated is that of the trainers' own steps on fake tensors, part by part where it stays and at
the peak.

The 8B model is in tests/performance/test_memory.py; these are narrow models of another proportion in each width.
"""

from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.performance.fake_training import FakeRl, FakeSft, fake_machine, frame, fsdp2_plugin
from training.estimate import memory
from training.estimate.memory import Layout, gradients, phases, states, total, updates
from training.estimate.shape import QWEN3_VL_8B, BatchShape, ModelShape
from training.model import splice, token_budget
from training.recipes import LoraSettings
from training.tiny import BASE


def config(tied: bool, vocabulary: int) -> dict[str, Any]:
    """A narrow Qwen3-VL: D 320, A 512, K 128, I 1216, three layers."""
    text = QWEN3_VL_8B["text_config"] | {
        "vocab_size": vocabulary, "hidden_size": 320, "intermediate_size": 1216, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": tied,
    }  # fmt: skip
    text["rope_parameters"] = text["rope_parameters"] | {"mrope_section": [12, 10, 10]}
    vision = QWEN3_VL_8B["vision_config"] | {
        "depth": 1, "hidden_size": 96, "intermediate_size": 320, "num_heads": 2, "out_hidden_size": 320,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied}


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    return fsdp2_plugin(monkeypatch)


@pytest.mark.parametrize(
    ("kind", "processes", "tied", "vocabulary", "rows", "frames", "answer"),
    [
        (FakeRl, 8, False, 2048, 4, 4, 512),
        (FakeRl, 8, True, 40_000, 4, 1, 1600),  # logits in parts
        (FakeRl, 1, False, 2048, 4, 4, 512),
        (FakeSft, 64, False, 8192, 1, 4, 200),
        (FakeSft, 8, True, 40_000, 1, 1, 64),  # the embedding's gradient is the most
        (FakeSft, 1, True, 8192, 8, 2, 200),
    ],
)
def test_the_estimate_is_what_a_step_takes(
    kind: type[FakeRl | FakeSft],
    processes: int,
    tied: bool,
    vocabulary: int,
    rows: int,
    frames: int,
    answer: int,
    plugin: FullyShardedDataParallelPlugin,
) -> None:
    narrow = config(tied, vocabulary)
    model, layout = ModelShape.of(narrow), Layout(processes, sharded=processes > 1, reference=kind is FakeRl)
    batch = BatchShape(rows, 200 + frames * 62 + answer, frames * 60, answer - 8)
    with fake_machine(processes) as (device, mesh):
        training = kind(narrow, plugin, mesh)
        placed = device.live
        training.make_gradients()
        held = device.live - placed
        device.peak = device.live
        training.micro_batch([[frame(6, 10, 100 * row + i) for i in range(frames)] for row in range(rows)], answer)
        peak = device.peak
    assert total(states(model, layout)) == pytest.approx(placed, rel=0.05)
    assert gradients(model, layout) == pytest.approx(held, rel=0.05)
    assert total(updates(model, layout, batch)) == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "tied", "vocabulary", "rows"),  # a layer is the most, or the head
    [(FakeSft, False, 2048, 4), (FakeSft, True, 40_000, 1), (FakeRl, False, 2048, 4), (FakeRl, True, 40_000, 1)],
)
def test_the_estimate_is_what_a_step_of_adapters_takes(
    kind: type[FakeRl | FakeSft], tied: bool, vocabulary: int, rows: int, plugin: FullyShardedDataParallelPlugin
) -> None:
    narrow, lora = config(tied, vocabulary), LoraSettings(r=16)
    model, layout = ModelShape.of(narrow), Layout(1, sharded=False, reference=kind is FakeRl, lora=lora)
    with fake_machine(1) as (device, mesh):
        training = kind(narrow, plugin, mesh, lora=lora)
        placed = device.live
        training.make_gradients()
        device.peak = device.live
        training.micro_batch([[frame(6, 10, 100 * row + i) for i in range(4)] for row in range(rows)], 200)
        peak = device.peak
    assert total(states(model, layout)) == pytest.approx(placed, rel=0.05)
    assert total(updates(model, layout, BatchShape(rows, 648, 240, 192))) == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_by_the_config(tied: bool) -> None:
    narrow = config(tied, 2048)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**narrow))
        tiny = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_pretrained(BASE))
    assert ModelShape.of(narrow).parameters == sum(p.numel() for p in model.parameters())
    assert ModelShape.of(narrow).vision_parameters == sum(p.numel() for p in model.model.visual.parameters())
    assert ModelShape.of(tiny.config.to_dict()).parameters == sum(p.numel() for p in tiny.parameters())
    assert 2 * ModelShape.of(narrow).cache_bytes == token_budget.token_bytes(model)  # it is in fp32


def test_bounds_of_modules_that_import_torch_are_theirs() -> None:
    assert (memory.MAX_LOGITS, memory.FREE_SHARE) == (splice.MAX_LOGITS, token_budget.FREE_SHARE)


def test_rl_has_three_phases_and_sft_two() -> None:
    model, batch = ModelShape.of(QWEN3_VL_8B), BatchShape(4, 5776, 3520, 2040)
    layout = Layout(8, sharded=True, reference=True)
    rl = phases(model, layout, batch, BatchShape(8, 5776, 3520, 2040))
    sft = phases(model, Layout(8, sharded=True, reference=False), batch, None)
    assert (list(rl), list(sft)) == (["loading", "rollouts", "updates"], ["loading", "updates"])
    assert rl["rollouts"]["cache"] == 9 * 5776 * 147_456  # eight answers, and one more while they are prefilled
    assert rl["rollouts"]["gathered weights"] == 2 * model.language_parameters
    assert total(rl["loading"]) == pytest.approx(52.6e9, rel=0.01)  # whole, before they are sharded
    assert not sft["updates"]["reference"]
    eight = memory.cache_tokens(model, layout, 71.2, batch)
    assert 0 < memory.cache_tokens(model, layout, 60, batch) < eight < memory.cache_tokens(model, layout, 125, batch)
