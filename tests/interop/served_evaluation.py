"""The demo's FutureBench through `future-l1 serve`, by the program of the assets: tokens and latents are those of the
local engine, as the models answer and under every intervention."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl

from assets.benchmarks.latents import LATENT_RETRIEVAL
from evaluation.benchmarks.benchmark import sample_items
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.jobs import INTERVENTIONS, LOCAL_INTERVENTIONS, AnswerJob, GenerateConfig, InterventionName
from evaluation.generation.program import generate
from evaluation.latents.retrieval_report import MEAN_FILE
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_engine import LATENT_TOLERANCE
from tests.interop.vllm_server import served
from training.chat.endpoint import ENDPOINT_KEYS, ServerSettings

INTERVENED_ITEMS = 100
SERVED = [name for name in INTERVENTIONS if name not in LOCAL_INTERVENTIONS]


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    benchmark = FutureBench(demo.profile.benchmarks.futurebench.recipe)
    usable = demo.items(benchmark.name).filter(pl.col("problem").is_null())
    everything, some = work / "all.parquet", work / "some.parquet"
    benchmark.prompts(usable).write_parquet(everything)
    benchmark.prompts(sample_items(usable, INTERVENED_ITEMS)).write_parquet(some)
    for model, checkpoint in demo.latent_checkpoints.items():
        here = work / model
        with served(demo, checkpoint, work) as server, patch.dict(os.environ, {ENDPOINT_KEYS[0]: server.key}):
            servers = ServerSettings(base_urls=(server.url,), concurrency=16)
            theirs = _answers(demo, model, here / "all", everything, ["none"], servers)["none"]
            yield from _compared(f"{model}, evaluated", demo.answers(benchmark.name, model), theirs)
            intervened = _answers(demo, model, here / "served", some, SERVED[1:], servers)
        for name, ours in _answers(demo, model, here / "local", some, SERVED[1:], None).items():
            yield from _compared(f"{model}, {name}", ours, intervened[name])


def _answers(
    demo: Demo, model: str, out: Path, prompts: Path, names: list[InterventionName], servers: ServerSettings | None
) -> Mapping[InterventionName, pl.DataFrame]:
    """The answers under each of these interventions."""
    mean = demo.store.current(LATENT_RETRIEVAL, model).file(MEAN_FILE)
    jobs = [
        AnswerJob(
            name=name,
            checkpoint=demo.latent_checkpoints[model],
            endpoint=servers,
            prompts=prompts,
            generation=demo.profile.benchmarks.futurebench.answers,
            seed=demo.profile.seed,
            intervention=name,
            reference_latents=mean if name == "mean" else None,
            keep_latents=True,
        )
        for name in names
    ]
    generate(GenerateConfig(out=out, device="cpu", jobs=jobs))
    return {name: pl.read_parquet(out / f"{name}.parquet") for name in names}


def _compared(title: str, ours: pl.DataFrame, theirs: pl.DataFrame) -> Iterator[Check]:
    columns = ("prompt_id", "tokens", "latents")
    pairs = ours.select(columns).join(theirs.select(columns), on="prompt_id", how="left", suffix="_served")
    same = pairs.filter(pl.col("tokens") == pl.col("tokens_served"))
    yield Check(f"{title}: answers token for token", "vLLM's server", same.height, ours.height)
    near = sum(
        bool(np.abs(_floats(a) - _floats(b)).max(initial=0.0) <= LATENT_TOLERANCE)
        for a, b in same.select("latents", "latents_served").iter_rows()
    )
    yield Check(f"{title}: latents to {LATENT_TOLERANCE}", "vLLM's server", near, same.height)


def _floats(latents: bytes | None) -> np.ndarray:
    return np.frombuffer(latents or b"", "<f2").astype(np.float32)
