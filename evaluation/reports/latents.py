"""The page's latents: necessity and controls, future-frame retrieval, spans per answer, and the map of spans."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from evaluation.benchmarks.futurebench_items import SPLIT_LABELS, SPLITS
from evaluation.latents.attention import MIN_SHARE
from evaluation.latents.mediation import REPEATED, UNRELATED
from evaluation.latents.outcomes import MIN_EFFECT
from evaluation.latents.words import MIN_DIFFERENCE
from evaluation.reports.parts import DASH, Cell, Row, Section, Table, mean, p_value, percent, picture, plot, points, row
from evaluation.reports.run_reports import RunReports
from evaluation.reports.scores import PUBLISHED

PICTURES = "retrieved_frames"
"""The pictures of future-frame retrieval are under this name in `RunReports.pictures`."""
MEDIATION = {
    "total": "frames and latents (total)",
    "direct": "frames, with the latents of the unchanged prompt (direct)",
    "mediated": "latents alone, to those of the changed prompt (mediated)",
    UNRELATED: "latents alone, to another item's (null)",
    REPEATED: "nothing, decoded once more (null)",
}
"""The rows of a change of the frames: `mediation.EFFECTS` and `NULLS`."""
DOSES = {"kept": "latents kept of each span, the rest noise", "added_noise": "norms of noise added to each latent"}


def necessity(reports: RunReports, figures: bool) -> Section | None:
    """The same items under interventions on latents; None without a necessity report."""
    if not (models := reports.necessity):
        return None
    changed = figures and any(report["interventions"] for report in models.values())
    plots = plot(changed, "latents", "interventions", "Accuracy lost when latents are replaced", models)
    dosed = figures and any(report.get("dose") for report in models.values())
    plots += plot(dosed, "latents", "doses", "Accuracy by dose of true latents and of noise", models)
    tables = [*_diagnostics(models), *_comparisons(models, "interventions", "intervention")]
    if geometry := [_geometry(name, latents) for name, report in models.items() if (latents := report.get("latents"))]:
        head = ["model", "cosine within an answer", "cosine between answers", "effective rank", "latents"]
        tables.append(Table(head, geometry, "Similarity of latents"))
    note = (
        "The same items, paired by item; latents are replaced during decoding. Hollow: the interval holds 0. McNemar's"
        " exact p is of one comparison alone. Text changed: of answers with a span, those with another text after it."
    )
    if any(report.get("diagnostics") for report in models.values()):
        note += (
            f" Used: a significant effect of at least {100 * MIN_EFFECT:.0f} points of accuracy (mediation:"
            f" {100 * MIN_EFFECT:.0f} % of answers, attention: {100 * MIN_SHARE:.0f} point more than noise, words:"
            f" {100 * MIN_DIFFERENCE:.0f} % more answers than by each baseline). Not used: the interval excludes one so"
            " large. With frames masked, it is the frames that are used. Attention and words are what latents draw and"
            " say, not what answers need."
        )
    untested = [f"{name}: {', '.join(left)}" for name, report in models.items() if (left := report.get("untested"))]
    note += f" No item fits for {'; '.join(untested)}." if untested else ""
    verdicts = [f"{name}: {report['verdict']}" for name, report in models.items()]
    return Section("Do the latents matter?", tables=tables, figures=plots, quotes=verdicts, note=note)


def controls(reports: RunReports, figures: bool) -> Section | None:
    """The same items with something missing from the prompt or in another order; None without controls."""
    models = {name: report for name, report in reports.necessity.items() if report.get("controls")}
    if not models:
        return None
    plots = plot(figures, "latents", "controls", "Accuracy lost under input controls", models)
    tables = _comparisons(models, "controls", "control")
    rotations = {name: report["rotations"] for name, report in models.items() if report.get("rotations")}
    if rotations:
        head = ["model", "the same option in all four orders", "correct in all four"]
        rows = [row(name, percent(r["consistent"]), percent(r["correct_in_all"])) for name, r in rotations.items()]
        tables.append(Table(head, rows, "Option order"))
    note = (
        "The same items, paired by item. No video: the frames are grey. Options 1 to 3: the options are rotated by so"
        " many places, and answers are parsed in the order of their prompt."
    )
    return Section("Does the answer need the video?", tables=tables, figures=plots, note=note)


def latent_retrieval(reports: RunReports, figures: bool) -> Section | None:
    """The rank of the true future frame; None without ranks and pictures."""
    pictures = [picture(name, path) for name, path in reports.pictures.items() if name.split("/")[0] == PICTURES]
    models = reports.latent_retrieval
    if not models and not pictures:
        return None
    ranked = {name: report for name, report in models.items() if report["n_spans"]}
    rows, by_span = [], []
    for name, report in ranked.items():
        rows += _ranks(name, report)
        for span, score in report["by_span"].items():
            by_span.append(row(name, span, percent(score["top1"]), mean(score["mrr"])))
    head = ["ranked by", "true frame first", "mean reciprocal rank", "latent skill"]
    tables = [Table(head, rows), Table(["model", "span", *head[1:3]], by_span, "By span", True)] if ranked else []
    plots = plot(figures and bool(ranked), "latents", "latent_retrieval", "Rank of the true future frame", ranked)
    note = (
        "Future-frame retrieval: the rank of the true future frame among real frames by its distance to the latents in"
        " feature space; intervals are over items. Latent skill: 1 - MSE / MSE of a copy of the last observed frame,"
        " averaged over spans."
    )
    return Section(
        "What was imagined",
        tables=tables,
        figures=[*plots, *(pictures if figures else [])],
        quotes=[f"{name}: {report['sentence']}" for name, report in models.items()],
        note=note if models else "",
    )


def spans(reports: RunReports, figures: bool) -> Section:
    """Latent spans per answer, by depth."""
    usage = {name: [report["spans"][split] for split in SPLITS] for name, report in reports.futurebench.items()}
    rows = [row(name, *map(mean, splits)) for name, splits in usage.items()]
    published = PUBLISHED["latent_span_usage"]
    rows.append(row("Published (arXiv 2606.05769), not ours: mean of six RL settings, no interval", published=True))
    means = [f"{published['mean'][split]:.2f}" if split in published["mean"] else DASH for split in SPLITS]
    rows.append(row("RL", *means, published=True))
    used = {name: reports.futurebench[name] for name, splits in usage.items() if any(s["mean"] for s in splits)}
    alt = "Latent spans per answer by depth"
    plots = plot(figures and bool(used), "latents", "spans_by_hop", alt, used, published)
    note = "Counted on generated tokens; 95 % bootstrap intervals. Models that open no span have no donuts."
    table = Table(["model", *SPLIT_LABELS.values()], rows)
    return Section("Latent spans per answer", tables=[table], figures=plots, note=note)


def latent_map(reports: RunReports, figures: bool) -> Section | None:
    """The map of latent spans; None where no model has any."""
    if not (projection := reports.latent_map):
        return None
    rows = [row(name, f"{model['n']:,}", f"{len(model['x']):,}") for name, model in projection["models"].items()]
    first, second = (f"{100 * share:.0f} %" for share in projection["explained"])
    note = (
        f"The two main axes ({projection['axes']}) of all models' spans together, with {first} and {second} of their"
        " variance. A point is a span, the mean of its latents. Points that are apart are apart; points that are"
        " together may differ along other axes."
    )
    plots = plot(figures, "latents", "latent_map", "Latent spans on their two main axes", projection)
    return Section("Map of the latents", tables=[Table(["model", "spans", "points"], rows)], figures=plots, note=note)


def _comparisons(models: Mapping[str, Mapping[str, Any]], part: str, what: str) -> list[Table]:
    """Every intervention or control, as numbers under a heading for each model, and as sentences."""
    rows, sentences = [], []
    for name, report in models.items():
        if not report.get(part):
            continue
        original, latents = percent(report["original"]), report["original"]["with_latents"]
        rows.append(row(f"{name}, original answers: {original.value} ({original.note}; {latents} with latents)"))
        for change, result in report[part].items():
            text = percent(result["text_changed"]) if result.get("text_changed") else DASH
            difference, p = points(result["difference"]), p_value(result["difference"]["p_value"])
            accuracy, answers = percent(result["accuracy"]), percent(result["answers_changed"])
            rows.append(row(change.replace("_", " "), accuracy, difference, p, answers, text))
            sentences.append(row(name, result["sentence"]))
    head = [what, "accuracy", "change (points)", "McNemar p", "answers changed", "text changed"]
    tables = [Table(head, rows), Table(["model", "comparison"], sentences, "In sentences", folded=True)]
    return tables if rows else []


def _diagnostics(models: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The outcome of every diagnostic, a column a model; each model's sentences; attention by layer; and the cost."""
    outcomes = {name: report["diagnostics"] for name, report in models.items() if report.get("diagnostics")}
    labels = dict.fromkeys(label for of_model in outcomes.values() for label in of_model)
    if not labels:
        return []
    rows = [row(label, *(_outcome(of_model.get(label)) for of_model in outcomes.values())) for label in labels]
    sentences = [row(name, sentence) for name in outcomes for sentence in _sentences(models[name])]
    tables = [
        Table(["diagnostic", *outcomes], rows, "What the diagnostics say"),
        Table(["model", "diagnostic"], sentences, "Diagnostics in sentences", folded=True),
    ]
    if doses := [cells for name in outcomes for cells in _doses(name, models[name]["dose"] or {})]:
        tables.append(Table(["model", "dose", "amount", "accuracy"], doses, "Dose and accuracy", folded=True))
    if changes := [cells for name in outcomes for cells in _mediation(name, models[name]["mediation"])]:
        head = ["what is changed", "answers changed", "the changed prompt's answer, where it is another"]
        tables.append(Table(head, changes, "Total, direct and mediated effect, and nulls", folded=True))
    if layers := [cells for name in outcomes for cells in _attention(name, models[name]["attention"])]:
        head = ["layer", "spans", "noise in their place", "frames", "text", "spans, by head group (%)"]
        tables.append(Table(head, layers, "Attention of the tokens behind a span", folded=True))
    words = [cells for name in outcomes for cells in _words(name, models[name]["words"])]
    if words:
        head = ["model", "reading", "names the chosen option", "another option",
                "the chosen one, by another answer's latents", "most frequent words of the latents"]  # fmt: skip
        tables.append(Table(head, words, "What latents say in words", folded=True))
        lens = {name: models[name]["words"]["lens"]["by_layer"] for name in outcomes if models[name]["words"]}
        caption = "Answers whose chosen option the logit lens names, by layer"
        tables.append(Table(["state", *lens], _by_layer(lens.values()), caption, folded=True))
    costs = [_cost(name, models[name]["cost"]) for name in outcomes if models[name].get("cost")]
    if costs:
        tables.append(Table(["model", "changes", "answers", "seconds"], costs, "Cost of the diagnostics", folded=True))
    return tables


