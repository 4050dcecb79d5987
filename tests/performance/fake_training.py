"""Training steps on fake tensors: the trainers' own loss and FSDP2's own hooks with shapes alone, on any machine.

A fake tensor has a shape, a dtype and a storage of that size, and no values.  Small integer tensors keep theirs (ids,
masks), so that indexing by a mask has the size that it has in a real run.  Collectives of the fake process group of
`processes` ranks return at once.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model
from accelerate.utils.launch import prepare_multi_gpu_env
from accelerate.utils.operations import convert_outputs_to_fp32
from peft import PeftModel
from torch._guards import active_fake_mode
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.training.sft.test_launch_configs import launched
from training.adapters import adapters_off, add_adapters
from training.model.encoding import IGNORE, Encoded, collate
from training.model.placement import learn_in_fp32, reduce_in_fp32, shard_frozen
from training.model.tokens import Tokens
from training.model.vision import FrozenVision, Patches
from training.recipes import LoraSettings, paper_rl, paper_sft
from training.rl.metrics import Stopwatch
from training.rl.rollouts import Rollout
from training.rl.trainer import LatentGRPOTrainer
from training.sft.__main__ import freeze_vision
from training.sft.trainer import LatentSFTTrainer, _RunningMeans

TOKENS = Tokens(latent=10, latent_start=11, latent_end=12, image=13, video=14, end_of_turn=15, pad=16)
FACTORIES = {torch.ops.aten.arange, torch.ops.aten.zeros, torch.ops.aten.ones, torch.ops.aten.full}
INTEGERS = {torch.bool, torch.int32, torch.long}


def _dtype(factory: Any, args: Any, kwargs: Any) -> torch.dtype:
    """What a factory makes: of integers where neither a dtype nor a number says otherwise."""
    floats = factory.overloadpacket in (torch.ops.aten.zeros, torch.ops.aten.ones)
    numbers = [one for one in args if not isinstance(one, (list, tuple))]
    return kwargs.get("dtype") or (
        torch.float32 if floats or any(isinstance(n, float) for n in numbers) else torch.long
    )


class SharedFakeMode(FakeTensorMode):
    """Copies of fake tensors belong to the same mode."""

    def __deepcopy__(self, _memo: Any) -> "SharedFakeMode":
        return self


class FakeDevice(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most there were.

    New integer tensors keep their values; what a metric reads of any other tensor is 1.0.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode, self.live, self.peak = mode, 0, 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if DTensor in types:
            return NotImplemented  # first DTensor makes operations of shards of it
        if func.overloadpacket in FACTORIES and _dtype(func, args, kwargs) in INTEGERS:
            with no_dispatch():
                new = func(*args, **kwargs)
            return torch.ops.aten.lift_fresh.default(new)
        try:
            result = func(*args, **kwargs)
        except DataDependentOutputException:
            assert args[0].is_floating_point(), f"{func} of a mask or of ids, whose values must be known"
            return 1.0
        if active_fake_mode() is self.mode:  # DTensor derives shapes in another
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._sizes:
            self._sizes[id(storage)] = 0
            weakref.finalize(storage, self._free, id(storage))
        self.live += storage.size() - self._sizes[id(storage)]
        self._sizes[id(storage)] = storage.size()
        self.peak = max(self.peak, self.live)

    def _free(self, storage: int) -> None:
        self.live -= self._sizes.pop(storage)

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """Context in which a storage that is resized is counted: FSDP frees and allocates its buffers so."""
        resize = torch.UntypedStorage.resize_

        def counted(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            self._count(storage)

        torch.UntypedStorage.resize_ = counted
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize


def fsdp2_plugin(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    """What `accelerate launch --config_file profiles/accelerate/fsdp2.yaml` gives to each process."""
    for name, value in prepare_multi_gpu_env(launched("fsdp2.yaml")).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    return plugin


@contextmanager
def fake_machine(processes: int) -> Iterator[tuple[FakeDevice, DeviceMesh]]:
    """Context in which tensors are fake, and this process is the first of so many ranks: its device, and their mesh."""
    limit, fake_tensor.CONSTANT_NUMEL_LIMIT = fake_tensor.CONSTANT_NUMEL_LIMIT, 2**22
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("shards",))
    try:
        with SharedFakeMode() as mode, FakeDevice(mode) as device, device.resizing():
            yield device, mesh
    finally:
        dist.destroy_process_group()
        fake_tensor.CONSTANT_NUMEL_LIMIT = limit


class FakeProcessor:
    """Makes frames [rows, columns] of merged tokens into patches of 16 px without pixels."""

    merge_size = 2

    def __call__(self, frames: Sequence[np.ndarray], **_options: Any) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.empty(sum(4 * frame.size for frame in frames), 3 * 2 * 16 * 16)}


def frame(rows: int, columns: int, number: int) -> Patches:
    """A frame of so many merged tokens; `number` tells it from others."""
    return Patches(np.zeros((1, rows, columns), np.uint8), FakeProcessor(), (rows, columns), str(number))


def prompt(frames: Sequence[Patches], text: int = 200) -> Encoded:
    """A prompt of these frames and `text` other tokens."""
    ids = [1] * text
    for one in frames:
        ids += [2, *[TOKENS.image] * one.tokens, 3]
    return _encoded(ids, [IGNORE] * len(ids), frames)


def _encoded(ids: list[int], labels: list[int], frames: Sequence[Patches], future: Sequence[Patches] = ()) -> Encoded:
    return Encoded(ids, labels, torch.tensor([list(range(len(ids)))] * 3), list(frames), [*future], [*future])


def answer_ids(length: int) -> list[int]:
    """An answer of so many tokens with two full spans."""
    span = [TOKENS.latent_start, *[TOKENS.latent] * 4, TOKENS.latent_end]
    return [*span, *[4] * (length - 2 * len(span)), *span]


def rollout(frames: Sequence[Patches], answer: int, hidden: int) -> Rollout:
    ids = answer_ids(answer)
    return Rollout(
        ids=ids, log_probs=torch.zeros(answer), sampled=torch.tensor([token != TOKENS.latent for token in ids]),
        latents=torch.zeros(8, hidden), noise=torch.zeros(8), finished=True, row={}, prompt=prompt(frames), seed=0,
        text="", runs=[],
    )  # fmt: skip


def dialogue(frames: Sequence[Patches], answer: int) -> Encoded:
    question, ids = prompt(frames), answer_ids(answer)
    labels = question.labels + [IGNORE if token == TOKENS.latent else token for token in ids]
    return _encoded(question.ids + ids, labels, frames, [frame(2, 2, -1), frame(2, 2, -2)])


def with_adapters(model: Qwen3VLForConditionalGeneration, lora: LoraSettings) -> PeftModel:
    """The model with PEFT's adapters; all are on one device, and fake parameters cannot be moved."""
    with patch.object(torch.nn.Module, "to", lambda module, *_args, **_options: module):
        return add_adapters(SimpleNamespace(tokens=TOKENS, model=model), lora, seed=0)


