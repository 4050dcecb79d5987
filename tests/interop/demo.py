"""The demo whose artifacts are tried: its checkpoints, its benchmarks' items, and what its models answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from assets.benchmarks.assets import ANSWER_TABLE, GRADED_TABLE, ITEM_TABLE
from assets.curation.set_assets import items_key
from assets.framework.store import AssetStore
from pipelines.profile import Profile
from training.storage.artifacts import MODEL
from training.storage.parquet import read_parquet


@dataclass(frozen=True)
class Demo:
    """A home folder with everything that `future-l1 demo` makes."""

    profile: Profile
    python: Path
    """The interpreter of the environment that has lmms-eval and transformers, and our wheel without what it needs."""
    vllm: Path
    """The interpreter of the environment that has vLLM, and our wheel."""

    @cached_property
    def store(self) -> AssetStore:
        return AssetStore(self.profile.home)

    @cached_property
    def latent_checkpoints(self) -> Mapping[str, Path]:
        """The folders of the models with latents that the demo trains, by name: SFT's and RL's."""
        rl, start = next(iter(self.profile.checkpoints.rl.items()))
        return {start: self.checkpoint("sft", start), rl: self.checkpoint("rl", rl)}

    def checkpoint(self, stage: str, name: str) -> Path:
        """A model's folder, of the stage `sft` or `rl`."""
        return self.store.current(f"checkpoints/{stage}", name).path / MODEL

    def items(self, benchmark: str) -> pl.DataFrame:
        """The items of a benchmark, in order."""
        return read_parquet(self.store.current(items_key(benchmark)).path / ITEM_TABLE)

    def answers(self, benchmark: str, model: str) -> pl.DataFrame:
        """The model's answers to a benchmark (training.data.prompts.BenchmarkAnswerTable)."""
        return read_parquet(self.store.current(f"benchmarks/{benchmark}_answers", model).path / ANSWER_TABLE)

    def graded(self, benchmark: str, model: str) -> pl.DataFrame:
        """The model's graded answers to a benchmark."""
        return read_parquet(self.store.current(f"benchmarks/{benchmark}_report", model).path / GRADED_TABLE)
