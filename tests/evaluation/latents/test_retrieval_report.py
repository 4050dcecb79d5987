"""Ranks, baseline, chance and skill of imagined frames, worked out by hand."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from evaluation.latents.retrieval_report import NO_SPANS, SpanScore, distances, retrieval_report, score_span


def frame(*values: float) -> np.ndarray:
    """A frame of one component a token."""
    return np.array(values, np.float32)[:, None]


def span(item: str = "a", number: int = 1, **changes: Any) -> SpanScore:
    fields = {
        "clip": 1, "others": 2, "rank": 1, "observed_rank": 2, "rank_in_clip": 1, "observed_rank_in_clip": 2,
        "error": 1.0, "error_to_observed": 3.0, "copy_error": 4.0,
    }  # fmt: skip
    return SpanScore(item, number, **{**fields, **changes})


# ---- ranks


def test_distance_is_the_mean_square_place_by_place() -> None:
    frames = np.stack([frame(0, 0), frame(1, 3)])
    assert distances(frame(1, 1), frames).tolist() == [1.0, 2.0]
    assert distances(frame(1), frames).tolist() == [1.0, 0.0], "a span that ends early is compared where it is"
    assert distances(frame(1, 1, 99), frames).tolist() == [1.0, 2.0], "and one that goes on where the frame is"


def test_a_span_is_ranked_beside_the_baseline() -> None:
    # the marble rolls 0 -> 1 -> 2; the latents say 1.9 for frame 2, the observed frame says 0
    score = score_span("a", 2, frame(1.9), frame(2.0), frame(0.0), np.stack([frame(1.0)]), frame(7.0, 0.5)[:, None])
    assert (score.clip, score.others, score.number) == (1, 2, 2)
    assert (score.rank, score.rank_in_clip) == (1, 1)
    assert (score.observed_rank, score.observed_rank_in_clip) == (3, 2), "0.5 and 1 are nearer to 0 than 2 is"
    assert score.error == pytest.approx(0.01) and score.copy_error == pytest.approx(4.0)
    assert score.error_to_observed == pytest.approx(1.9**2)


def test_a_tie_counts_against_the_latents() -> None:
    same = np.stack([frame(1.0), frame(1.0), frame(5.0)])
    score = score_span("a", 1, frame(1.0), frame(1.0), frame(0.0), same, np.zeros((0, 1, 1), np.float32))
    assert score.rank == 3


def test_latents_that_are_the_observed_frame_are_the_baseline() -> None:
    clip, others = np.stack([frame(0.4, 1.0)]), np.stack([frame(9.0, 9.0)])
    score = score_span("a", 1, frame(0.0, 0.0), frame(1.0, 1.0), frame(0.0, 0.0), clip, others)
    assert score.rank == score.observed_rank == 2 and score.error == score.copy_error


# ---- the report


def test_a_report_by_hand() -> None:
    scores = [span("a", 1), span("a", 2, rank=2, error=2.0, error_to_observed=1.0), span("b", 1, clip=0, others=1)]
    report = retrieval_report(scores, {"spans_beyond_the_frames": 3, "spans_without_latents": 0}, "sft")
    assert (report["n_spans"], report["n_items"], report["model_kind"]) == (3, 2, "sft")
    assert report["left_out"] == {"spans_beyond_the_frames": 3}
    assert report["candidates"] == {"same_clip": pytest.approx(2 / 3), "other_clips": pytest.approx(5 / 3)}
    assert report["true_frame"]["top1"]["correct"] == 2 and report["true_frame"]["mrr"]["mean"] == pytest.approx(
        2.5 / 3
    )
    assert report["observed_frame"]["top1"]["accuracy"] == 0 and report["observed_frame"]["mrr"]["mean"] == 0.5
    assert report["gain"]["mrr"]["mean"] == pytest.approx(1 / 3)
    # candidates with the true frame: 4, 4, 2; the mean of 1/rank when guessing is H(C)/C
    assert report["chance"]["top1"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)
    assert report["chance"]["mrr"] == pytest.approx((2 * (25 / 12) / 4 + 1.5 / 2) / 3)
    assert report["within_clip"]["n_spans"] == 2, "where the clip has no other frame there is nothing to choose"
    assert report["within_clip"]["chance"]["top1"] == 0.5
    assert report["closer_to_true"]["correct"] == 2
    assert {number: row["n"] for number, row in report["by_span"].items()} == {"1": 2, "2": 1}
    assert report["by_span"]["2"]["top1"]["accuracy"] == 0
    assert report["skill"]["mean"] == pytest.approx((0.75 + 0.5 + 0.75) / 3)


def test_a_frame_that_does_not_change_has_no_skill_but_a_rank() -> None:
    report = retrieval_report([span(copy_error=0.0), span("b")], {}, "rl")
    assert (report["skill"]["n"], report["unchanged_spans"], report["n_spans"]) == (1, 1, 2)
    assert report["skill"]["mean"] == 0.75


def test_nothing_imagined_is_null_and_says_so() -> None:
    report = retrieval_report([], {"answers_without_latents": 9}, "base")
    assert report["sentence"] == NO_SPANS
    assert report["true_frame"]["top1"] == {"correct": 0, "n": 0, "accuracy": None, "interval": None}
    assert report["chance"] == {"top1": None, "mrr": None} and report["skill"]["mean"] is None


@pytest.mark.parametrize(
    ("changes", "conclusion"),
    [
        ({}, "show what happens next"),
        ({"error_to_observed": 0.5}, "stay nearer to it"),
        ({"rank": 3}, "less of the future than the observed frame does"),
        ({"rank": 2}, "in the observed frame can be shown"),
    ],
)
def test_the_sentence_follows_the_numbers(changes: dict[str, Any], conclusion: str) -> None:
    sentence = retrieval_report([span(str(i), **changes) for i in range(30)], {}, "sft")["sentence"]
    assert conclusion in sentence and "n = 30" in sentence and "nearest of 4.0 real frames" in sentence


def test_scoring_needs_no_torch() -> None:
    names = ("latents.retrieval_report", "latents.readout", "reports.storyboards")
    modules = ", ".join(f"evaluation.{name}" for name in names)
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
