"""Latent necessity: the same items answered with the model's latents and with replacements; and, as controls, without
their frames or with their options in another order.

Only items whose original answer has a latent can change under an intervention, so the table counts them; everything is
paired by item.  Sentences and verdict follow from the numbers by the thresholds of `latents.outcomes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from evaluation.benchmarks.choice import accuracy, accuracy_by
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.controls import ROTATIONS
from evaluation.latents.dose import DOSES
from evaluation.latents.geometry import latent_statistics
from evaluation.latents.outcomes import ALPHA, MIN_EFFECT, WITHOUT_SPANS, outcome_of_loss
from evaluation.statistics import PairedDifference, Proportion, paired_difference

REPLACEMENTS = ("zeros", "noise", "mean", "other_item", "other_answer")
"""The interventions that remove the content of latents and nothing else: the verdict follows from these."""
NEED_SPANS = (
    *REPLACEMENTS, "same_answer", "first_repeated", "markers_only", "no_span", "masked_frames", "masked_spans",
)  # fmt: skip
"""The interventions that change nothing of an answer without spans."""

_START, _LATENT, _END = "<|latent_start|>", "<|latent|>", "<|latent_end|>"


@dataclass(frozen=True)
class Phrase:
    """`subject`: of the sentence; then its end if accuracy is lost, is equal (a loss of MIN_EFFECT is excluded), or is
    gained."""

    subject: str
    lost: str
    equal: str
    gained: str


def _use(subject: str, thing: str, plural: bool = True) -> Phrase:
    be, do = ("are", "do") if plural else ("is", "does")
    return Phrase(subject, f"{thing} {be} used", f"{thing} {be} not used", f"{thing} {do} harm")


def _forcing(spans: str) -> Phrase:
    better = "the model's choice of spans, in number and place, is better"
    equal = "so many are as good as the model's choice"
    return Phrase(f"forcing exactly {spans}", better, equal, "so many are better than the model's choice")


def _rotating(places: str) -> Phrase:
    decides, equal = "where an option stands decides answers", "accuracy does not depend on where an option stands"
    return Phrase(f"rotating the options by {places}", decides, equal, decides)


PHRASES: dict[str, Phrase] = {
    "zeros": _use("replacing latents by zeros", "these latents"),
    "noise": _use("replacing latents by noise of the same norm", "these latents"),
    "mean": _use("replacing latents by the mean of the training rows' future frames", "these latents"),
    "other_item": _use("replacing latents by another item's latents", "these latents"),
    "other_answer": _use("replacing latents by the latents of an item with another answer", "these latents"),
    "same_answer": Phrase(
        "replacing latents by those of an item with the same answer",
        "these latents carry more than which answer is right",
        "latents of any item with the same answer do as well",
        "latents of another item with the same answer do better",
    ),
    "first_repeated": _use("repeating the first latent of each span", "the later latents of a span"),
    "markers_only": _use("closing each span as soon as it opens", "what spans hold", plural=False),
    "no_span": _use("allowing no span", "spans"),
    "masked_frames": Phrase(
        "masking the frames once the first span has closed",
        "the frames are used after a span, too",
        "after a span the frames are not used",
        "after a span the frames do harm",
    ),
    "masked_spans": _use("masking each span once it has closed", "spans"),
    "spans_1": _forcing("1 span"),
    "spans_2": _forcing("2 spans"),
    "spans_3": _forcing("3 spans"),
    "no_video": _use("showing grey frames", "what the frames show", plural=False),
    "question_only": _use("leaving the frames out", "what the frames show", plural=False),
    "shuffled_frames": _use("shuffling the frames", "the order of the frames", plural=False),
    "mirrored": _use("mirroring the frames", "what the frames show", plural=False),
    "cropped": _use("cropping the frames", "what the frames show", plural=False),
    "other_frames": _use("showing another item's frames", "what the frames show", plural=False),
    "options_1": _rotating("1 place"),
    "options_2": _rotating("2 places"),
    "options_3": _rotating("3 places"),
}


def necessity_report(
    original: pl.DataFrame,
    changed: Mapping[str, pl.DataFrame],
    controls: Mapping[str, pl.DataFrame] | None = None,
    answers: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Compares graded answers (`MultipleChoice.grade`) under each intervention and each control with the
    original ones.

    Items missing on either side are left out of that comparison and counted; an intervention that fits no item is
    listed as untested, and one that is a dose left to `latents.dose`.  answers: the original answer table; with the
    column `latents`, their statistics are part.

    Raises ValueError for a table that shares no item with the original one.
    """
    controls = controls or {}
    changed = {name: rows for name, rows in changed.items() if name not in DOSES}
    everything = {**changed, **controls}
    compared = {name: compare(original, rows, name) for name, rows in everything.items() if not rows.is_empty()}
    interventions = {name: row for name, row in compared.items() if name in changed}
    latents = None
    if answers is not None and "latents" in answers.columns:
        first = answers.filter(pl.col("sample") == 0)
        latents = latent_statistics(first.filter(pl.col("prompt_id").is_in(original["id"].implode())))
    return {
        "original": accuracy(original).as_dict()
        | {"with_latents": int((original["spans"] > 0).sum()), "splits": _splits(original)},
        "interventions": interventions,
        "controls": {name: row for name, row in compared.items() if name in controls},
        "untested": [name for name, rows in everything.items() if rows.is_empty()],
        "rotations": rotations(original, controls),
        "latents": latents,
        "verdict": overall_verdict(original, interventions),
    }


