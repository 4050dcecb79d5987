"""The attention that answers pay to their spans, to the frames and to text, beside that to spans of noise.

Scored from stored readings (`evaluation.generation.readings`), without torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from evaluation.latents.outcomes import outcome_of_mean
from evaluation.statistics import bootstrap_mean

KINDS = ("text", "frames", "spans")
"""What keys hold, in the order of the readings."""
MIN_SHARE = 0.01
"""The smallest share of attention, beyond that to noise, that counts."""


def attention_report(readings: pl.DataFrame) -> dict[str, Any] | None:
    """Shares of the attention of the tokens after a span: means over layers and head groups, and by each of them.

    readings: answers with `attention` [2: as decoded, with noise; layers; head groups; KINDS] and `spans`.  Only
    answers with spans count; without any, the shares are those of all answers, and there is no noise to compare with.
    None without readings.
    """
    table = readings.filter(pl.col("attention").is_not_null())
    if table.is_empty():
        return None
    spans = table.filter(pl.col("spans").list.sum() > 0)
    shares = np.array((spans if spans.height else table)["attention"].to_list(), np.float64)  # [n,2,layers,groups,3]
    true, noise = shares.mean((2, 3)).transpose(1, 0, 2)
    report: dict[str, Any] = {"n": len(shares), "with_spans": spans.height}
    report |= {kind: bootstrap_mean(true[:, k]).as_dict() for k, kind in enumerate(KINDS)}
    report["noise"] = bootstrap_mean(noise[:, -1]).as_dict()
    report["difference"] = bootstrap_mean(true[:, -1] - noise[:, -1]).as_dict()
    by_place = shares.mean(0)  # [2,layers,groups,3]
    report["by_layer"] = [
        [dict(zip(KINDS, group.tolist(), strict=True)) | {"noise": float(by_place[1, layer, number, -1])}
         for number, group in enumerate(of_layer)]
        for layer, of_layer in enumerate(by_place[0])
    ]  # fmt: skip
    report["outcome"] = outcome_of_mean(report["difference"], MIN_SHARE) if spans.height else "not used"
    return report | {"sentence": _sentence(report)}


def _sentence(report: Mapping[str, Any]) -> str:
    text, frames, spans, noise = (100 * report[name]["mean"] for name in (*KINDS, "noise"))
    if not report["with_spans"]:
        return (
            f"Answers pay {frames:.1f} % of their attention to frames and {text:.1f} % to text (n = {report['n']}):"
            " they have no spans."
        )
    low, high = (100 * bound for bound in report["difference"]["interval"])
    layers = [100 * float(np.mean([group["spans"] - group["noise"] for group in of_layer]))
              for of_layer in report["by_layer"]]  # fmt: skip
    return (
        f"The tokens after a span pay {spans:.1f} % of their attention to spans, {frames:.1f} % to frames and"
        f" {text:.1f} % to text; to spans of noise they would pay {noise:.1f} % (the difference is {low:+.1f} to"
        f" {high:+.1f} points, n = {report['n']}; from layer to layer {min(layers):+.1f} to {max(layers):+.1f}):"
        f" {_CONCLUSIONS[report['outcome']]}."
    )


_CONCLUSIONS = {
    "used": "on average over layers, what these spans hold draws attention",
    "not used": "on average over layers, what these spans hold draws less than 1 point of attention more than noise",
    "undecided": "whether these spans draw more attention than noise is undecided",
}
