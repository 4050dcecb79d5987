"""Graded answers and tables of answers, as the reports on latents read them."""

from typing import Any

import numpy as np
import polars as pl

from evaluation.latents.diagnostics import DiagnosticTables

SPAN = "<|latent_start|><|latent|><|latent|><|latent_end|>"


def graded(
    right: list[bool], parsed: list[str | None] | None = None, spans: int = 1, texts: list[str] | None = None
) -> pl.DataFrame:
    """Answers to items whose right answer is A."""
    n = len(right)
    return pl.DataFrame(
        {
            "id": [f"{i:03d}" for i in range(n)],
            "question_type": ["hop1"] * n,
            "answer": ["A"] * n,
            "text": texts or [f"It rolls.\n{SPAN * spans}\n<answer>it stops</answer>"] * n,
            "parsed": parsed or ["A" if r else "B" for r in right],
            "correct": right,
            "spans": [spans] * n,
        },
        schema_overrides={"parsed": pl.String},
    )


N = 200
RIGHT = graded([True] * N)


def right(n: int) -> pl.DataFrame:
    """N graded answers of which n are right."""
    return graded([True] * n + [False] * (N - n))


def stored(vectors: np.ndarray) -> pl.DataFrame:
    """Answers with one span of latents [n,k,D] each."""
    rows = [
        {"prompt_id": f"{i:03d}", "sample": 0, "spans": [len(v)], "latents": v.astype("<f2").tobytes()}
        for i, v in enumerate(vectors)
    ]
    return pl.DataFrame(rows)


LATENTS = np.random.default_rng(0).normal(size=(N, 2, 4))


def readings(spans: float, noise: float, n: int = 60, of_span: int = 4) -> pl.DataFrame:
    """Answers whose attention to spans is about `spans`, and to noise about `noise`, in two layers of one group."""
    rng = np.random.default_rng(1)

    def shares(mean: float) -> list[Any]:
        share = mean + 0.002 * rng.normal()
        return [[[0.7 - share, 0.3, share]]] * 2

    sizes = [of_span] if of_span else []
    rows = [
        {"prompt_id": f"{i:03d}", "spans": sizes, "attention": [shares(spans), shares(noise)], "words": []}
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema_overrides={"spans": pl.List(pl.Int64)}, strict=False)


OPTIONS = ["the red one", "a blue one", "pink", "12"]
ITEMS = pl.DataFrame({"id": [f"{i:03d}" for i in range(N)], "options": [OPTIONS] * N})


def speaking(words: list[str]) -> pl.DataFrame:
    """One latent an answer, which says this word in the second layer of the lens, and nothing in its nearest token."""
    latents = [[{"nearest": "of", "lens": ["it", word]}] for word in words]
    return pl.DataFrame({"prompt_id": [f"{i:03d}" for i in range(len(words))], "words": latents})


CHOSEN = graded([letter == "A" for letter in "ABCD" * (N // 4)], parsed=list("ABCD" * (N // 4)))
"""Answers that choose each of OPTIONS in turn; SAYING: the word by which each names its option."""
SAYING = ["red", " Blue", "pink", "12"] * (N // 4)


def tables(original: pl.DataFrame, changed: pl.DataFrame, of_span: int) -> DiagnosticTables:
    names = ("zeros", "noise", "kept_2", "added_noise_100", "masked_spans", "masked_frames")
    effects = dict.fromkeys(("total", "direct", "mediated"), changed)
    latents = stored(LATENTS)
    return DiagnosticTables(
        ITEMS, original, dict.fromkeys(names, changed), {"mirrored": effects},
        {"original": latents, "mirrored": latents}, readings(0.2, 0.2, of_span=of_span), original,
    )  # fmt: skip