def compare(original: pl.DataFrame, changed: pl.DataFrame, name: str) -> dict[str, Any]:
    """One intervention or control: accuracy, its paired difference, the shares of answers and of texts that changed,
    and a sentence.

    `text_changed`: of the items whose original answer has a span, those with another text after the first span.
    """
    pairs = original.join(changed, on="id", suffix="_changed", maintain_order="left")
    if pairs.is_empty():
        raise ValueError(f"{name!r} shares no item with the original answers: answer the same items")
    moved = (pairs["parsed"].ne_missing(pairs["parsed_changed"])).sum()
    difference = paired_difference(pairs["correct"].to_list(), pairs["correct_changed"].to_list())
    answers_changed = Proportion(int(moved), pairs.height)
    with_spans = pairs.filter(pl.col("spans") > 0)
    texts = [text_differs(*pair) for pair in with_spans.select("text", "text_changed").iter_rows()]
    return {
        "accuracy": accuracy(changed).as_dict(),
        "splits": _splits(changed),
        "difference": difference.as_dict(),
        "answers_changed": answers_changed.as_dict(),
        "text_changed": Proportion(sum(texts), len(texts)).as_dict(),
        "unpaired": original.height + changed.height - 2 * pairs.height,
        "sentence": sentence(name, difference, answers_changed, len(texts)),
    }


def _splits(graded: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return accuracy_by(graded, FutureBench.split_column, FutureBench.splits)


def text_differs(original: str, changed: str) -> bool:
    """Whether the words after the first span of the original answer differ in the changed one.

    Spans and spacing are no words.  A changed answer that differs before that span differs, too.
    """
    before, _, after = original.partition(_START)
    if _words(changed)[: len(_words(before))] != _words(before):
        return True
    return _words(before + after) != _words(changed)


def rotations(original: pl.DataFrame, controls: Mapping[str, pl.DataFrame]) -> dict[str, Any] | None:
    """Consistency over all four orders of the options: how many items get the same option in all, and how many the
    correct one.  `unparsed`: items with an answer that names no option; these are not consistent.  None where an order
    is missing.
    """
    if any(name not in controls or controls[name].is_empty() for name in ROTATIONS):
        return None
    table = original.select("id", "answer", pl.col("parsed").alias("original"))
    for name in ROTATIONS:
        table = table.join(controls[name].select("id", pl.col("parsed").alias(name)), on="id")
    chosen = list(table.select("original", *ROTATIONS).iter_rows())
    same = [len(set(letters)) == 1 and letters[0] is not None for letters in chosen]
    right = [set(letters) == {answer} for letters, answer in zip(chosen, table["answer"], strict=True)]
    return {
        "n": table.height,
        "unparsed": sum(None in letters for letters in chosen),
        "consistent": Proportion(sum(same), table.height).as_dict(),
        "correct_in_all": Proportion(sum(right), table.height).as_dict(),
    }


def sentence(name: str, difference: PairedDifference, changed: Proportion, with_spans: int) -> str:
    """The conclusion of one comparison; its numbers decide the words.  with_spans: items whose answer has a span."""
    assert changed.value is not None and changed.interval is not None
    subject = PHRASES[name].subject
    conclusion = WITHOUT_SPANS if name in NEED_SPANS and not with_spans else _conclusion(name, difference)
    half = 100 * (changed.interval[1] - changed.interval[0]) / 2
    low, high = (100 * bound for bound in difference.interval)
    return (
        f"{subject[0].upper()}{subject[1:]} changes {100 * changed.value:.1f} % ± {half:.1f} of"
        f" answers and accuracy by {100 * difference.difference:+.1f} points ({low:+.1f} to {high:+.1f},"
        f" n = {difference.n}): {conclusion}."
    )


def overall_verdict(original: pl.DataFrame, comparisons: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence for the model, by the REPLACEMENTS: used, used in part, not used (MIN_EFFECT is excluded), no use
    shown, or no latents."""
    if not int((original["spans"] > 0).sum()):
        return "This model's answers contain no latents: there is nothing to replace."
    decisive = {name: comparisons[name]["difference"] for name in REPLACEMENTS if name in comparisons}
    if not decisive:
        return "No replacement of these latents was tested."
    lost = [name for name, difference in decisive.items() if outcome_of_loss(difference) == "used"]
    if len(lost) == len(decisive):
        return "These latents are used: every replacement costs accuracy."
    if lost:
        kept = [name for name in decisive if name not in lost]
        return (
            f"These latents are used in part: accuracy falls with {', '.join(lost)},"
            f" and does not fall significantly with {', '.join(kept)}."
        )
    worst = min(difference["interval"][0] for difference in decisive.values())
    if worst > -MIN_EFFECT:
        return "These latents are not used: no replacement costs accuracy."
    items = min(difference["n"] for difference in decisive.values())
    return (
        f"No use of these latents is shown: no replacement costs a significant share of accuracy, but with"
        f" {items} items a loss of up to {-100 * worst:.1f} points is not excluded."
    )


def _conclusion(name: str, difference: PairedDifference) -> str:
    phrase, outcome = PHRASES[name], outcome_of_loss(difference.as_dict())
    if outcome == "used":
        return phrase.lost
    if difference.p_value < ALPHA and difference.difference > 0:
        return phrase.gained
    return phrase.equal if outcome == "not used" else "no significant loss"


def _words(text: str) -> list[str]:
    for marker in (_START, _LATENT, _END):
        text = text.replace(marker, " ")
    return text.split()
