"""A session of a checkpoint on a small TwiFF-Bench of the toy world."""

from pathlib import Path
from typing import Any

import numpy as np

from assets.toyworld.source import write_twiffbench
from evaluation.benchmarks.twiffbench import TwiffBench
from evaluation.benchmarks.twiffbench_items import TwiffBenchSettings
from evaluation.explorer.examples import Group
from evaluation.explorer.session import Session
from evaluation.explorer.state import State
from evaluation.explorer.uploads import Uploads
from evaluation.generation.config import GenerationConfig
from training.model.checkpoint import FutureL1


def toy_session(bundle: FutureL1, folder: Path) -> Session:
    """Twelve items, which the folder gets."""
    write_twiffbench(folder, 12, 0.0, np.random.default_rng(3))
    benchmark = TwiffBench(TwiffBenchSettings(layout="interleaved"))
    benchmark.items(folder).write_parquet(folder / "items.parquet")
    group = Group(benchmark, folder / "items.parquet")
    generation = GenerationConfig(max_new_tokens=80, batch_size=1, image_tokens=(4, 16))
    (folder / "clips").mkdir()
    return Session(bundle, "<b>tiny</b>", [group], generation, Uploads(folder / "clips"), seed=0)


def item_with_spans(session: Session) -> str:
    """The key of the first item whose answer has a span and an `<answer>`."""
    for key in session.groups["twiffbench"].titles:
        events: list[dict[str, Any]] = []
        session.show(State(key), events.append)
        report = events[-1]["report"]
        if report["spans"] and any(block["kind"] == "answer" for block in report["blocks"]):
            return key
    raise AssertionError("no item is answered with a span")
