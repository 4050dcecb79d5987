"""Do the latents matter?  The same items answered with the model's own latents and with something else in their place.

Only items whose own answer used at least one latent can change, so the table says how many did; everything is paired by
item.  The verdict is derived from the numbers by the thresholds below, never written by hand.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from evaluation.futurebench import accuracy_by_split
from evaluation.statistics import PairedDifference, Proportion, paired_difference

SIGNIFICANT = 0.05
MATTERS = 0.02  # a smaller loss of accuracy, even if real, is not what latents are for
EXPLANATIONS = {
    "zeros": "zeros",
    "noise": "noise of the same norm",
    "other_item": "another item's latents",
}


def necessity_report(own: pl.DataFrame, changed: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Compares graded answers (`evaluation.futurebench.graded`) under each intervention with the model's own.

    Items missing on either side are left out of that comparison and counted.
    """
    comparisons = {name: compare(own, rows, name) for name, rows in changed.items()}
    return {
        "own": _accuracy(own) | {"with_latents": int((own["spans"] > 0).sum()), "splits": accuracy_by_split(own)},
        "interventions": comparisons,
        "verdict": overall_verdict(own, comparisons),
    }


def compare(own: pl.DataFrame, changed: pl.DataFrame, name: str) -> dict[str, Any]:
    """One intervention: accuracy, its paired difference, the share of answers that changed, and a sentence."""
    pairs = own.join(changed, on="id", suffix="_changed", maintain_order="left")
    if pairs.is_empty():
        raise ValueError(f"intervention {name!r} answered none of the items that the model answered by itself")
    moved = (pairs["parsed"].ne_missing(pairs["parsed_changed"])).sum()
    difference = paired_difference(pairs["correct"].to_list(), pairs["correct_changed"].to_list())
    answers_changed = Proportion(int(moved), pairs.height)
    return {
        "accuracy": _accuracy(changed),
        "splits": accuracy_by_split(changed),
        "difference": difference.as_dict(),
        "answers_changed": answers_changed.as_dict(),
        "unpaired": own.height + changed.height - 2 * pairs.height,
        "sentence": sentence(name, difference, answers_changed),
    }


def sentence(name: str, difference: PairedDifference, changed: Proportion) -> str:
    """What one comparison says, in words that its numbers decide."""
    assert changed.value is not None and changed.interval is not None
    half = 100 * (changed.interval[1] - changed.interval[0]) / 2
    low, high = (100 * bound for bound in difference.interval)
    return (
        f"Replacing latents by {EXPLANATIONS.get(name, name)} changes {100 * changed.value:.1f} % ± {half:.1f} of"
        f" answers and accuracy by {100 * difference.difference:+.1f} points ({low:+.1f} to {high:+.1f},"
        f" n = {difference.n}): {_conclusion(difference)}."
    )


def overall_verdict(own: pl.DataFrame, comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence for the model: used, not used, or not present at all."""
    if not int((own["spans"] > 0).sum()):
        return "This model's answers contain no latents: there is nothing to replace."
    lost = [name for name, row in comparisons.items() if _loses(row["difference"])]
    if len(lost) == len(comparisons):
        return "These latents are used: every replacement costs accuracy."
    if lost:
        kept = [name for name in comparisons if name not in lost]
        return (
            f"These latents are used in part: {', '.join(lost)} cost accuracy,"
            f" {', '.join(kept)} cannot be told from the model's own."
        )
    return "These latents are not used: no replacement costs accuracy that can be told from zero."


def _conclusion(difference: PairedDifference) -> str:
    if _loses(difference.as_dict()):
        return "these latents are used"
    if difference.p_value < SIGNIFICANT and difference.difference > 0:
        return "these latents do harm"
    return "no loss that can be told from zero"


def _loses(difference: Mapping[str, Any]) -> bool:
    return bool(difference["p_value"] < SIGNIFICANT and difference["difference"] <= -MATTERS)


def _accuracy(rows: pl.DataFrame) -> dict[str, Any]:
    return Proportion(int(rows["correct"].sum()), rows.height).as_dict()
