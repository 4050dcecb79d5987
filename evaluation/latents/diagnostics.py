"""All diagnostics of a model's latents, beside the interventions of `latents.necessity`: dose, mediation, attention and
words, what each cost, and a table of the outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from evaluation.generation.jobs import LOCAL_INTERVENTIONS
from evaluation.latents.attention import attention_report
from evaluation.latents.dose import dose_report
from evaluation.latents.mediation import EFFECTS, REPEATED, UNRELATED, mediation_report
from evaluation.latents.necessity import REPLACEMENTS
from evaluation.latents.outcomes import outcome_of_loss
from evaluation.latents.words import words_report

NO_SPANS = "no spans"
IN_PART = "used in part"
"""The outcome of replacements of which some cost accuracy and others do not, as in the verdict."""
LABELS = {
    "replaced": "latents replaced, the smallest loss",
    "masked_spans": "spans masked once they have closed",
    "masked_frames": "frames masked once a span has closed",
    "kept": "latents kept, the rest noise",
    "added_noise": "noise added to latents, in norms",
    "mediation": "mediated effect",
    "attention": "attention to spans, to noise in their place",
    "words": "words that name the answer, another option",
}
"""The rows of the table of diagnostics; `mediation` has one for each change."""


@dataclass(frozen=True)
class DiagnosticTables:
    """The graded answers, and answers tables, to the same items.

    original: graded; changed: graded, by intervention; effects: graded, by change and effect (`mediation.EFFECTS`);
    latents: answers with their latents, by "original" and by change; readings: answers with `attention` and `words`;
    repeated: graded, the original prompts decoded once more.
    """

    items: pl.DataFrame
    original: pl.DataFrame
    changed: Mapping[str, pl.DataFrame]
    effects: Mapping[str, Mapping[str, pl.DataFrame]] = field(default_factory=dict)
    latents: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    readings: pl.DataFrame | None = None
    repeated: pl.DataFrame | None = None


def diagnostics_report(necessity: Mapping[str, Any], tables: DiagnosticTables) -> dict[str, Any]:
    """`dose`, `mediation` by change, `attention`, `words`, and `diagnostics`, the table of all outcomes.

    necessity: the report of `necessity_report` on the same answers.
    """
    report: dict[str, Any] = {"dose": dose_report(tables.original, tables.changed), "attention": None, "words": None}
    nulls = {REPEATED: tables.repeated, UNRELATED: tables.changed.get(UNRELATED)}
    compared = {name: rows for name, rows in nulls.items() if rows is not None and not rows.is_empty()}
    report["mediation"] = {}
    for change, effects in tables.effects.items():
        latents = {"original": tables.latents["original"], "total": tables.latents[change]}
        report["mediation"][change] = mediation_report(change, tables.original, effects, latents, compared)
    if tables.readings is not None:
        report["attention"] = attention_report(tables.readings)
        report["words"] = words_report(tables.items, tables.original, tables.readings)
    return report | {"diagnostics": _table(necessity, report)}


def unexamined(interventions: Sequence[str], changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of the table that a served model is without: of these interventions and changes, those that need a model
    that is loaded here."""
    kinds = dict.fromkeys(name.rstrip("_0123456789") for name in interventions if name in LOCAL_INTERVENTIONS)
    labels = [*(LABELS[kind] for kind in kinds), *map(_mediation_label, changes), LABELS["attention"], LABELS["words"]]
    return {label: {"outcome": "not examined", "value": "served", "n": 0} for label in labels}


def _table(necessity: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By label: `outcome`, `value` in a few words, and n."""
    changed, rows = necessity["interventions"], {}
    spans = necessity["original"]["with_latents"]
    replaced = [changed[name]["difference"] for name in REPLACEMENTS if name in changed]
    if replaced:
        outcomes = set(map(outcome_of_loss, replaced))
        outcome = outcomes.pop() if len(outcomes) == 1 else IN_PART if "used" in outcomes else "undecided"
        rows[LABELS["replaced"]] = _loss(max(replaced, key=lambda loss: loss["difference"])) | {"outcome": outcome}
    for name in ("masked_spans", "masked_frames"):
        if name in changed:
            rows[LABELS[name]] = _loss(changed[name]["difference"])
    for name, curve in (report["dose"] or {}).items():
        fewest, most = (curve["points"][end]["dose"] for end in (0, -1))
        loss, of_dose = _loss(curve["difference"]), f"{fewest} kept" if name == "kept" else f"noise {most:g}"
        rows[LABELS[name]] = loss | {"outcome": curve["outcome"], "value": f"{of_dose}: {loss['value']}"}
    for change, effects in report["mediation"].items():
        total, direct, mediated = (100 * effects[name]["answers_changed"]["accuracy"] for name in EFFECTS)
        low, high = (100 * bound for bound in effects["mediated"]["answers_changed"]["interval"])
        value = f"{mediated:.1f} % of answers, {low:.1f} to {high:.1f}; total {total:.1f}, direct {direct:.1f}"
        rows[_mediation_label(change)] = {"outcome": effects["outcome"], "value": value, "n": effects["n"]}
    if attention := report["attention"]:
        shares = attention["spans"], attention["noise"], attention["difference"]
        rows[LABELS["attention"]] = {"outcome": attention["outcome"], "value": _shares(*shares), "n": attention["n"]}
    if words := report["words"]:
        reading = words[words["strongest"]]
        value = _shares(reading["chosen_option"], reading["other_option"], reading["differences"]["other_option"])
        rows[LABELS["words"]] = {"outcome": words["outcome"], "value": value, "n": words["n"]}
    if spans:
        return rows
    if report["attention"]:
        rows.setdefault(LABELS["words"], {"n": report["attention"]["n"]})
    return {label: row | {"outcome": "not used", "value": NO_SPANS} for label, row in rows.items()}


def _mediation_label(change: str) -> str:
    return f"{LABELS['mediation']}: {change.replace('_', ' ')}"


def _loss(difference: Mapping[str, Any]) -> dict[str, Any]:
    low, high = (100 * bound for bound in difference["interval"])
    value = f"{100 * difference['difference']:+.1f} points, {low:+.1f} to {high:+.1f}"
    return {"outcome": outcome_of_loss(difference), "value": value, "n": difference["n"]}


def _shares(one: Mapping[str, Any], other: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    """Two means, and the interval of their difference."""
    low, high = (100 * bound for bound in difference["interval"])
    means = (100 * share["mean"] for share in (one, other))
    return "{:.1f} %, {:.1f} %".format(*means) + f"; difference {low:+.1f} to {high:+.1f} points"
