"""The benchmarks by name, for the command line."""

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.benchmarks.futurebench_items import FutureBenchSettings
from evaluation.benchmarks.seedbench import SeedBench, SeedBenchOpen, SeedBenchOpenSettings, SeedBenchSettings
from evaluation.benchmarks.twiffbench import TwiffBench
from evaluation.benchmarks.twiffbench_items import TwiffBenchSettings

BENCHMARKS: dict[str, tuple[Any, Any]] = {
    FutureBench.name: (FutureBench, FutureBenchSettings),
    TwiffBench.name: (TwiffBench, TwiffBenchSettings),
    SeedBench.name: (SeedBench, SeedBenchSettings),
    SeedBenchOpen.name: (SeedBenchOpen, SeedBenchOpenSettings),
}


def make_benchmark(name: str, options: Mapping[str, Any]) -> Benchmark:
    """The benchmark with these fields of its settings.  Raises ValueError for a field that its settings lack."""
    if name == FutureBench.name and options.get("layout") == "keyframes":
        options = {"suffix": "", **options}  # a question as SFT rendered it has nothing after it
    benchmark, settings = BENCHMARKS[name]
    for option in set(options) - set(settings.model_fields):
        raise ValueError(f"{name} has no {option}: leave the option out")
    return benchmark(settings(**options))