def _outcome(result: Mapping[str, Any] | None) -> Cell:
    return Cell(result["outcome"], f"{result['value']}, n = {result['n']:,}") if result else Cell(DASH)


def _sentences(report: Mapping[str, Any]) -> list[str]:
    parts = [*(report["dose"] or {}).values(), *report["mediation"].values(), report["attention"], report["words"]]
    return [part["sentence"] for part in parts if part]


def _doses(model: str, curves: Mapping[str, Any]) -> list[Row]:
    return [
        row(model, DOSES[name], "all" if point["dose"] is None else f"{point['dose']:g}", percent(point))
        for name, curve in curves.items()
        for point in curve["points"]
    ]


def _mediation(model: str, changes: Mapping[str, Any]) -> list[Row]:
    """A row an effect, and a null, of each change."""
    rows = []
    for change, effects in changes.items():
        moved = mean(effects["latents_moved"])
        rows.append(row(f"{model}, frames {change.replace('_', ' ')}: latents moved by {moved.value} ({moved.note})"))
        rows += [row(MEDIATION[name], *(percent(shares[of]) for of in ("answers_changed", "new_answer")))
                 for name in MEDIATION if (shares := effects.get(name) or effects["nulls"].get(name))]  # fmt: skip
    return rows


def _attention(model: str, attention: Mapping[str, Any] | None) -> list[Row]:
    """A row a layer: means over head groups, and the spans' share in each group."""
    rows = []
    for layer, groups in enumerate(attention["by_layer"] if attention else (), start=1):
        means = [sum(group[kind] for group in groups) / len(groups) for kind in ("spans", "noise", "frames", "text")]
        shares = ", ".join(f"{100 * group['spans']:.1f}" for group in groups)
        rows.append(row(f"{layer}", *(f"{100 * share:.1f} %" for share in means), shares))
    return [row(f"{model}, means over {attention['n']:,} answers"), *rows] if attention and rows else []


