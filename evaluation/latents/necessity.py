"""Do the latents matter?  The same items answered with the model's own latents and with something else in their place;
and, as controls, the same items shown without their frames or with their options in another order.

Only items whose own answer used at least one latent can change under an intervention, so the table says how many did;
everything is paired by item.  Sentences and verdict are derived from the numbers by the thresholds below, never written
by hand.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from evaluation.benchmarks.choice import accuracy_by
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.controls import ROTATIONS
from evaluation.latents.geometry import latent_statistics
from evaluation.latents.phrases import EXPLANATIONS, WITHOUT_LATENTS
from evaluation.statistics import PairedDifference, Proportion, paired_difference

SIGNIFICANT = 0.05
MATTERS = 0.02  # a smaller loss of accuracy, even if real, is not what latents are for
REPLACEMENTS = ("zeros", "noise", "mean", "other_item", "other_answer")
"""The interventions that take away what latents say and leave all else as it is: by these the verdict is given."""
NEED_SPANS = (*REPLACEMENTS, "same_answer", "first_repeated", "markers_only", "no_span")

_START, _LATENT, _END = "<|latent_start|>", "<|latent|>", "<|latent_end|>"


def necessity_report(
    own: pl.DataFrame,
    changed: Mapping[str, pl.DataFrame],
    controls: Mapping[str, pl.DataFrame] | None = None,
    answers: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Compares graded answers (`benchmarks.futurebench.graded`) under each intervention, and under each control, with
    the model's own.

    Items missing on either side are left out of that comparison and counted; what could be done to no item at all is
    listed as untested.  `answers`: the model's own answers; its latents are described where it has the column.

    Raises ValueError for a table that shares no item with the model's own.
    """
    controls = controls or {}
    everything = {**changed, **controls}
    compared = {name: compare(own, rows, name) for name, rows in everything.items() if not rows.is_empty()}
    interventions = {name: row for name, row in compared.items() if name in changed}
    kept = answers is not None and "latents" in answers.columns
    return {
        "own": _accuracy(own) | {"with_latents": int((own["spans"] > 0).sum()), "splits": _splits(own)},
        "interventions": interventions,
        "controls": {name: row for name, row in compared.items() if name in controls},
        "untested": [name for name, rows in everything.items() if rows.is_empty()],
        "rotations": rotations(own, controls),
        "latents": latent_statistics(_of(own, answers)) if kept and answers is not None else None,
        "verdict": overall_verdict(own, interventions),
    }


def compare(own: pl.DataFrame, changed: pl.DataFrame, name: str) -> dict[str, Any]:
    """One intervention or control: accuracy, its paired difference, the shares of answers and of texts that changed,
    and a sentence.

    `text_changed` is of the items whose own answer has a span, and of what is said after the first one.
    """
    pairs = own.join(changed, on="id", suffix="_changed", maintain_order="left")
    if pairs.is_empty():
        raise ValueError(f"{name!r} answered none of the items that the model answered by itself")
    moved = (pairs["parsed"].ne_missing(pairs["parsed_changed"])).sum()
    difference = paired_difference(pairs["correct"].to_list(), pairs["correct_changed"].to_list())
    answers_changed = Proportion(int(moved), pairs.height)
    texts = [
        says_otherwise(*pair)
        for pair in pairs.filter(pl.col("spans") > 0).select("text", "text_changed").iter_rows()
    ]  # fmt: skip
    return {
        "accuracy": _accuracy(changed),
        "splits": _splits(changed),
        "difference": difference.as_dict(),
        "answers_changed": answers_changed.as_dict(),
        "text_changed": Proportion(sum(texts), len(texts)).as_dict(),
        "unpaired": own.height + changed.height - 2 * pairs.height,
        "sentence": sentence(name, difference, answers_changed, len(texts)),
    }


