"""The cost of answers, as reference/evaluation.md 5 defines it: tokens by kind, seconds on one device, accuracy a
second.

Seconds are synchronised with the device and leave out reading and resizing frames.  An answer decoded in a batch has a
share of its batch's seconds: that says what a device gets through, not how long a person waits.  For that there is
`latency`, on answers that were decoded one at a time, on a warm device.
"""

from typing import Any

import polars as pl

from evaluation.statistics import bootstrap_mean

KINDS = ("text_tokens", "latent_tokens", "control_tokens")
SECONDS = ("prefill_seconds", "decode_seconds")
COSTS = (*KINDS, *SECONDS, "finished")
"""The columns of answers that a graded table keeps, to be counted here."""


def cost(rows: pl.DataFrame, accuracy: float | None = None) -> dict[str, Any]:
    """Means per answer, and what one device gets through.

    rows: answers, or graded ones, with COSTS and, where it was counted, `prompt_tokens` (prefill: text and vision).
    accuracy: a proportion; without it there is no accuracy per second (percent over mean seconds, as Table 7 of the
    paper).  All None for no answers.
    """
    table = rows.select(
        *COSTS,
        pl.sum_horizontal(KINDS).alias("tokens"),
        pl.sum_horizontal(SECONDS).alias("seconds"),
        prompt_tokens=pl.col("prompt_tokens") if "prompt_tokens" in rows.columns else pl.lit(None, pl.Int64),
    )
    means = {name: table[name].mean() for name in ("prompt_tokens", *KINDS, "tokens", *SECONDS, "seconds")}
    return {
        **means,
        "answers_per_second": _ratio(table.height, table["seconds"].sum()),
        "tokens_per_second": _ratio(table["tokens"].sum(), table["seconds"].sum()),
        "accuracy_per_second": None if accuracy is None else _ratio(100 * accuracy, means["seconds"]),
        "cut_short": int((~table["finished"]).sum()),
        "n": table.height,
    }


def latency(timed: pl.DataFrame, accuracy: float | None = None) -> dict[str, Any]:
    """Seconds of answers that were decoded one at a time: means with bootstrap intervals, and accuracy a second."""
    seconds = timed.select(*SECONDS, pl.sum_horizontal(SECONDS).alias("seconds"))
    means = {name: bootstrap_mean(seconds[name].to_list()).as_dict() for name in seconds.columns}
    per_second = None if accuracy is None else _ratio(100 * accuracy, means["seconds"]["mean"])
    return means | {"accuracy_per_second": per_second, "n": timed.height}


def _ratio(amount: Any, by: Any) -> float | None:
    return amount / by if by else None