def _words(model: str, words: Mapping[str, Any] | None) -> list[Row]:
    if not words:
        return []
    names = {"nearest": "nearest token embedding", "lens": "logit lens, all layers"}
    return [
        row(model, name, *(_share(words[key][of]) for of in ("chosen_option", "other_option", "other_latents")),
            ", ".join(f"{word or 'blank'} ({count})" for word, count in words[key]["most_frequent"].items()))
        for key, name in names.items()
    ]  # fmt: skip


def _by_layer(models: Iterable[Sequence[float]]) -> list[Row]:
    """Shares of answers, a column a model: of the latents themselves, and of the states in their places."""
    return [
        row(f"after layer {layer}" if layer else "the latent itself",
            *(DASH if share is None else f"{100 * share:.1f} %" for share in shares))
        for layer, shares in enumerate(zip_longest(*models))
    ]  # fmt: skip


def _share(score: Mapping[str, Any]) -> Cell:
    """A mean of shares as a percentage."""
    return percent({**score, "accuracy": score["mean"]})


def _cost(model: str, cost: Mapping[str, Mapping[str, float]]) -> Row:
    answers, seconds = (sum(part[name] for part in cost.values()) for name in ("answers", "seconds"))
    return row(model, str(len(cost)), f"{answers:,}", f"{seconds:.1f}")