class FakeTraining:
    """A policy with Adam's state and its tower as the programs place them: in FSDP2's shards of a mesh of several
    devices, whole and under autocast on one.

    `mended`: False keeps the tower among what the policy gathers, and accelerate's own precision.  `lora`: adapters on
    a frozen base.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        plugin: FullyShardedDataParallelPlugin,
        mesh: DeviceMesh,
        mended: bool = True,
        lora: LoraSettings | None = None,
    ) -> None:
        self.config, self.sharded, self.lora = config, mesh.size() > 1, lora
        self.accelerator: Any = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin), torch_device_mesh=mesh, mixed_precision="bf16",
            parallelism_config=SimpleNamespace(fsdp_dim_names=mesh.mesh_dim_names), device=torch.device("cpu"),
            is_fsdp2=self.sharded, num_processes=mesh.size(), is_main_process=False,
        )  # fmt: skip
        self.policy = self.model()
        freeze_vision(self.policy)
        self.vision = FrozenVision(self.policy, apart=self.sharded)
        self.policy.activation_checkpointing_enable()
        if lora:
            self.policy = with_adapters(self.policy, lora)
        learn_in_fp32(self.policy)
        self.prepare(mended)
        self.learning = [p for p in self.policy.parameters() if p.requires_grad]
        self.adam = [torch.zeros_like(p) for p in self.learning for _ in range(2)]
        self.policy.train()

    def model(self) -> Qwen3VLForConditionalGeneration:
        config = Qwen3VLConfig(**self.config, image_token_id=TOKENS.image, video_token_id=TOKENS.video)
        return Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)

    def prepare(self, mended: bool) -> None:
        """As `accelerator.prepare` does."""
        if not self.sharded:
            forward = torch.autocast("cpu", torch.bfloat16)(self.policy.forward)
            self.policy.forward = convert_outputs_to_fp32(forward)
            return
        if mended:
            reduce_in_fp32(self.accelerator)
        else:
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = ["Qwen3VLTextDecoderLayer"]
        with adapters_off(self.policy):
            fsdp2_prepare_model(self.accelerator, self.policy)

    def make_gradients(self) -> None:
        """Those of the micro-batches before."""
        for parameter in self.learning:
            parameter.grad = torch.zeros_like(parameter)

    def back_propagate(self, loss: Callable[[], torch.Tensor], synchronised: bool) -> None:
        """Gradients are averaged over the processes, or stay whole."""
        if self.sharded:
            self.policy.set_requires_gradient_sync(synchronised)
        loss().backward()


class FakeSft(FakeTraining):
    """SFT's own loss."""

    def micro_batch(self, frames: Sequence[Sequence[Patches]], answer: int) -> None:
        """Loss and gradients of rows with these frames."""
        trainer = object.__new__(LatentSFTTrainer)
        trainer.recipe, trainer.tokens, trainer.vision = paper_sft("future_l1"), TOKENS, self.vision
        trainer.accelerator, trainer.model = self.accelerator, self.policy
        trainer._means = _RunningMeans(self.accelerator.device)
        trainer._training_features = torch.zeros(1), torch.ones(1)
        batch = collate([dialogue(of_row, answer) for of_row in frames], TOKENS.pad)
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask, "labels": batch.labels, "batch": batch}
        loss = partial(trainer.compute_loss, self.policy, inputs, num_items_in_batch=torch.ones(3))
        self.back_propagate(loss, synchronised=True)


