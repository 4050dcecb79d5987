"""The words for an outcome: something is used, is not used, or it is undecided.

Numbers decide, by the thresholds below: "used" needs an effect that is significant and large enough to matter, "not
used" an interval that excludes one.
"""

from collections.abc import Mapping
from typing import Any, Literal

Outcome = Literal["used", "not used", "undecided"]

ALPHA = 0.05
"""The level of significance."""
MIN_EFFECT = 0.02
"""The smallest loss of accuracy, and the smallest share of answers that change, that counts as use of latents, even if
a smaller one is significant."""
MIN_ITEMS = 60
"""The fewest values whose mean decides: the bootstrap of fewer is too narrow, and a point where all are equal (what
happens in none of 60 may still happen in 5 %)."""
WITHOUT_SPANS = "this model's answers have no spans, so nothing was changed"


def outcome_of_loss(difference: Mapping[str, Any]) -> Outcome:
    """Of a paired difference of accuracy (changed minus original)."""
    if difference["p_value"] < ALPHA and difference["difference"] <= -MIN_EFFECT:
        return "used"
    return "not used" if difference["interval"][0] > -MIN_EFFECT else "undecided"


def outcome_of_share(proportion: Mapping[str, Any]) -> Outcome:
    """Of a proportion of answers that a change of its cause has changed."""
    low, high = proportion["interval"]
    return "used" if low > MIN_EFFECT else "not used" if high < MIN_EFFECT else "undecided"


def outcome_of_mean(mean: Mapping[str, Any], least: float) -> Outcome:
    """Of a mean difference with its bootstrap interval, of which `least` is the smallest that matters."""
    if mean["n"] < MIN_ITEMS:
        return "undecided"
    low, high = mean["interval"]
    if low > 0 and mean["mean"] >= least:
        return "used"
    return "not used" if high < least else "undecided"