def _geometry(model: str, latents: Mapping[str, Any]) -> Row:
    within, between = mean(latents["within_item_cosine"]), mean(latents["between_item_cosine"])
    counted = Cell(f"{latents['n_latents']:,}", f"of {latents['n_answers']:,} answers")
    return row(model, within, between, f"{latents['effective_rank']:.1f}", counted)


def _ranks(name: str, report: Mapping[str, Any]) -> list[Row]:
    """A model's ranks beside those by the last observed frame and by chance."""
    clip, others = report["candidates"]["same_clip"], report["candidates"]["other_clips"]
    among = f"candidates: the true frame, {clip:.1f} of its clip, {others:.1f} of others"
    nearer = f"{percent(report['closer_to_true']).value} nearer to the true frame than to the observed one"
    gain, chance = report["gain"], report["chance"]
    true, observed, within = report["true_frame"], report["observed_frame"], report["within_clip"]["true_frame"]
    in_place = "the last observed frame in their place"
    return [
        row(f"{name}: {report['n_spans']} spans of {report['n_items']} items, {among}; {nearer}"),
        row("the latents", percent(true["top1"]), mean(true["mrr"]), mean(report["skill"])),
        row(in_place, percent(observed["top1"]), mean(observed["mrr"]), DASH),
        row("gain over the observed frame", _gain(gain["top1"], 100, ".1f"), _gain(gain["mrr"], 1, ".2f"), DASH),
        row("chance", f"{100 * chance['top1']:.1f} %", f"{chance['mrr']:.2f}", DASH),
        row("the latents, within the clip", percent(within["top1"]), mean(within["mrr"]), DASH),
    ]


def _gain(gain: Mapping[str, Any], scale: float, form: str) -> Cell:
    low, high = (f"{scale * bound:+{form}}" for bound in gain["interval"])
    return Cell(f"{scale * gain['mean']:+{form}}", f"{low} to {high}, n = {gain['n']:,}")
