"""On a GPU the host never waits inside a decoding step: shown on fake CUDA tensors, which need no GPU."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3VLForConditionalGeneration

from training.model import decode as decoding
from training.model.cache import slab_cache
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoded, Encoder
from training.model.modes import Spans
from training.model.prefill import Prefilled
from training.model.rows import RowReader
from training.model.sampling import Sampling

ROWS, PROMPT = 4, 7
CUDA = torch.device("cuda", 0)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device: values that it reads, and what is copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count["values read"] += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        binary = all(tensor.ndim == 0 for tensor in tensors if tensor.device.type == "cpu")
        if devices == {"cpu", "cuda"} and not (binary and func in NUMBERS):
            self.count[f"copied by {func}"] += 1
        return result


NUMBERS = {torch.ops.aten.bitwise_xor.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor}
"""Operations whose CUDA kernels take a number on the host as an argument."""


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("sampling", [Sampling(20), Sampling(20, temperature=1.0, top_p=0.9, latent_std=0.1)])
def test_a_step_does_not_wait_for_the_device(
    sft_model: FutureL1, padded: bool, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps with a look at the rows that are done at the first and the seventeenth, and nothing else."""
    looks, rest = waits(sft_model, padded, sampling, monkeypatch)
    assert looks == 2
    one_batch = waits(sft_model, padded, Sampling(1, sampling.temperature, sampling.top_p), monkeypatch)[1]
    assert rest == one_batch, "what waits, waits once a batch"


def test_no_mask_is_looked_at_in_a_step(sft_model: FutureL1, encoder: Encoder, rows: list[dict[str, Any]]) -> None:
    """On real tensors, since transformers' helper looks at no fake ones: prompts of two lengths, one of them padded."""
    prompts = list(
        {len(prompt.ids): prompt for prompt in map(RowReader(encoder, keep=True).prompt, rows[:24])}.values()
    )
    counts = []
    for steps in (1, 12):
        with Waits() as counted:
            decode(
                sft_model.model, sft_model.vision(), sft_model.tokens, prompts[:2], Sampling(steps), Spans(4, "fixed"),
                [[1], [2]],
            )  # fmt: skip
        counts.append(counted.count["values read"])
    assert len(prompts) > 1 and counts[0] == counts[1]


def waits(
    bundle: FutureL1, padded: bool, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Counter[str]]:
    """Looks at the rows that are done, and all that waits besides, in one decoding of fake rows."""
    vision, text, looks = bundle.vision(), bundle.model.config.text_config, list[int]()
    prompts = [Encoded([1] * PROMPT, [], torch.zeros(3, PROMPT), [])] * ROWS
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(bundle.model.config).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), monkeypatch.context() as patch:
        model.to_empty(device=CUDA)
        cache = slab_cache(text.num_hidden_layers)
        for layer in range(text.num_hidden_layers):
            states = torch.zeros(ROWS, text.num_key_value_heads, PROMPT, text.head_dim, device=CUDA)
            cache.update(states, states, layer)
        mask = torch.ones(ROWS, PROMPT, device=CUDA) if padded else None
        hidden, position = torch.zeros(ROWS, text.hidden_size, device=CUDA), torch.zeros(ROWS, device=CUDA).long()
        patch.setattr(decoding, "prefill", lambda *_: Prefilled(hidden, position, mask, cache))
        patch.setattr(decoding, "now", lambda _device: 0.0)
        patch.setattr(decoding, "values_of", lambda done: looks.append(len(done)) or [False] * len(done))
        patch.setattr(decoding.Record, "select", lambda *_: None)  # it waits once, for what was emitted
        patch.setattr(decoding.Record, "decoded", lambda *_: None)
        patch.setattr(decoding, "joined", lambda *_: None)
        with Waits() as counted:
            decode(model, vision, bundle.tokens, prompts, sampling, Spans(4, "model"), [[1]] * ROWS)
    return len(looks), counted.count
