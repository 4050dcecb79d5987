"""Memory of one device in SFT and RL, by part.

A step's memory is that of its worst moment.  Which tensors are alive at a moment was read off fake tensors of the
trainers' own steps (tests/performance/fake_training.py), to which tests hold these sums: the backward pass of a layer,
while the next one is gathered; that of the embedding, at the end of a step; and the head with its logits.  Activations
are checkpointed: each layer's input is kept, and its inside is computed again in the backward pass.

Left out: NCCL's buffers, CUDA's context and what its allocator loses to fragments (RESERVE stands for these).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from training.estimate.shape import BatchShape, ModelShape
from training.recipes import LoraSettings

GIB = 2**30
MAX_LOGITS = 2**27
"""That of training.model.splice, which imports torch."""
FREE_SHARE = 0.8
"""That of training.model.token_budget, which imports torch."""
RESERVE = 0.1
"""The share of a device's memory that an estimate leaves alone."""
SORT_BYTES = 28
"""Of a logit when a token is picked: float32 copies, their sorted order, and its indices."""

Part = Literal[
    "weights", "fp32 masters", "optimiser", "gradients", "reference", "gathered weights", "activations", "logits",
    "vision features", "cache",
]  # fmt: skip
Parts = Mapping[Part, float]
Phase = Literal["loading", "rollouts", "updates"]


@dataclass(frozen=True)
class Layout:
    """Where a training's weights lie: devices, whether FSDP2 shards them, and whether RL compares with its start.

    lora: adapters on a frozen bf16 base, which is the reference where they are off; None: all weights of the language
    model learn, and a reference is a second model.
    """

    devices: int
    sharded: bool
    reference: bool
    lora: LoraSettings | None = None

    @property
    def shards(self) -> int:
        return self.devices if self.sharded else 1

    @property
    def second_model(self) -> bool:
        return self.reference and not self.lora


def learning_parameters(model: ModelShape, lora: LoraSettings | None) -> int:
    """Weights that learn: the language model's, or the adapters'."""
    if lora is None:
        return model.language_parameters
    queries, keys, inside = (model.hidden + width for width in (model.queries, model.keys, model.intermediate))
    widths = {
        "q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": queries,
        "gate_proj": inside, "up_proj": inside, "down_proj": inside,
    }  # fmt: skip
    return lora.r * model.layers * sum(widths[name] for name in lora.target_modules)


def states(model: ModelShape, layout: Layout) -> Parts:
    """Bytes that a training keeps from its first step to its last."""
    learning = learning_parameters(model, layout.lora)
    frozen = model.parameters - (0 if layout.lora else learning)
    # sharded, the frozen tower is there twice: in shards that nobody gathers, and whole
    weights = 2 * frozen / layout.shards + (2 * model.vision_parameters if layout.sharded else 0)
    return {
        "weights": weights,
        "fp32 masters": 4 * learning / layout.shards,
        "optimiser": 8 * learning / layout.shards,
        "reference": 2 * model.parameters / layout.shards if layout.second_model else 0,
    }


def gradients(model: ModelShape, layout: Layout) -> float:
    """Bytes of a step's gradients; DDP has a copy of them in its buckets."""
    buckets = 2 if layout.devices > 1 and not layout.sharded else 1
    return buckets * 4 * learning_parameters(model, layout.lora) / layout.shards


def phases(model: ModelShape, layout: Layout, batch: BatchShape, answers: BatchShape | None) -> dict[Phase, Parts]:
    """Bytes by part of each phase of a training.

    batch: a micro-batch.  answers: those to one prompt, whose `tokens` are those of the prompt and the longest answer;
    None in SFT, which decodes nothing.
    """
    decoding: dict[Phase, Parts] = {"rollouts": _rollouts(model, layout, answers)} if answers else {}
    return {"loading": _loading(model, layout), **decoding, "updates": updates(model, layout, batch)}


def total(parts: Parts) -> float:
    return sum(parts.values())


def updates(model: ModelShape, layout: Layout, batch: BatchShape) -> Parts:
    """Bytes by part at the worst moment of a micro-batch that is not a step's first."""
    moments_of = _sharded_moments if layout.sharded else _adapter_moments if layout.lora else _whole_moments
    worst = max(moments_of(model, layout, batch), key=total)
    return {**states(model, layout), "gradients": gradients(model, layout), **worst}


def cache_tokens(model: ModelShape, layout: Layout, usable_gib: float, answers: BatchShape) -> int:
    """Tokens that RL decodes at once: FREE_SHARE of what the weights leave free."""
    held = total(_rollouts(model, layout, answers)) - _cache(model, answers)
    return max(0, int(FREE_SHARE * (usable_gib * GIB - held) / model.cache_bytes))


