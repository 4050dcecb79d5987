"""Mediation: a change of the prompt's frames, and how much of its effect on answers passes through the latents.

Four answers to each item: as it was (x, z), to the changed prompt (x', z'), to the changed prompt with the latents of
the answer to the unchanged one (x', z), and the other way round (x, z').  Against the first, they are the total, the
direct and the mediated effect (Pearl 2001: natural direct and indirect effects), as in CapImagine (arXiv 2602.22766).

Two nulls say how large an effect is without a cause: the same prompts decoded once more, and the unchanged prompts with
another item's latents, which move answers, too, but not to those of the changed prompts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from evaluation.latents.geometry import spans_of
from evaluation.latents.outcomes import outcome_of_share
from evaluation.statistics import Proportion, bootstrap_mean, paired_difference

EFFECTS = ("total", "direct", "mediated")
REPEATED, UNRELATED = "repeated", "other_item"
NULLS = (REPEATED, UNRELATED)
SUBJECTS = {
    "mirrored": "Mirroring the frames",
    "cropped": "Cropping the frames",
    "other_frames": "Showing another item's frames",
}
"""The changes of a prompt by control, as the subject of a sentence."""


def mediation_report(
    change: str, original: pl.DataFrame, effects: Mapping[str, pl.DataFrame], latents: Mapping[str, pl.DataFrame],
    nulls: Mapping[str, pl.DataFrame] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One change: each effect on answers and on accuracy, how far latents move, the mediated outcome, a sentence; and,
    of each effect and null, how many of the answers that the change changes become the changed prompt's (`new_answer`).

    original, effects (EFFECTS), nulls (some of NULLS): graded answers; latents: the answers tables `original` and
    `total`, with latents.  Items that the effects lack are left out, and those that a null lacks of that null.  Raises
    ValueError where no item is left.
    """
    tables = {"original": original, **effects}
    ids = set.intersection(*(set(table["id"]) for table in tables.values()))
    if not ids:
        raise ValueError(f"{change!r} shares no item with the original answers: answer the same items")
    rows = {name: table.filter(pl.col("id").is_in(ids)).sort("id") for name, table in tables.items()}
    first = rows.pop("original")
    report: dict[str, Any] = {"n": first.height, "with_spans": int((first["spans"] > 0).sum())}
    for name, table in rows.items():
        difference = paired_difference(first["correct"].to_list(), table["correct"].to_list())
        report[name] = _answers(first, table, rows["total"]) | {"difference": difference.as_dict()}
    report["nulls"] = {name: _answers(first, table, rows["total"]) for name, table in (nulls or {}).items()}
    report["latents_moved"] = bootstrap_mean(
        latents_moved(latents["original"].filter(pl.col("prompt_id").is_in(ids)), latents["total"])
    ).as_dict()
    report["outcome"] = outcome_of_share(report["mediated"]["answers_changed"])
    return report | {"sentence": _sentence(change, report)}


def _answers(original: pl.DataFrame, table: pl.DataFrame, total: pl.DataFrame) -> dict[str, Any]:
    """How many answers of a table are not the original ones; and, where `total` names another option than these do, how
    many name that one."""
    named = (rows.select("id", pl.col("parsed").alias(name)) for name, rows in (("now", table), ("changed", total)))
    rows = original.select("id", "parsed")
    for column in named:
        rows = rows.join(column, on="id")
    moved = rows.filter(pl.col("changed").is_not_null(), pl.col("changed").ne_missing(pl.col("parsed")))
    changed, same = rows["parsed"].ne_missing(rows["now"]), moved["changed"].eq_missing(moved["now"])
    return {
        "answers_changed": Proportion(int(changed.sum()), rows.height).as_dict(),
        "new_answer": Proportion(int(same.sum()), moved.height).as_dict(),
    }


def latents_moved(original: pl.DataFrame, changed: pl.DataFrame) -> list[float]:
    """How far each answer's latents move: the mean squared distance to those of its changed prompt at the same places,
    over that between answers to different items; 1 is as far as another item's.

    Answers tables with `latents`.  An answer that has none on either side is left out.
    """
    columns = ("prompt_id", "latents", "spans")
    vectors = [
        {name: spans_of(data, sizes, name) for name, data, sizes in _first(table).select(columns).iter_rows()}
        for table in (original, changed)
    ]
    before, after = ({name: np.concatenate(spans) for name, spans in of.items() if any(map(len, spans))}
                     for of in vectors)  # fmt: skip
    names = sorted(before)
    apart = [_distance(before[one], before[other]) for one, other in zip(names, names[1:] + names[:1], strict=True)]
    scale = float(np.mean(apart)) if len(names) > 1 else 0.0
    return [_distance(before[name], after[name]) / scale for name in names if name in after] if scale else []


def _first(answers: pl.DataFrame) -> pl.DataFrame:
    return answers.filter(pl.col("sample") == 0)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The mean squared distance of the latents [n,D] that both have."""
    n = min(len(one), len(other))
    return float(np.square(one[:n] - other[:n]).mean(dtype=np.float64))


def _sentence(change: str, report: Mapping[str, Any]) -> str:
    total, direct, mediated = (100 * report[name]["answers_changed"]["accuracy"] for name in EFFECTS)
    moved = report["latents_moved"]["mean"]
    moves = "" if moved is None else f"moves latents by {moved:.2f} of the distance between items and "
    return (
        f"{SUBJECTS[change]} {moves}changes {total:.1f} % of answers (total); with the latents of the unchanged prompt"
        f" {direct:.1f} % change (direct), with nothing but the latents of the changed one {mediated:.1f} % (mediated;"
        f" n = {report['n']}): {_conclusion(report)}.{_scale(report)}"
    )


def _scale(report: Mapping[str, Any]) -> str:
    """What the nulls are, in words."""
    nulls, sentences = report["nulls"], []
    if REPEATED in nulls:
        again = 100 * nulls[REPEATED]["answers_changed"]["accuracy"]
        sentences.append(f" The same prompts decoded once more change {again:.1f} %.")
    mediated = report["mediated"]["new_answer"]
    if report["with_spans"] and UNRELATED in nulls and nulls[UNRELATED]["new_answer"]["n"] and mediated["n"]:
        other = nulls[UNRELATED]["answers_changed"], nulls[UNRELATED]["new_answer"]
        any_answer, new = (100 * share["accuracy"] for share in other)
        sentences.append(
            f" Another item's latents change {any_answer:.1f} %; where the changed prompt has another answer, they lead"
            f" to it in {new:.1f} %, the mediated latents in {100 * mediated['accuracy']:.1f} %."
        )
    return "".join(sentences)


def _conclusion(report: Mapping[str, Any]) -> str:
    total, direct, mediated = (outcome_of_share(report[name]["answers_changed"]) for name in EFFECTS)
    if not report["with_spans"]:
        return "this model's answers have no spans, so nothing is mediated"
    if "used" not in (total, direct, mediated):
        return "it changes too few answers for any of it to be mediated"
    if mediated == "used" and direct == "undecided":
        return "it acts through the latents, and whether past them, too, is undecided"
    if "undecided" in (direct, mediated):
        return "which way its effect takes is undecided"
    return {
        ("used", "used"): "it acts through the latents and past them",
        ("not used", "used"): "it acts through the latents",
        ("used", "not used"): "it acts past the latents, which are not used",
        ("not used", "not used"): "it acts only where prompt and latents change together",
    }[direct, mediated]
