"""The page's latents: necessity and controls, future-frame retrieval, spans per answer, and the map of spans."""

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks.futurebench import SPLIT_LABELS, SPLITS
from evaluation.reports.run_reports import RunReports
from evaluation.reports.sections.parts import (
    DASH,
    Cell,
    FigureImage,
    Row,
    Section,
    Table,
    figure,
    heading,
    mean,
    p_value,
    percent,
    picture,
    points,
)
from evaluation.reports.sections.scores import PUBLISHED

PICTURES = "retrieved_frames"
"""The pictures of future-frame retrieval are under this name in `RunReports.pictures`."""


def necessity(reports: RunReports, figures: bool) -> Section | None:
    """The same items under interventions on latents; None without a necessity report."""
    if not (models := reports.necessity):
        return None
    any_changes = any(report["interventions"] for report in models.values())
    plots = figure(
        figures and any_changes,
        "latents",
        "interventions",
        "Accuracy lost when latents are replaced",
        models,
    )
    tables = _comparisons(models, "interventions", "intervention")
    geometry = [Row([Cell(name), *_geometry(r["latents"])]) for name, r in models.items() if r.get("latents")]
    if geometry:
        head = ["model", "cosine within an answer", "cosine between answers", "effective rank", "latents"]
        tables.append(Table(head, geometry, "Similarity of latents"))
    note = "The same items, paired by item; latents are replaced during decoding. Hollow: the interval"
    note += " holds 0. McNemar's exact p is of one comparison alone. Text changed: of answers with a span,"
    note += " those with another text after it."
    untested = [f"{name}: {', '.join(left)}" for name, report in models.items() if (left := report.get("untested"))]
    note += f" No item fits for {'; '.join(untested)}." if untested else ""
    verdicts = [f"{name}: {report['verdict']}" for name, report in models.items()]
    return Section("Do the latents matter?", tables=tables, figures=plots, quotes=verdicts, note=note)


def controls(reports: RunReports, figures: bool) -> Section | None:
    """The same items with something missing from the prompt or in another order; None without controls."""
    models = {name: report for name, report in reports.necessity.items() if report.get("controls")}
    if not models:
        return None
    plots = figure(figures, "latents", "controls", "Accuracy lost under input controls", models)
    tables = _comparisons(models, "controls", "control")
    rotations = [
        Row([Cell(name), percent(report["rotations"]["consistent"]), percent(report["rotations"]["correct_in_all"])])
        for name, report in models.items()
        if report.get("rotations")
    ]
    if rotations:
        head = ["model", "the same option in all four orders", "correct in all four"]
        tables.append(Table(head, rotations, "Option order"))
    note = "The same items, paired by item. Answers to rotated options are parsed in the order of their prompt."
    return Section("Does the answer need the video?", tables=tables, figures=plots, note=note)


def latent_retrieval(reports: RunReports, figures: bool) -> Section | None:
    """Where the true future frame ranks; None without ranks and pictures."""
    pictures = [picture(name, path) for name, path in reports.pictures.items() if name.split("/")[0] == PICTURES]
    models = reports.latent_retrieval
    if not models and not pictures:
        return None
    ranked = {name: report for name, report in models.items() if report["n_spans"]}
    rows, by_span = [], []
    for name, report in ranked.items():
        rows += _ranks(name, report)
        for span, score in report["by_span"].items():
            by_span.append(Row([Cell(name), Cell(span), percent(score["top1"]), mean(score["mrr"])]))
    head = ["ranked by", "true frame first", "mean reciprocal rank", "latent skill"]
    tables = [Table(head, rows), Table(["model", "span", *head[1:3]], by_span, "By span", True)] if ranked else []
    plots = figure(figures and bool(ranked), "latents", "latent_retrieval", "Rank of the true future frame", ranked)
    note = "Future-frame retrieval: the rank of the true future frame among real frames by its distance to the latents"
    note += " in feature space;"
    note += " intervals are over items. Latent skill: 1 - MSE / MSE of a copy of the last observed frame, averaged over"
    note += " spans."
    sentences = [f"{name}: {report['sentence']}" for name, report in models.items()]
    images: list[FigureImage] = [*plots, *(pictures if figures else [])]
    return Section("What was imagined", tables=tables, figures=images, quotes=sentences, note=note if models else "")


def spans(reports: RunReports, figures: bool) -> Section:
    """Latent spans per answer, by depth."""
    models = reports.futurebench
    rows = [Row([Cell(name), *(mean(report["spans"][split]) for split in SPLITS)]) for name, report in models.items()]
    published = PUBLISHED["latent_span_usage"]
    rows.append(heading("Published (arXiv 2606.05769), not ours: mean of six RL settings, no interval", published=True))
    cells = [f"{published['mean'][split]:.2f}" if split in published["mean"] else DASH for split in SPLITS]
    rows.append(Row([Cell("RL"), *map(Cell, cells)], published=True))
    used = {name: r for name, r in models.items() if any(r["spans"][s]["mean"] for s in SPLITS)}
    plots = figure(
        figures and bool(used), "latents", "spans_by_hop", "Latent spans per answer by depth", used, published
    )
    note = "Counted on generated tokens; 95 % bootstrap intervals. Models that open no span have no donuts."
    table = Table(["model", *SPLIT_LABELS.values()], rows)
    return Section("Latent spans per answer", tables=[table], figures=plots, note=note)


