"""Decoding of random models: a step of answers with latent spans, against plain transformers' `generate` of text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tests.biased_logits import biased_logits, spans_at
from tests.gpu.machine import Machine
from tests.gpu.results import Figure
from tests.gpu.rows import ArrayReader, random_rows
from tests.gpu.shapes import Shapes, latent_config
from tests.midsize import random_model
from training.model.checkpoint import FutureL1
from training.model.decode import decode, now
from training.model.encoding import Encoded, collate
from training.model.modes import Spans
from training.model.sampling import Sampling
from training.model.vision import FrozenVision


def decoding(machine: Machine, shapes: Shapes, name: str) -> list[Figure]:
    """Milliseconds a step and tokens a second at each batch, and the peak of all."""
    bundle = random_model(
        shapes.models[name], latent_config(shapes.image_tokens), device=machine.device, dtype=torch.bfloat16
    )
    reader, vision = ArrayReader(bundle.prompt_encoder((2, shapes.image_tokens), None), False), bundle.vision(2**30)
    prompts = [reader.prompt(row) for row in random_rows(max(shapes.batches), shapes.frame)]
    figures = []
    for batch in shapes.batches:
        inputs = plain_inputs(bundle, prompts[:batch])
        ours = step_seconds(machine, lambda n, b=batch: latent_answers(bundle, vision, prompts[:b], n), shapes)
        plain = step_seconds(machine, lambda n, i=inputs: plain_answers(bundle, i, n), shapes)
        figures += [
            Figure(f"a step at batch {batch}, with spans", 1000 * ours, "ms", 1000 * plain, "generate, text:"),
            Figure(f"tokens at batch {batch}, with spans", batch / ours, "tokens/s", batch / plain, "generate, text:"),
        ]
    return [*figures, Figure("peak memory", machine.peak_gib(), "GiB")]


def step_seconds(machine: Machine, answer: Callable[[int], object], shapes: Shapes) -> float:
    """Seconds of a step after the prefill, which answers of one token take too."""

    def seconds(new_tokens: int) -> float:
        start = now(machine.device)
        answer(new_tokens)
        return now(machine.device) - start

    answer(2)  # warms up
    return (seconds(shapes.new_tokens) - seconds(1)) / (shapes.new_tokens - 1)


def latent_answers(bundle: FutureL1, vision: FrozenVision, prompts: Sequence[Encoded], new_tokens: int) -> torch.Tensor:
    """Greedy answers [B,S] of one length with two full spans."""
    with biased_logits(bundle, spans_at(bundle, [new_tokens // 4, new_tokens // 2])):
        return _decoded(bundle, vision, prompts, new_tokens, bundle.spans)


def text_answers(bundle: FutureL1, vision: FrozenVision, prompts: Sequence[Encoded], new_tokens: int) -> torch.Tensor:
    """Greedy answers [B,S] of one length without spans: those of `plain_answers`."""
    with biased_logits(bundle, text_alone(bundle)):
        return _decoded(bundle, vision, prompts, new_tokens, Spans(0, "model"))


def _decoded(
    bundle: FutureL1, vision: FrozenVision, prompts: Sequence[Encoded], new_tokens: int, spans: Spans
) -> torch.Tensor:
    sampling, seeds = Sampling(new_tokens), [[0]] * len(prompts)
    return decode(bundle.model, vision, bundle.tokens, prompts, sampling, spans, seeds).ids


def plain_answers(bundle: FutureL1, inputs: Mapping[str, Any], new_tokens: int) -> torch.Tensor:
    """The same by transformers' `generate`."""
    with biased_logits(bundle, text_alone(bundle)), torch.no_grad():
        sequences = bundle.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return sequences[:, inputs["input_ids"].shape[1] :]


def text_alone(bundle: FutureL1) -> Callable[[int], dict[int, float]]:
    """No span opens and no answer ends."""
    t = bundle.tokens
    never = dict.fromkeys((*t.placeholders, *t.control, t.pad), -1e4)
    return lambda _step: never


def plain_inputs(bundle: FutureL1, prompts: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """What the processor would return for the prompts."""
    batch, device = collate(prompts, bundle.tokens.pad, "left"), bundle.model.device
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.mask,
        "mm_token_type_ids": (batch.ids == bundle.tokens.image).int(),
        "pixel_values": torch.cat([patches.pixels for patches in batch.observed]),
        "image_grid_thw": torch.stack([patches.grid for patches in batch.observed]),
    }
    return {name: tensor.to(device) for name, tensor in inputs.items()}
