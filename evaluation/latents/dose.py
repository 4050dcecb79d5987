"""Dose and response: how accuracy depends on how much of the latents is true."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from evaluation.benchmarks.choice import accuracy
from evaluation.latents.outcomes import WITHOUT_SPANS, outcome_of_loss
from evaluation.statistics import paired_difference

KEPT: dict[str, int | None] = {"noise": 0, "kept_1": 1, "kept_2": 2, "kept_3": 3, "none": None}
"""Of each span: the latents that are kept, noise in the place of the rest, by intervention; None: all."""
ADDED: dict[str, float] = {
    "none": 0.0, "added_noise_25": 0.25, "added_noise_50": 0.5, "added_noise_100": 1.0, "added_noise_200": 2.0,
}  # fmt: skip
"""The noise that is added to each latent, in norms of the latent, by intervention."""
DOSES = tuple(name for name in (*KEPT, *ADDED) if name not in ("none", "noise"))
"""The interventions that are a dose and nothing else."""


def dose_report(original: pl.DataFrame, changed: Mapping[str, pl.DataFrame]) -> dict[str, Any] | None:
    """The curves `kept` and `added_noise`: accuracy at each dose on the items that all have, an outcome, a sentence.

    `original` and `changed` (by intervention) are graded answers.  None where no dose was tested.
    """
    curves = {}
    for name, doses in (("kept", KEPT), ("added_noise", ADDED)):
        tested = {"none": original} | {dose: rows for dose, rows in changed.items() if not rows.is_empty()}
        chosen = {dose: tested[dose] for dose in doses if dose in tested}
        if set(chosen) & set(DOSES):
            curves[name] = _curve(name, chosen, [doses[dose] for dose in chosen])
    return curves or None


def _curve(name: str, tables: Mapping[str, pl.DataFrame], doses: Sequence[float | None]) -> dict[str, Any]:
    """`tables` by intervention, in the order of their doses."""
    ids = set.intersection(*(set(table["id"]) for table in tables.values()))
    rows = {dose: table.filter(pl.col("id").is_in(ids)).sort("id") for dose, table in tables.items()}
    points = [accuracy(table).as_dict() | {"dose": dose} for table, dose in zip(rows.values(), doses, strict=True)]
    others = [table for dose, table in rows.items() if dose != "none"]
    strongest = others[0] if name == "kept" else others[-1]
    difference = paired_difference(rows["none"]["correct"].to_list(), strongest["correct"].to_list()).as_dict()
    with_spans = int((rows["none"]["spans"] > 0).sum())
    outcome = outcome_of_loss(difference) if with_spans else "not used"
    report = {"points": points, "difference": difference, "outcome": outcome, "with_spans": with_spans}
    return report | {"sentence": _sentence(name, report)}


def _sentence(name: str, report: Mapping[str, Any]) -> str:
    points = report["points"]
    listed = ", ".join(f"{100 * point['accuracy']:.1f}" for point in points)
    doses = ", ".join("all" if point["dose"] is None else f"{point['dose']:g}" for point in points)
    subject = (
        f"With {doses} latents of each span kept, noise in the place of the rest,"
        if name == "kept"
        else f"With noise of {doses} norms added to each latent,"
    )
    return f"{subject} {listed} % of answers are right (n = {points[0]['n']}): {_conclusion(name, report)}."


def _conclusion(name: str, report: Mapping[str, Any]) -> str:
    if not report["with_spans"]:
        return WITHOUT_SPANS
    if report["outcome"] == "not used":
        return "these latents are not used"
    if report["outcome"] == "undecided":
        return "no significant loss"
    values, doses = ([point[field] for point in report["points"]] for field in ("accuracy", "dose"))
    half = (values[0] + values[-1]) / 2
    if name == "kept":
        first = next(dose for value, dose in zip(values, doses, strict=True) if value >= half)
        enough = "all of them are" if first is None else "1 is" if first == 1 else f"{first:g} are"
        return f"these latents are used, and {enough} needed for half of what all give"
    first = next(dose for value, dose in zip(values, doses, strict=True) if value <= half)
    unit = "norm" if first == 1 else "norms"
    return f"these latents are used, and noise of {first:g} {unit} takes half of what the most takes"