def latent_map(reports: RunReports, figures: bool) -> Section | None:
    """The map of latent spans; None where no model has any."""
    if not (projection := reports.latent_map):
        return None
    rows = [
        Row([Cell(name), Cell(f"{model['n']:,}"), Cell(f"{len(model['x']):,}")])
        for name, model in projection["models"].items()
    ]
    first, second = (100 * share for share in projection["explained"])
    note = (
        f"The two main axes ({projection['axes']}) of all models' spans together, with {first:.0f} % and {second:.0f} %"
    )
    note += " of their variance. A point is a span, the mean of its latents. Points that are apart are apart;"
    note += " points that are together may differ along other axes."
    plots = figure(figures, "latents", "latent_map", "Latent spans on their two main axes", projection)
    return Section("Map of the latents", tables=[Table(["model", "spans", "points"], rows)], figures=plots, note=note)


def _comparisons(models: Mapping[str, Mapping[str, Any]], part: str, what: str) -> list[Table]:
    """Every intervention or control as numbers and as sentences."""
    tested = {name: report for name, report in models.items() if report.get(part)}
    return [_changes(tested, part, what), _sentences(tested, part)] if tested else []


def _changes(models: Mapping[str, Mapping[str, Any]], part: str, what: str) -> Table:
    """A row for each intervention or control, under a heading for each model."""
    rows = []
    for name, report in models.items():
        original, latents = percent(report["original"]), report["original"]["with_latents"]
        rows.append(heading(f"{name}, original answers: {original.value} ({original.note}; {latents} with latents)"))
        for intervention, row in report[part].items():
            text = row.get("text_changed")
            cells = [percent(row["accuracy"]), points(row["difference"]), Cell(p_value(row["difference"]["p_value"]))]
            cells += [percent(row["answers_changed"]), percent(text) if text else Cell(DASH)]
            rows.append(Row([Cell(intervention.replace("_", " ")), *cells]))
    return Table([what, "accuracy", "change (points)", "McNemar p", "answers changed", "text changed"], rows)


def _sentences(models: Mapping[str, Mapping[str, Any]], part: str) -> Table:
    rows = [
        Row([Cell(name), Cell(row["sentence"])]) for name, report in models.items() for row in report[part].values()
    ]
    return Table(["model", "comparison"], rows, "In sentences", folded=True)


def _geometry(latents: Mapping[str, Any]) -> list[Cell]:
    counted = Cell(f"{latents['n_latents']:,}", f"of {latents['n_answers']:,} answers")
    within, between = mean(latents["within_item_cosine"]), mean(latents["between_item_cosine"])
    return [within, between, Cell(f"{latents['effective_rank']:.1f}"), counted]


def _ranks(name: str, report: Mapping[str, Any]) -> list[Row]:
    """A model's ranks beside those by the last observed frame and by chance."""
    clip, others = report["candidates"]["same_clip"], report["candidates"]["other_clips"]
    among = f"candidates: the true frame, {clip:.1f} of its clip, {others:.1f} of others"
    nearer = f"{percent(report['closer_to_true']).value} nearer to the true frame than to the observed one"
    gain, chance, within = report["gain"], report["chance"], report["within_clip"]["true_frame"]
    named = {"the latents": report["true_frame"], "the last observed frame in their place": report["observed_frame"]}
    ranked = {label: [percent(quality["top1"]), mean(quality["mrr"])] for label, quality in named.items()}
    ranked["the latents"] += [mean(report["skill"])]
    rows = [heading(f"{name}: {report['n_spans']} spans of {report['n_items']} items, {among}; {nearer}")]
    rows += [Row([Cell(label), *cells, *[Cell(DASH)] * (3 - len(cells))]) for label, cells in ranked.items()]
    rows.append(
        Row(
            [
                Cell("gain over the observed frame"),
                _gain(gain["top1"], 100, ".1f"),
                _gain(gain["mrr"], 1, ".2f"),
                Cell(DASH),
            ]
        )
    )
    rows.append(Row([Cell("chance"), Cell(f"{100 * chance['top1']:.1f} %"), Cell(f"{chance['mrr']:.2f}"), Cell(DASH)]))
    return [
        *rows,
        Row([Cell("the latents, within the clip"), percent(within["top1"]), mean(within["mrr"]), Cell(DASH)]),
    ]


def _gain(gain: Mapping[str, Any], scale: float, form: str) -> Cell:
    low, high = (f"{scale * bound:+{form}}" for bound in gain["interval"])
    return Cell(f"{scale * gain['mean']:+{form}}", f"{low} to {high}, n = {gain['n']:,}")