def _sharded_moments(model: ModelShape, layout: Layout, batch: BatchShape) -> list[Parts]:
    tokens, layer, embedding = batch.rows * batch.tokens, 2 * model.layer_parameters, 2 * model.embedding_parameters
    layer_gradient, logits = 2 * model.hidden * model.intermediate, _logits(model, batch)
    # the head stays whole, and its gradient, until the step ends; the layer before is there in fp32, the next in bf16
    gathered = 2 * embedding + 4 * layer + layer_gradient
    inside = 2 * tokens * (_layer_width(model, batch, norms=9) + 2 * model.head)
    inputs = 2 * tokens * model.hidden
    last = (4 + 1) * embedding if not model.tied else 4 * embedding  # the embedding's and the head's, some in fp32
    head_width = (model.layers + 4) * model.hidden + batch.tokens / 2 + 2 * model.head
    return [
        {"gathered weights": gathered, "activations": (model.layers - 1) * inputs + inside},
        {"gathered weights": gathered + (0 if model.tied else embedding - layer), "activations": inputs + inside},
        {"gathered weights": last + max(2 * embedding / layout.shards, 2 * layer if model.tied else 0)},
        {
            "gathered weights": 3 * embedding,
            "activations": 2 * (tokens * head_width + 2 * batch.rows * batch.scored * model.hidden),
            "logits": (14 if logits < MAX_LOGITS else 12) * logits,  # in parts, the policy's are computed again
            "vision features": _features(model, batch),
        },
    ]


def _whole_moments(model: ModelShape, layout: Layout, batch: BatchShape) -> list[Parts]:
    """Under autocast: hidden states are fp32, and each weight that learns has a bf16 copy while it is needed."""
    tokens, embedding = batch.rows * batch.tokens, 2 * model.embedding_parameters
    inputs = 4 * tokens * model.hidden
    width = (model.layers + 3) * 2 * model.hidden + batch.tokens / 2 + 4 * model.head
    inside = 2 * tokens * (_layer_width(model, batch, norms=13) + 4 * model.head)
    copies = 2 * (model.layer_parameters - model.hidden * model.intermediate)
    head_copies = 2 * model.layers * model.layer_parameters + embedding
    return [
        {"gathered weights": copies, "activations": model.layers * inputs + inside},
        {
            "gathered weights": head_copies,
            "activations": 2 * (tokens * width + 2 * batch.rows * batch.scored * model.hidden),
            "logits": 10 * _logits(model, batch),
            "vision features": _features(model, batch),
        },
    ]


def _adapter_moments(model: ModelShape, layout: Layout, batch: BatchShape) -> list[Parts]:
    """On a frozen bf16 base: of its weights only the embedding and the head are copied, in which new rows learn."""
    tokens, embedding, logits = batch.rows * batch.tokens, 2 * model.embedding_parameters, _logits(model, batch)
    rank = layout.lora.r if layout.lora else 0
    width = _layer_width(model, batch, norms=14) + model.intermediate + 2 * model.head + 9 * rank
    head_width = (model.layers + 3) * model.hidden + batch.tokens / 2 + 2 * model.head
    return [
        {"activations": 2 * tokens * (model.layers * model.hidden + width)},
        {"gathered weights": 2 * embedding, "activations": 2 * tokens * head_width, "logits": 4 * logits},
        {
            "gathered weights": embedding,
            "activations": 2 * tokens * head_width,
            "logits": (14 if layout.reference and logits < MAX_LOGITS else 12) * logits,
            "vision features": _features(model, batch),
        },
    ]


def _layer_width(model: ModelShape, batch: BatchShape, norms: int) -> float:
    """bf16 components of a token that a layer's backward pass has at once; padding needs masks of T in two dtypes."""
    return 6 * model.intermediate + norms * model.hidden + 7 * model.queries + 3 * model.keys + 1.5 * batch.tokens


def _loading(model: ModelShape, layout: Layout) -> Parts:
    """Weights are read whole, and sharded after."""
    learning = learning_parameters(model, layout.lora)
    frozen = model.parameters - (0 if layout.lora else learning)
    return {
        "weights": 2 * frozen + (2 * model.vision_parameters if layout.sharded else 0),
        "fp32 masters": 4 * learning,
        "reference": 2 * model.parameters if layout.second_model else 0,
    }


def _rollouts(model: ModelShape, layout: Layout, answers: BatchShape) -> Parts:
    # a frozen bf16 base is decoded with as it is, but for a copy of the embedding or the head with its new rows
    gathered = 2 * model.language_parameters if layout.sharded or not layout.lora else 0
    return {
        **states(model, layout),
        "gathered weights": gathered + (2 * model.embedding_parameters if layout.lora else 0),
        "cache": _cache(model, answers),
        "logits": SORT_BYTES * answers.rows * model.vocabulary,
        "vision features": _features(model, answers) / answers.rows,
    }


def _cache(model: ModelShape, answers: BatchShape) -> int:
    """Keys and values of the answers to one prompt, which counts as one answer more while it is prefilled."""
    return (answers.rows + 1) * answers.tokens * model.cache_bytes


def _logits(model: ModelShape, batch: BatchShape) -> int:
    return min(batch.rows * batch.scored * model.vocabulary, MAX_LOGITS)


def _features(model: ModelShape, batch: BatchShape) -> int:
    return 2 * batch.rows * batch.vision_tokens * (1 + model.levels) * model.hidden
