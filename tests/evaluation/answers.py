"""Answer tables as evaluation.generate writes them, without a model behind them."""

from collections.abc import Mapping

import polars as pl

from training.data.prompts import ANSWERS


def answer_table(texts: Mapping[str, str], spans: Mapping[str, int] | None = None) -> pl.DataFrame:
    """One greedy answer per prompt; `spans` says how many latent spans of four it has."""
    spans = spans or {}
    rows = [
        {
            "prompt_id": prompt_id,
            "sample": 0,
            "text": text,
            "tokens": [1, 2],
            "text_tokens": 5,
            "latent_tokens": 4 * spans.get(prompt_id, 0),
            "control_tokens": 1 + 2 * spans.get(prompt_id, 0),
            "spans": [4] * spans.get(prompt_id, 0),
            "finished": True,
            "prefill_seconds": 0.01,
            "decode_seconds": 0.02,
        }
        for prompt_id, text in texts.items()
    ]
    return pl.DataFrame(rows, schema=ANSWERS)