class FakeRl(FakeTraining):
    """RL's own loss, with the reference, which is the policy where that has adapters.  `mended`: False keeps it whole,
    too."""

    def prepare(self, mended: bool) -> None:
        self.reference = None if self.lora else self.model().requires_grad_(False).eval()
        if mended and self.reference:
            shard_frozen(self.reference, self.accelerator)
        super().prepare(mended)

    def micro_batch(self, frames: Sequence[Sequence[Patches]], answer: int, synchronised: bool = True) -> None:
        """Loss and gradients of an answer to each row with these frames."""
        trainer = object.__new__(LatentGRPOTrainer)
        trainer.recipe, trainer.bundle = paper_rl("la_dapo"), SimpleNamespace(tokens=TOKENS)
        trainer.reference, trainer.vision, trainer.accelerator = self.reference, self.vision, self.accelerator
        trainer.args, trainer.current_gradient_accumulation_steps = SimpleNamespace(steps_per_generation=1), 1
        trainer._stopwatch = Stopwatch(self.accelerator.device)
        trainer._metrics = {"train": defaultdict(list)}
        hidden = self.config["text_config"]["hidden_size"]
        trainer._rollouts = [rollout(of_row, answer, hidden) for of_row in frames]
        inputs = {
            "rollout": torch.tensor(range(len(frames))), "advantages": torch.ones(len(frames)),
            "num_items_in_batch": torch.tensor(1), "num_latents_in_batch": torch.tensor(1),
        }  # fmt: skip
        self.back_propagate(partial(trainer._compute_loss, self.policy, inputs), synchronised)
