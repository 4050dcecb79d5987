"""The numbers of a run: `summary.json`, and the same as tables on a terminal."""

from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from assets.benchmarks.comparison import run_reports
from assets.framework.metadata import COMPARISON, PAGE
from assets.framework.store import AssetStore
from evaluation.benchmarks.futurebench_items import SPLITS
from evaluation.benchmarks.twiffbench import MARKS
from evaluation.reports.run_reports import RunReports
from pipelines.profile import Profile
from training.runtime.project import IS_CHECKOUT
from training.storage.files import write_json

SUMMARY = "summary.json"


def summarise(profile: Profile, reports: RunReports) -> dict[str, Any]:
    """The content of `summary.json`: counts and intervals, no number without its n."""
    counts = ("scored", "kept", "rejected", "fully_sampled", "gain_histogram")
    return {
        "profile": profile.name,
        "seed": profile.seed,
        "curation": {name: reports.curation[name] for name in counts},
        "futurebench": {
            model: {
                **{split: _counted(report["splits"][split]) for split in SPLITS},
                "average": _counted(report["average"]),
            }
            for model, report in reports.futurebench.items()
        },
        "futurebench_among_options": {
            model: _counted(report["among_parsed"]) for model, report in reports.futurebench.items()
        },
        "spans": {
            model: {split: report["spans"][split]["mean"] for split in SPLITS}
            for model, report in reports.futurebench.items()
        },
        "twiffbench": {model: {mark: report[mark] for mark in MARKS} for model, report in reports.twiffbench.items()},
        "latent_necessity": reports.necessity,
        "seconds": {**reports.seconds, "total": sum(reports.seconds.values())},
    }


def finish(profile: Profile, console: Console) -> None:
    """Writes `summary.json` and prints it as tables."""
    store = AssetStore(profile.home)
    reports = run_reports(store, profile.checkpoints, profile.toyworld is None)
    summary = summarise(profile, reports)
    path = profile.home / SUMMARY
    write_json(path, summary)
    console.print(
        _futurebench(summary),
        _twiffbench(summary["twiffbench"]),
        _necessity(summary["latent_necessity"]),
        _curation(summary["curation"]),
        _seconds(summary["seconds"]),
    )
    page = store.current(COMPARISON).file(PAGE)
    ui = "make ui" if IS_CHECKOUT else "future-l1 ui"
    click.echo(f"Report   {page}\nNumbers  {path}\nUI       {ui}")


def _futurebench(summary: Mapping[str, Any]) -> Table:
    """As generated; the last column counts only answers that name one of the options."""
    models: Mapping[str, Any] = summary["futurebench"]
    heads = (*_heads(models), "if an option\nis named")
    table = _table("FutureBench: per cent right as generated (95 % interval)", "model", *heads)
    for model, scores in models.items():
        named = summary["futurebench_among_options"][model]
        table.add_row(model, *map(_percent, scores.values()), f"{_percent(named)} n {named['n']}")
    table.add_section()
    table.add_row("[dim]mean spans[/]")
    for model, means in summary["spans"].items():
        table.add_row(f"[dim]{model}[/]", *(f"[dim]{_number(mean)}[/]" for mean in means.values()))
    return table


def _twiffbench(models: Mapping[str, Any]) -> Table:
    table = _table("TwiFF-Bench: marks from 0 to 5 (95 % interval)", "model", *_heads(models))
    for model, means in models.items():
        table.add_row(model, *map(_mean, means.values()))
    return table


def _heads(models: Mapping[str, Any]) -> list[str]:
    """The columns of scores with their n, from the first model."""
    first: Mapping[str, Any] = next(iter(models.values()), {})
    return [f"{column}\nn {score['n']}" for column, score in first.items()]


def _necessity(models: Mapping[str, Any]) -> Table:
    title = "Do the latents matter? The same items with something else in their place"
    table = _table(title, "model", "latents", "right", "change")
    for model, report in models.items():
        table.add_row(model, "original", _percent(report["original"]), f"n {report['original']['n']}")
        for name, row in report["interventions"].items():
            low, high = (100 * bound for bound in row["difference"]["interval"])
            change = f"{100 * row['difference']['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
            table.add_row("", name.replace("_", " "), _percent(row["accuracy"]), change)
    return table


def _curation(counts: Mapping[str, Any]) -> Table:
    histogram = {int(gain): rows for gain, rows in counts["gain_histogram"].items()}
    most = max(histogram.values(), default=1) or 1
    title = f"Curation: {counts['scored']} rows scored, {counts['kept']} kept, {counts['rejected']} rejected"
    table = _table(title, "gain", f"rows\nof {counts['fully_sampled']} scored in full", "")
    for gain in sorted(histogram):
        table.add_row(f"{gain:+d}", str(histogram[gain]), "█" * round(30 * histogram[gain] / most))
    return table


def _seconds(seconds: Mapping[str, float]) -> Table:
    table = _table("Seconds of work per asset", "asset", "seconds")
    for name, spent in seconds.items():
        table.add_row(name, f"{spent:.1f}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    columns = [Column(first, no_wrap=True), *(Column(head, justify="right") for head in others)]
    return Table(*columns, title=title, title_justify="left", pad_edge=False, collapse_padding=True)


def _counted(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score[name] for name in ("correct", "n", "interval")}


def _percent(score: Mapping[str, Any]) -> str:
    if not score["n"]:
        return "–"
    low, high = (100 * bound for bound in score["interval"])
    return f"{100 * score['correct'] / score['n']:.1f} ({low:.0f}–{high:.0f})"


def _mean(score: Mapping[str, Any]) -> str:
    if score["mean"] is None:
        return "–"
    low, high = score["interval"]
    return f"{score['mean']:.2f} ({low:.2f}–{high:.2f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