def _splits(graded: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return accuracy_by(graded, FutureBench.split_column, FutureBench.splits)


def says_otherwise(own: str, changed: str) -> bool:
    """Whether the words after the first span of the model's own answer are others in the changed one.

    Spans and spacing are no words.  A changed answer that differs before that span says something else, too.
    """
    before, _, after = own.partition(_START)
    if _words(changed)[: len(_words(before))] != _words(before):
        return True
    return _words(before + after) != _words(changed)


def rotations(own: pl.DataFrame, controls: Mapping[str, pl.DataFrame]) -> dict[str, Any] | None:
    """Of the items answered in all four orders of their options: how many get the same option in all of them, and how
    many the right one.  `unread`: items whose answer names no option in one of them; these are not consistent.  None
    where an order is missing."""
    if any(name not in controls or controls[name].is_empty() for name in ROTATIONS):
        return None
    table = own.select("id", "answer", pl.col("parsed").alias("own"))
    for name in ROTATIONS:
        table = table.join(controls[name].select("id", pl.col("parsed").alias(name)), on="id")
    chosen = list(table.select("own", *ROTATIONS).iter_rows())
    same = [len(set(letters)) == 1 and letters[0] is not None for letters in chosen]
    right = [set(letters) == {answer} for letters, answer in zip(chosen, table["answer"], strict=True)]
    return {
        "n": table.height,
        "unread": sum(None in letters for letters in chosen),
        "consistent": Proportion(sum(same), table.height).as_dict(),
        "right_in_all": Proportion(sum(right), table.height).as_dict(),
    }


def sentence(name: str, difference: PairedDifference, changed: Proportion, with_spans: int) -> str:
    """What one comparison says, in words that its numbers decide; `with_spans`: items whose own answer has a span."""
    assert changed.value is not None and changed.interval is not None
    doing = EXPLANATIONS[name].doing
    said = WITHOUT_LATENTS if name in NEED_SPANS and not with_spans else _conclusion(name, difference)
    half = 100 * (changed.interval[1] - changed.interval[0]) / 2
    low, high = (100 * bound for bound in difference.interval)
    return (
        f"{doing[0].upper()}{doing[1:]} changes {100 * changed.value:.1f} % ± {half:.1f} of"
        f" answers and accuracy by {100 * difference.difference:+.1f} points ({low:+.1f} to {high:+.1f},"
        f" n = {difference.n}): {said}."
    )


def overall_verdict(own: pl.DataFrame, comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence for the model, by its REPLACEMENTS: used, used in part, not used (a loss that matters is excluded),
    not shown to be used, or no latents at all."""
    if not int((own["spans"] > 0).sum()):
        return "This model's answers contain no latents: there is nothing to replace."
    decisive = {name: comparisons[name]["difference"] for name in REPLACEMENTS if name in comparisons}
    if not decisive:
        return "No replacement of these latents was tested."
    lost = [name for name, difference in decisive.items() if _loses(difference)]
    if len(lost) == len(decisive):
        return "These latents are used: every replacement costs accuracy."
    if lost:
        kept = [name for name in decisive if name not in lost]
        return (
            f"These latents are used in part: {', '.join(lost)} cost accuracy,"
            f" {', '.join(kept)} cannot be told from the model's own."
        )
    worst = min(difference["interval"][0] for difference in decisive.values())
    if worst > -MATTERS:
        return "These latents are not used: no replacement costs accuracy."
    items = min(difference["n"] for difference in decisive.values())
    return (
        f"These latents are not shown to be used: no replacement costs accuracy that differs from zero, but with"
        f" {items} items a loss of up to {-100 * worst:.1f} points is not excluded."
    )


def _conclusion(name: str, difference: PairedDifference) -> str:
    phrase = EXPLANATIONS[name]
    if _loses(difference.as_dict()):
        return phrase.lost
    if difference.p_value < SIGNIFICANT and difference.difference > 0:
        return phrase.gained
    return phrase.equal if difference.interval[0] > -MATTERS else "no loss that can be told from zero"


def _loses(difference: Mapping[str, Any]) -> bool:
    return bool(difference["p_value"] < SIGNIFICANT and difference["difference"] <= -MATTERS)


def _accuracy(rows: pl.DataFrame) -> dict[str, Any]:
    return Proportion(int(rows["correct"].sum()), rows.height).as_dict()


def _of(own: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """The first answers to the items that were compared."""
    return answers.filter(pl.col("sample") == 0).join(own.select("id"), left_on="prompt_id", right_on="id", how="semi")


def _words(text: str) -> list[str]:
    for marker in (_START, _LATENT, _END):
        text = text.replace(marker, " ")
    return text.split()
