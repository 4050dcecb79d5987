"""Qwen3-VL-8B on fake tensors: the trainers' own loss and FSDP2's own hooks with shapes alone, on any machine.

A fake tensor has a shape, a dtype and a storage of that size, and no values.  Small integer tensors keep theirs (ids,
masks), so that indexing by a mask has the size that it has in a real run.  Collectives of the fake process group of
`processes` ranks return at once.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model
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

from training.model.encoding import IGNORE, Encoded
from training.model.placement import learn_in_fp32, reduce_in_fp32, shard_frozen
from training.model.tokens import Tokens
from training.model.vision import FrozenVision, Patches
from training.recipes import paper_rl
from training.rl.metrics import Stopwatch
from training.rl.rollouts import Rollout
from training.rl.trainer import LatentGRPOTrainer
from training.sft.__main__ import freeze_vision

GIB = 2**30
PARAMETERS = 8_767_123_696
"""The weights that the hub counts in Qwen/Qwen3-VL-8B-Instruct."""
TEXT = {  # its config.json
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True
    },
}  # fmt: skip
VISION = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 4096, "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
TOKENS = Tokens(latent=151669, latent_start=151670, latent_end=151671, image=151655, video=151656, end_of_turn=151645,
                pad=151643)  # fmt: skip
FACTORIES = {torch.ops.aten.arange, torch.ops.aten.zeros, torch.ops.aten.ones, torch.ops.aten.full}
INTEGERS = {torch.bool, torch.int32, torch.long}


def config() -> Qwen3VLConfig:
    return Qwen3VLConfig(text_config=TEXT, vision_config=VISION, tie_word_embeddings=False)


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


@dataclass(frozen=True)
class FakeFrame(Patches):
    """A frame of a size, without pixels."""

    @property
    def pixels(self) -> torch.Tensor:
        return torch.empty(4 * self.tokens, 3 * 2 * 16 * 16)


def frame(rows: int, columns: int, number: int) -> FakeFrame:
    """A frame of so many merged tokens; `number` tells it from others."""
    return FakeFrame(np.zeros(0), SimpleNamespace(merge_size=2), (rows, columns), str(number))


def rollout(frames: Sequence[Patches], answer: int, text: int = 200) -> Rollout:
    """An answer of so many tokens with two full spans, to a prompt of these frames and `text` other tokens."""
    ids = [1] * text
    for one in frames:
        ids += [2, *[TOKENS.image] * one.tokens, 3]
    span = [TOKENS.latent_start, *[TOKENS.latent] * 4, TOKENS.latent_end]
    answered = [*span, *[4] * (answer - 2 * len(span)), *span]
    prompt = Encoded(ids, [IGNORE] * len(ids), torch.tensor([list(range(len(ids)))] * 3), list(frames))
    sampled = torch.tensor([token != TOKENS.latent for token in answered])
    return Rollout(
        ids=answered, log_probs=torch.zeros(answer), sampled=sampled, latents=torch.zeros(8, TEXT["hidden_size"]),
        noise=torch.zeros(8), finished=True, row={}, prompt=prompt, seed=0, text="", runs=[],
    )  # fmt: skip


class FakeRl:
    """Policy with Adam's state, reference and tower as `training.rl` places them, and the trainer around its loss.

    `mended`: False keeps the reference whole, the tower among what the policy gathers, and accelerate's own precision.
    """

    def __init__(self, plugin: FullyShardedDataParallelPlugin, mesh: DeviceMesh, mended: bool) -> None:
        accelerator: Any = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin), torch_device_mesh=mesh, mixed_precision="bf16", is_fsdp2=True,
            parallelism_config=SimpleNamespace(fsdp_dim_names=mesh.mesh_dim_names), device=torch.device("cpu"),
            num_processes=mesh.size(), is_main_process=False,
        )  # fmt: skip
        self.policy, self.reference = _model(), _model().requires_grad_(False).eval()
        freeze_vision(self.policy)
        learn_in_fp32(self.policy)
        vision = FrozenVision(self.policy, apart=True)
        if mended:
            shard_frozen(self.reference, accelerator)
            reduce_in_fp32(accelerator)
        else:
            plugin.transformer_cls_names_to_wrap = ["Qwen3VLTextDecoderLayer"]
        fsdp2_prepare_model(accelerator, self.policy)
        self.learning = [p for p in self.policy.parameters() if p.requires_grad]
        self.adam = [torch.zeros_like(p) for p in self.learning for _ in range(2)]
        self.policy.activation_checkpointing_enable()
        self.policy.train()
        self.trainer = object.__new__(LatentGRPOTrainer)
        self.trainer.recipe, self.trainer.bundle = paper_rl("la_dapo"), SimpleNamespace(tokens=TOKENS)
        self.trainer.reference, self.trainer.vision, self.trainer.accelerator = self.reference, vision, accelerator
        self.trainer.args = SimpleNamespace(steps_per_generation=1)
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer._stopwatch, self.trainer._metrics = Stopwatch(accelerator.device), {"train": defaultdict(list)}

    def micro_batch(self, rollouts: Sequence[Rollout], synchronised: bool) -> None:
        """Loss and gradients, which are averaged over the processes or stay whole."""
        count = len(rollouts)
        batch = {
            "rollout": torch.tensor(range(count)), "advantages": torch.ones(count),
            "num_items_in_batch": torch.tensor(1), "num_latents_in_batch": torch.tensor(1),
        }  # fmt: skip
        self.trainer._rollouts = list(rollouts)
        self.policy.set_requires_gradient_sync(synchronised)
        self.trainer._compute_loss(self.policy, batch).backward()


def _model() -> Qwen3VLForConditionalGeneration:
    model = Qwen3VLForConditionalGeneration._from_config(config(), dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    return model
