"""The demo's latent checkpoints in stock vLLM with our plug-in: served by `future-l1 serve`, and under both of vLLM's
runners with a cache so small that requests are preempted.  Tokens and latents are those of our own decoder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evaluation.benchmarks.benchmark import sample_items
from evaluation.benchmarks.futurebench import FutureBench
from tests.interop import vllm_requests, vllm_videos
from tests.interop.chats import Answer, Reference, chat
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_offline import offline_answers
from tests.interop.vllm_server import Server, in_flight, served
from training.data.parts import text
from training.engines import RUNNER
from training.engines.options import PREFIX
from training.model.interventions import zeros

ITEMS, INTERPRETED = 200, 20
INTERPRETER = Path(__file__).with_name("triton_interpreter")
TINY_CACHE = {"block_size": 32, "num_gpu_blocks_override": 12, "max_model_len": 256}
"""Twelve blocks for sixteen requests, each of which grows into its third."""
V2_VARIABLES = {RUNNER: "1", "PYTHONPATH": str(INTERPRETER)}
RUNNERS: tuple[tuple[str, Mapping[str, str], int], ...] = (
    ("V1", {}, ITEMS),
    ("V2", V2_VARIABLES, INTERPRETED),
)
"""A runner, the variables that choose it, and how many prompts it answers."""
FILLER = "The marble rolls on. "
LATENT_TOLERANCE = 2e-3


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    benchmark = FutureBench(demo.profile.benchmarks.futurebench.recipe)
    usable = demo.items(benchmark.name).filter(pl.col("problem").is_null())
    prompts = benchmark.prompts(sample_items(usable, ITEMS))
    contents = prompts["content"].to_list()
    for model, checkpoint in demo.latent_checkpoints.items():
        reference = Reference(checkpoint, demo.profile.benchmarks.futurebench.answers)
        with served(demo, checkpoint, work, "--max-model-len", 1024) as server:
            yield from _served(demo, model, reference, server, prompts)
            cases = vllm_requests.cases(server, chat(contents[0], reference.encoded(contents[0])))
            for case, came_out in cases.items():
                yield Check(f"{model}, served: {case}", "vLLM's server", int(came_out), 1)
            yield from vllm_videos.checks(demo, reference, server, f"{model}, served")
        for runner in RUNNERS:
            yield from _preempted(demo, checkpoint, model, reference, contents, work, runner)


def _served(
    demo: Demo, model: str, reference: Reference, server: Server, prompts: pl.DataFrame
) -> Iterator[Check]:
    """The answers that the demo has of the model, from a server."""
    stored = demo.answers("futurebench", model).join(prompts, on="prompt_id", how="semi")
    rows = stored.select("prompt_id", "tokens", "latents").iter_rows()
    ours = {name: (tokens, np.frombuffer(latents or b"", "<f2").astype("f4")) for name, tokens, latents in rows}
    chats = [chat(content, reference.encoded(content)) for content in prompts["content"]]
    answers = in_flight(lambda body: server.answer(body, reference.limit)[0], chats)
    yield from _compared(f"{model}, served", "vLLM's server", [ours[name] for name in prompts["prompt_id"]], answers)


def _compared(title: str, program: str, ours: list[Answer], answers: list[Answer]) -> Iterator[Check]:
    same = [(ours[1], theirs[1]) for ours, theirs in zip(ours, answers, strict=True) if ours[0] == theirs[0]]
    yield Check(f"{title}: answers token for token", program, len(same), len(ours))
    near = sum(bool(np.abs(latents - others).max(initial=0.0) <= LATENT_TOLERANCE) for latents, others in same)
    yield Check(f"{title}: latents to {LATENT_TOLERANCE}", program, near, len(same))


def _preempted(
    demo: Demo, checkpoint: Path, model: str, reference: Reference, contents: list[Any], work: Path,
    runner: tuple[str, Mapping[str, str], int],
) -> Iterator[Check]:  # fmt: skip
    """vllm.LLM with the tiny cache, in which each prompt is answered with the model's own latents and with zeros: a
    request that found blocks of the other's answer would go on wrongly."""
    name, variables, count = runner
    longer = [_longer(content) for content in contents[:count]]
    encoded = list(map(reference.encoded, longer))
    ours = {
        latents: reference.answers(reference.decoded(encoded, intervention))
        for latents, intervention in (("own", None), ("zeros", zeros()))
    }
    rows = [
        {**chat(content, e), "options": {f"{PREFIX}latents": latents}}
        for content, e in zip(longer, encoded, strict=True)
        for latents in ours
    ]
    answers, about = offline_answers(demo, checkpoint, rows, work, reference.limit, TINY_CACHE, variables)
    program = f"vLLM {about['vllm']}, {name} runner"
    for number, latents in enumerate(ours):
        title = f"{model}, preempted, {latents}"
        yield from _compared(title, program, ours[latents], answers[number :: len(ours)])
    preempted = int(about["preemptions"])
    yield Check(f"{model}: preemptions in the tiny cache", program, preempted, max(1, preempted))


def _longer(content: list[Any]) -> list[Any]:
    """The same prompt with more text before it, so that an answer begins near the end of a block of the cache."""
    return [text(FILLER * 4), *content]
