"""Tokens that vLLM's CPU build and our own decoder make in a second of one core, with the model of middle size."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evaluation.generation.config import checkpoint_generation
from tests.footage import CLIPS, FOOTAGE
from tests.interop.chats import Reference, chat
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_offline import offline_answers
from tests.midsize import LATENT_CONFIG, midsize
from training.data.parts import frame, text
from training.engines.options import PREFIX

PROMPTS, TOKENS = 16, 64
CLIP = "bikes.mp4"
OPTIONS = {"max_model_len": 512}
LATENT_TOLERANCE = 2e-3


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    """The model is untrained, so that its answers are scripts: text with a span of latents in every eighth place."""
    checkpoint = work / "midsize"
    midsize().save(checkpoint, LATENT_CONFIG)
    reference = Reference(checkpoint, checkpoint_generation(checkpoint, max_new_tokens=TOKENS, batch_size=PROMPTS))
    t = reference.bundle.tokens
    span = [t.latent_start, *[t.latent] * LATENT_CONFIG.max_latents, t.latent_end]
    word = reference.bundle.processor.tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    script = ((word * 2 + span) * TOKENS)[:TOKENS]
    numbers = np.linspace(0, CLIPS[CLIP] - 1, PROMPTS).astype(int).tolist()
    contents = [[frame(FOOTAGE / CLIP, number, 32), text("What does the rider do next?")] for number in numbers]
    encoded = list(map(reference.encoded, contents))
    start = time.process_time()
    ours = reference.answers(reference.decoded(encoded, scripts=[script] * PROMPTS))
    our_seconds = time.process_time() - start
    rows = [
        {**chat(content, e), "options": {f"{PREFIX}script": script}}
        for content, e in zip(contents, encoded, strict=True)
    ]
    answers, about = offline_answers(demo, checkpoint, rows, work, TOKENS, OPTIONS, {"OMP_NUM_THREADS": "1"})
    speeds = [PROMPTS * TOKENS / seconds for seconds in (about["cpu_seconds"], our_seconds)]
    pairs = zip(answers, ours, strict=True)
    near = sum(bool(np.allclose(theirs, latents, 1e-3, LATENT_TOLERANCE)) for (_, theirs), (_, latents) in pairs)
    title = f"mid-size: latents to {LATENT_TOLERANCE}; {speeds[0]:.0f} tokens a second of a core (ours {speeds[1]:.0f})"
    yield Check(title, f"vLLM {about['vllm']}, V1 runner", near, PROMPTS)
