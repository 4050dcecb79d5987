"""Reports of four imagined models, in the shapes that the report modules write."""

from dataclasses import replace
from typing import Any

from evaluation.benchmarks.choice import SPAN_BINS
from evaluation.benchmarks.futurebench_items import SPLITS
from evaluation.latents.diagnostics import diagnostics_report
from evaluation.latents.retrieval_report import SpanScore, retrieval_report
from evaluation.statistics import Proportion, bootstrap_mean, paired_difference
from tests.evaluation.latents import graded

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
        "parsers": {
            name: Proportion(sum(right) if name == "option_text" else 0, 4 * n).as_dict() | {"unparsed": 7}
            for name in ("release", "option_text")
        },
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
        "reason": None,
        "coverage": {"items": 180, "answered": 180, "judged": 180},
        "splits": {"camera": {name: mean.as_dict() for name, mean in marks.items()}},
        "agreement": {"cot": {"kappa": 0.87, "n": 180}, "answer": {"kappa": None, "n": 0}},
        "judge": {"model": "toy-judge", "prompt": "0" * 16},
    }


def necessity(model: str) -> dict[str, Any]:
    n = 300
    right = round(n * ACCURACY[model])
    original, other = [True] * right + [False] * (n - right), [True] * 40 + [False] * (n - 40)
    row = {
        "accuracy": Proportion(40, n).as_dict(),
        "difference": paired_difference(original, other).as_dict(),
        "answers_changed": Proportion(right - 40, n).as_dict(),
        "text_changed": Proportion(right, n).as_dict(),
        "sentence": "Replacing latents changes most answers: these latents are used.",
    }
    report = {
        "original": Proportion(right, n).as_dict() | {"with_latents": n},
        "interventions": dict.fromkeys(("zeros", "noise", "other_item"), row),
        "controls": dict.fromkeys(("no_video", "options_1"), row),
        "rotations": {
            "n": n,
            "consistent": Proportion(270, n).as_dict(),
            "correct_in_all": Proportion(210, n).as_dict(),
        },
        "latents": {
            "n_answers": n,
            "n_latents": 8 * n,
            "within_item_cosine": bootstrap_mean([0.4, 0.5] * 40).as_dict(),
            "between_item_cosine": bootstrap_mean([0.1, 0.2] * 40).as_dict(),
            "effective_rank": 11.4,
        },
        "untested": [],
        "verdict": "These latents are used: every replacement costs accuracy.",
    }
    words = graded.speaking(graded.SAYING[:60])["words"]
    answers = replace(
        graded.tables(graded.CHOSEN, graded.graded([False] * graded.N), of_span=4),
        readings=graded.readings(0.2, 0.1).with_columns(words),
    )
    return report | diagnostics_report(report, answers) | {"cost": {"zeros": {"answers": n, "seconds": 1.5}}}


def latent_retrieval(hits: int) -> dict[str, Any]:
    """Of ten items with two spans each, `hits` first spans are nearest to their true frame, as the latents are."""
    scores = [
        SpanScore(str(item), number, 3, 16, rank, 5, min(rank, 4), 4, 0.2 * rank, 1.0, 1.0)
        for item in range(10)
        for number in (1, 2)
        for rank in [1 if number == 1 and item < hits else 4]
    ]
    return retrieval_report(scores, {}, "rl")


def latent_map() -> dict[str, Any]:
    points = {"n": 12, "x": [0.0, 1.0, -1.0, 2.0], "y": [1.0, 0.0, 0.5, -1.0], "span": [1, 2, 3, 7]}
    return {"axes": "PCA", "explained": [0.6, 0.25], "models": {"future_l1": points, "la_dapo": points}}


def curve(accuracy: float) -> list[dict[str, float]]:
    names = ("rewards/accuracy/mean", "rewards/format/mean", "rewards/r_ctr/mean", "rewards/r_div/mean", "spans")
    return [{"step": step, **dict.fromkeys(names, accuracy + step / 100)} for step in range(1, 21)]


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


ROW = "8287ce9d3ff84d0c"
"""A row that models were trained on."""


def lineage() -> dict[str, Any]:
    """The traces of two models' reports, of a row and of an item."""
    models = {
        model: {
            "id": model,
            "artifacts": {f"benchmarks/futurebench_report/{model}": f"report-of-{model}"},
            "upstream": {
                f"checkpoints/rl/{model}": f"{model}-0123456789",
                "curation/rl_sets": "rl-sets",
                "trajectories/twiff_rows": "",
            },
            "outdated": {"curation/sft_sets/chosen": "0123456789abcdef0123"},
            "made_from": [
                {
                    "artifact": f"benchmarks/futurebench_report/{model}",
                    "kind": "answered by",
                    "input": f"checkpoints/rl/{model}",
                    "version": f"{model}-0123456789",
                },
                {
                    "artifact": f"checkpoints/rl/{model}",
                    "kind": "trained on",
                    "input": "curation/rl_sets",
                    "version": "0123",
                    "file": "twiff.parquet",
                },
            ],
            "notes": {"trajectories/twiff_rows": "2 partitions, revision 57364a4b"},
        }
        for model in ("future_l1", "la_dapo")
    }
    gain = {"row_id": ROW, "p_t": 1, "p_v": 8, "status": None, "path": "/clips/a.mp4"}
    table = {
        "artifact": "curation/visual_gain/a",
        "version": "gain-of-a",
        "file": "visual_gain.parquet",
        "rows": [gain],
    }
    chosen = {"artifact": "curation/rl_sets", "version": "rl-sets", "file": "twiff.parquet", "rows": [gain]}
    row = {"id": ROW, "tables": [table, chosen], "checkpoints": {"checkpoints/rl/la_dapo": "la_dapo-0123456789"}}
    answers = {
        "artifact": "benchmarks/futurebench_report/la_dapo",
        "version": "report-of-la_dapo",
        "file": "graded.parquet",
    }
    graded = {"id": "-hop1", "parsed": "A", "correct": True, "text": "It rolls on. " * 40}
    item = {"id": "-hop1", "tables": [answers | {"rows": [graded, graded]}]}
    return {"models": models, "rows": [row], "items": [item]}


def everything() -> dict[str, Any]:
    return {
        "curation": curation(),
        "futurebench": {m: futurebench(m) for m in ACCURACY},
        "twiffbench": {m: twiffbench(m) for m in ACCURACY},
        "necessity": {m: necessity(m) for m in ("future_l1", "la_dapo")},
        "latent_retrieval": {
            "future_l1": latent_retrieval(6),
            "la_dapo": latent_retrieval(9),
            "text_only": retrieval_report([], {}, "sft"),
        },
        "latent_map": latent_map(),
        "curves": {"la_dapo": curve(0.5), "grpo": curve(0.3), "future_l1": [{"step": 1, "ce": 2.0}]},
        "models": {m: {"checkpoint": f"checkpoint-of-{m}", "dataset": "data-1", "stage": "sft"} for m in ACCURACY},
        "paired": [
            {"before": "base", "after": "future_l1"}
            | paired_difference([True] * 10 + [False] * 90, [True] * 60 + [False] * 40).as_dict(),
            {"before": "future_l1", "after": "la_dapo"}
            | paired_difference([True] * 60 + [False] * 40, [True] * 61 + [False] * 39).as_dict(),
        ],
        "lineage": lineage(),
        "provenance": {"inputs/base_model": "0123456789abcdef"},
        "seconds": {"source": 31.2, "curation": 80.4, "sft": 171.0, "rl": 92.0},
    }
