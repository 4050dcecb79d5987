"""The published scores (published.json: of arXiv 2606.05769, and those that it quotes) as rows of our tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.reports.sections.parts import DASH, Cell, Row
from evaluation.statistics import Proportion

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "published.json").read_text(encoding="utf-8"))
COUNTERPARTS = {
    "base": "Qwen3-VL-8B zero-shot",
    "text_only": "text-only SFT",
    "random": "random-50K SFT",
    "future_l1": "Future-L1-SFT",
    "grpo": "Future-L1-SFT + GRPO",
    "dapo": "Future-L1-SFT + DAPO",
    "dapo_ctr": "DAPO + R_ctr",
    "dapo_div": "DAPO + R_div",
    "la_dapo": "Future-L1-RL (LA-DAPO)",
    "grpo_text_only": "text-only SFT + GRPO",
    "dapo_text_only": "text-only SFT + DAPO",
}
"""The published row of a recipe of ours."""
TWIFF_COUNTERPARTS = {"base": "Qwen3-VL-8B zero-shot", "future_l1": "Future-L1-SFT", "la_dapo": "Future-L1-RL 10K",
                      "la_dapo_5k": "Future-L1-RL 5K", "la_dapo_20k": "Future-L1-RL 20K"}  # fmt: skip
COST_COUNTERPARTS = {"base": "Qwen3-VL-8B", "future_l1": "Future-L1-SFT", "la_dapo": "Future-L1-RL"}


def futurebench_rows(beside: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The published FutureBench rows: those that stand beside rows of ours, and the others."""
    source = PUBLISHED["futurebench"]
    rows: dict[str, Row] = {}
    for name, scores in source["rows"].items():
        counted = [Proportion(round(s * n / 100), n) for s, n in zip(scores, source["n"], strict=True)]
        bounds = [c.interval or (0.0, 1.0) for c in counted]
        cells = [
            Cell(f"{score:.1f} %", f"{100 * low:.1f}–{100 * high:.1f}, n = {c.n:,}")
            for score, c, (low, high) in zip(scores, counted, bounds, strict=True)
        ]
        rows[name] = Row([Cell(name), *cells, Cell(DASH), Cell("published")], published=True)
    chosen = [name for name in beside if name in rows]
    return [rows[name] for name in chosen], [row for name, row in rows.items() if name not in chosen]


def twiffbench_rows(models: Sequence[str]) -> list[Row]:
    """The published TwiFF-Bench rows of these models of ours."""
    source = PUBLISHED["twiffbench"]
    rows = []
    for name in dict.fromkeys(TWIFF_COUNTERPARTS[model] for model in models if model in TWIFF_COUNTERPARTS):
        cells = [Cell(f"{score:.2f}", f"n = {source['n']:,}") for score in source["rows"][name]]
        rows.append(Row([Cell(name), *cells, Cell(DASH, "no interval published")], published=True))
    return rows


def cost_rows(models: Sequence[str]) -> list[Row]:
    """The published costs of these models of ours: tokens as a whole, one latency."""
    rows = []
    for name in (COST_COUNTERPARTS[model] for model in models if model in COST_COUNTERPARTS):
        tokens, accuracy, seconds, rate = PUBLISHED["inference_cost"]["rows"][name]
        split, cut_short = [Cell(DASH)] * 4, Cell(DASH)
        latency = [Cell(DASH), Cell(f"{seconds:.2f}", "total")]
        cells = [Cell(f"{accuracy:.1f} %", "n = 1,056"), Cell(f"{tokens:.1f}")]
        rows.append(Row([Cell(name), *cells, *split, *latency, Cell(f"{rate:.1f}"), cut_short], published=True))
    return rows
