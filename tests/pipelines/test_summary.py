"""The tables at the end of a run."""

from pathlib import Path

from rich.console import Console

from evaluation.benchmarks.futurebench_items import SPLITS
from pipelines.profile import ablation
from pipelines.summary import _futurebench


def test_no_score_is_cut_off_on_eighty_columns(tmp_path: Path) -> None:
    """With the models of the profile `ablation`, and the widest of intervals."""
    models = ablation(tmp_path).checkpoints.models
    score = {"correct": 200, "n": 200, "interval": (0.981, 1.0)}
    summary = {
        "futurebench": {model: {**dict.fromkeys(SPLITS, score), "average": score} for model in models},
        "futurebench_among_options": dict.fromkeys(models, score),
        "spans": {model: dict.fromkeys(SPLITS, 1.0) for model in models},
    }
    console = Console(width=80)
    with console.capture() as capture:
        console.print(_futurebench(summary))
    text = capture.get()
    assert "…" not in text and text.count("(98–100)") == 6 * len(models) and "random_targets" in text
