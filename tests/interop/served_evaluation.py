"""The demo's FutureBench through `future-l1 serve`, by the program of the assets: tokens and latents are those of the
local engine, as the models answer and under every intervention by vLLM's V1 runner, and as they answer by its V2."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from tests.interop.vllm_engine import INTERPRETED, LATENT_TOLERANCE, V2_VARIABLES
from tests.interop.vllm_server import NO_VARIABLES, served
from training.chat.endpoint import ENDPOINT_KEYS, ServerSettings

INTERVENED_ITEMS = 100
SERVED = [name for name in INTERVENTIONS if name not in LOCAL_INTERVENTIONS]


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    benchmark = FutureBench(demo.profile.benchmarks.futurebench.recipe)
    usable = demo.items(benchmark.name).filter(pl.col("problem").is_null())
    everything, some, few = (work / f"{name}.parquet" for name in ("all", "some", "few"))
    for path, items in ((everything, None), (some, INTERVENED_ITEMS), (few, INTERPRETED)):
        benchmark.prompts(sample_items(usable, items)).write_parquet(path)
    for model, checkpoint in demo.latent_checkpoints.items():
        here, ours = work / model, demo.answers(benchmark.name, model)
        with _servers(demo, checkpoint, work) as servers:
            theirs = _answers(demo, model, here / "all", everything, ["none"], servers)["none"]
            yield from _compared(f"{model}, evaluated", ours, theirs)
            intervened = _answers(demo, model, here / "served", some, SERVED[1:], servers)
        for name, changed in _answers(demo, model, here / "local", some, SERVED[1:], None).items():
            yield from _compared(f"{model}, {name}", changed, intervened[name])
        with _servers(demo, checkpoint, work, V2_VARIABLES) as servers:
            theirs = _answers(demo, model, here / "v2", few, ["none"], servers)["none"]
        ours = ours.join(pl.read_parquet(few, columns=["prompt_id"]), on="prompt_id", how="semi")
        yield from _compared(f"{model}, evaluated, V2 runner", ours, theirs)


@contextmanager
def _servers(
    demo: Demo, checkpoint: Path, work: Path, variables: Mapping[str, str] = NO_VARIABLES
) -> Iterator[ServerSettings]:
    with (
        served(demo, checkpoint, work, variables=variables) as server,
        patch.dict(os.environ, {ENDPOINT_KEYS[0]: server.key}),
    ):
        yield ServerSettings(base_urls=(server.url,), concurrency=16)


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
    near = sum(_are_near(a, b) for a, b in same.select("latents", "latents_served").iter_rows())
    yield Check(f"{title}: latents to {LATENT_TOLERANCE}, or float16's next", "vLLM's server", near, same.height)


def _are_near(ours: bytes | None, theirs: bytes | None) -> bool:
    """Whether the latents are the same to the tolerance, or are neighbours among the numbers of float16 that a table
    has of them: from 4 on these are 0.004 apart, and a rounding of the last bit of float32 decides between them."""
    a, b = (np.frombuffer(latents or b"", "<f2") for latents in (ours, theirs))
    tolerance = np.maximum(np.spacing(np.abs(a)), LATENT_TOLERANCE)
    return bool((np.abs(a.astype(np.float32) - b) <= tolerance).all())
