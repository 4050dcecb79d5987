"""Tokens a second and peak memory of decoding and of an SFT step, as frames, spans and batch grow.

One of the three grows at a time.  Memory is what torch holds beyond the weights (`peak_mib`).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.biased_logits import biased_logits, spans_at
from tests.performance.conftest import Measure, Table
from tests.performance.subject import Subject, dialogue, prompt, trainer_of
from training.model.completions import Decoded
from training.model.decode import decode
from training.model.encoding import Encoded, collate
from training.model.sampling import Sampling

FRAMES, SPANS, BATCH = (1, 4, 16), (0, 3), (1, 2, 4)
TEXT = 12  # tokens of text in an answer, whatever its spans


def settings() -> list[tuple[int, int, int]]:
    """Frames, spans and batch, one of them away from its middle."""
    triples = [(f, 3, 2) for f in FRAMES] + [(4, s, 2) for s in SPANS] + [(4, 3, b) for b in BATCH]
    return list(dict.fromkeys(triples))


@pytest.mark.parametrize("subject", ["mid-size"], indirect=True)
def test_growth_of_decoding(subject: Subject, measure: Measure, table: Table) -> None:
    """The tower runs in every prefill here; a span of 4 latents adds 6 tokens to an answer."""
    model, latents = subject.model, subject.latent_config.max_latents
    vision = model.vision()

    def generate(prompts: list[Encoded], new: int, opening: list[int]) -> Decoded:
        seeds = [[i] for i in range(len(prompts))]
        with biased_logits(model, spans_at(model, opening)):
            return decode(model.model, vision, model.tokens, prompts, Sampling(new), model.spans, seeds)

    lines, answers = list[list[object]](), dict[tuple[int, int, int], Decoded]()
    for setting in settings():
        frames, spans, batch = setting
        prompts = [prompt(subject.encoder, first, frames) for first in range(batch)]
        new = TEXT + spans * (latents + 2)
        opening = [(k + 1) * new // (spans + 1) - latents for k in range(spans)]
        cost = measure(partial(generate, prompts, new, opening))
        decoded = answers[setting] = cost.result
        assert decoded.ids.shape == (batch, new) and len(decoded.latents) == batch * spans * latents
        rate = batch * new / decoded.decode_seconds
        size = [len(prompts[0].ids), new]
        lines.append([*setting, *size, f"{decoded.prefill_seconds:.3f}", f"{rate:.0f}", f"{cost.mib:.1f}"])
    assert torch.equal(answers[4, 3, 4].ids[:2], answers[4, 3, 2].ids)
    assert torch.equal(answers[4, 3, 2].ids[:1], answers[4, 3, 1].ids)
    head = ["frames", "spans", "batch", "prompt", "answer", "prefill s", "tokens/s", "peak MiB"]
    table(f"{subject.name}, decoding", head, lines)


def inputs_of(rows: Sequence[Encoded], pad: int) -> dict[str, Any]:
    """What the trainer's collator makes of rows that are encoded already."""
    batch = collate(rows, pad)
    return {"input_ids": batch.ids, "attention_mask": batch.mask, "labels": batch.labels, "batch": batch}


@pytest.mark.parametrize("subject", ["mid-size"], indirect=True)
def test_growth_of_an_sft_step(subject: Subject, measure: Measure, table: Table, tmp_path: Path) -> None:
    """Forward and backward of the real trainer's loss, rows and features in memory, without gradient checkpointing.

    Each dialogue has the same thoughts, five, whatever its spans.
    """
    trainer = trainer_of(subject, tmp_path, keep=True)
    encoder, tokens = subject.model.encoder(subject.latent_config), subject.model.tokens

    def step(inputs: dict[str, Any]) -> float:
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        trainer.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    lines, losses = list[list[object]](), dict[tuple[int, int, int], float]()
    for setting in settings():
        frames, spans, batch = setting
        inputs = inputs_of([dialogue(encoder, first, frames, spans) for first in range(batch)], tokens.pad)
        assert int((inputs["input_ids"] == tokens.latent_start).sum()) == batch * spans
        cost = measure(partial(step, inputs))
        losses[setting] = cost.result
        count = int(inputs["attention_mask"].sum())
        lines.append([*setting, count // batch, f"{count / cost.seconds:.0f}", f"{cost.mib:.1f}"])
    alone = [dialogue(encoder, first, 4, 3) for first in range(4)]
    with torch.no_grad():
        each = [float(trainer.compute_loss(trainer.model, inputs_of([row], tokens.pad))) for row in alone]
    assert losses[4, 3, 4] == pytest.approx(sum(each) / 4, rel=1e-4)
    table(f"{subject.name}, an SFT step", ["frames", "spans", "batch", "tokens a row", "tokens/s", "peak MiB"], lines)
