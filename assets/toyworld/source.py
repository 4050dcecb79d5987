"""Writes the demo's whole source, as the real ones are laid out; nothing downstream knows the difference.

clips/*.mp4                    H.264 clips that the rows name
twiff/train-*.parquet          TwiFF-2.7M rows, among them easy, ambiguous and broken ones
futurebench/futurebench.json   with futurebench/first_part_video/*.mp4
twiffbench/test-*.parquet      with embedded images
SOURCE.json                    how many rows there are of each kind, and how far simple rules get
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from assets.toyworld.benchmarks import write_futurebench, write_twiffbench
from assets.toyworld.clips import write_clips
from assets.toyworld.trajectories import Mix, draw_shard
from training.tiny.world import draw_questions, rule_baselines

RULE_QUESTIONS = 3000
REPORT = "SOURCE.json"
STREAMS = {"rows": 0, "futurebench": 1, "twiffbench": 2, "rules": 3}  # one random stream for each part


@dataclass(frozen=True)
class SourceSizes:
    """How much to write: shards and rows, the mix of row kinds, broken rows of a kind and shard, benchmark items."""

    shards: int = 3
    rows_per_shard: int = 1700
    mix: Mix = field(default_factory=Mix)
    faults_per_shard: int = 1
    futurebench_per_split: int = 200
    twiffbench: int = 180


@dataclass(frozen=True)
class SourceReport:
    """What was written: rows by kind, broken rows by fault, clips, and the accuracy of simple rules on test boards."""

    seed: int
    rows: int
    kinds: dict[str, int]
    faults: dict[str, int]
    clips: int
    benchmark_clips: int
    rules: dict[str, float]


def write_source(
    root: Path, seed: int, sizes: SourceSizes, progress: Callable[[int, int], None] = lambda done, total: None
) -> SourceReport:
    """Writes the source under `root`, the same bytes for the same seed and sizes.

    Training boards are from the split "train", benchmark boards from "test".  `progress(done, total)` counts clips.
    """
    rng = {name: np.random.default_rng([seed, stream]) for name, stream in STREAMS.items()}
    for folder in ("clips", "twiff"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    clips, kinds, faults = [], Counter[str](), Counter[str]()
    for i in range(sizes.shards):
        shard = draw_shard(sizes.rows_per_shard, sizes.mix, sizes.faults_per_shard, root / "clips", rng["rows"])
        shard.write(root / "twiff" / f"train-{i:05d}-of-{sizes.shards:05d}.parquet")
        clips += shard.clips
        kinds += shard.kinds
        faults += shard.faults
    observed = write_futurebench(root / "futurebench", sizes.futurebench_per_split, rng["futurebench"])
    write_twiffbench(root / "twiffbench", sizes.twiffbench, sizes.mix.open_ended, rng["twiffbench"])
    write_clips(clips + observed, progress)
    report = SourceReport(
        seed=seed,
        rows=sizes.shards * sizes.rows_per_shard,
        kinds=dict(sorted(kinds.items())),
        faults=dict(sorted(faults.items())),
        clips=len(clips),
        benchmark_clips=len(observed),
        rules=rule_baselines(draw_questions(RULE_QUESTIONS, rng["rules"], "test")),
    )
    (root / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n")
    return report
