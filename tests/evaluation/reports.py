"""Reports of four imagined models, in the shapes that the report modules write."""

from typing import Any

from evaluation.futurebench import SPAN_BINS, SPLITS
from evaluation.statistics import Proportion, bootstrap_mean, paired_difference

ACCURACY = {"base": 0.08, "text_only": 0.25, "future_l1": 0.74, "la_dapo": 0.93}
SPANS = {"base": [0, 0, 0, 0], "text_only": [0, 0, 0, 0], "future_l1": [1, 2, 0, 1], "la_dapo": [1, 2, 3, 2]}


def futurebench(model: str, n: int = 200) -> dict[str, Any]:
    accuracy = ACCURACY[model]
    right = [round(n * min(1.0, accuracy * f)) for f in (1.1, 1.05, 0.85, 1.0)]
    spans = {}
    for split, most in zip(SPLITS, SPANS[model], strict=True):
        counts = [most] * (n - n // 10) + [max(0, most - 1)] * (n // 10)
        shares = {b: sum(str(min(c, 4)).replace("4", ">3") == b for c in counts) / n for b in SPAN_BINS}
        spans[split] = bootstrap_mean(counts).as_dict() | {"shares": shares}
    return {
        "parser": "option_text",
        "layout": "keyframes",
        "items": 4 * n,
        "answered": 4 * n,
        "missing": 0,
        "splits": {split: Proportion(r, n).as_dict() for split, r in zip(SPLITS, right, strict=True)},
        "average": Proportion(sum(right), 4 * n).as_dict(),
        "among_parsed": Proportion(sum(right), 4 * n if accuracy > 0.1 else 2 * sum(right)).as_dict(),
        "unparsed": {"n": 4 * n, "count": 7},
        "spans": spans,
        "cost": {"text_tokens": 14.0, "latent_tokens": 6.5, "control_tokens": 3.0, "prefill_seconds": 0.004,
                 "decode_seconds": 0.02, "cut_short": 0, "n": 4 * n},
    }  # fmt: skip


def twiffbench(model: str) -> dict[str, Any]:
    marks = {
        "cot": bootstrap_mean([3, 4, 5, 5, 5] * 36),
        "answer": bootstrap_mean([0, 5, 5] * 60 if model == "la_dapo" else [0, 0, 5] * 60),
        "average": bootstrap_mean([2, 3, 4] * 60),
    }
    return {name: mean.as_dict() for name, mean in marks.items()} | {
        "status": "complete",
        "coverage": {"items": 180, "answered": 180, "judged": 180},
        "categories": {},
        "judge": {"model": "toy-judge", "prompt": "0" * 16},
    }


def necessity(model: str) -> dict[str, Any]:
    n = 300
    right = round(n * ACCURACY[model])
    own, other = [True] * right + [False] * (n - right), [True] * 40 + [False] * (n - 40)
    row = {
        "accuracy": Proportion(40, n).as_dict(),
        "difference": paired_difference(own, other).as_dict(),
        "answers_changed": Proportion(right - 40, n).as_dict(),
        "sentence": "Replacing latents changes most answers: these latents are used.",
    }
    return {
        "own": Proportion(right, n).as_dict() | {"with_latents": n},
        "interventions": dict.fromkeys(("zeros", "noise", "other_item"), row),
        "verdict": "These latents are used: every replacement costs accuracy.",
    }


def curation() -> dict[str, Any]:
    scored = {
        "-2": 3,
        "-1": 30,
        "0": 610,
        "1": 140,
        "2": 130,
        "3": 160,
        "4": 190,
        "5": 280,
        "6": 520,
        "7": 900,
        "8": 2074,
    }
    return {
        "read": 5060,
        "scored": 5037,
        "kept": 2400,
        "rejected": 2637,
        "pending": 0,
        "retained": 4254,
        "rejected_by_reason": {"saturated": 400, "low_gain": 383, "below_the_cut": 1854},
        "lowest_gain_kept": 7,
        "gain_histogram": scored,
        "gain_histogram_kept": {"7": 326, "8": 2074},
        "categories": {"instructional": 830, "predictive": 800, "camera": 770},
        "future_frames": {"1": 820, "2": 790, "3": 790},
    }


def everything() -> dict[str, Any]:
    return {
        "curation": curation(),
        "futurebench": {m: futurebench(m) for m in ACCURACY},
        "twiffbench": {m: twiffbench(m) for m in ACCURACY},
        "necessity": {m: necessity(m) for m in ("future_l1", "la_dapo")},
        "seconds": {"source": 31.2, "curation": 80.4, "sft": 171.0, "rl": 92.0},
    }
