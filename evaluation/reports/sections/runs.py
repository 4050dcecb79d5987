"""The page's runs: curation, rewards, storyboards, seconds and versions."""

from evaluation.reports.run_reports import RunReports
from evaluation.reports.sections.latents import PICTURES
from evaluation.reports.sections.parts import Cell, Row, Section, Table, figure, picture

REWARD = "rewards/accuracy"
"""What makes a curve one of RL."""


def curation(reports: RunReports, figures: bool) -> Section:
    """What became of every scored row, and the gains."""
    report = reports.curation
    reasons = {"scored": report["scored"], "kept": report["kept"], **report["rejected_by_reason"]}
    reasons["pending"] = report["pending"]
    rows = [Row([Cell(name.replace("_", " ")), Cell(f"{count:,}")]) for name, count in reasons.items()]
    histograms = (report["gain_histogram"], report["gain_histogram_kept"])
    drawn = figure(figures, "runs", "gain_histogram", "Rows by visual gain", *histograms)
    return Section("Curation by visual gain", tables=[Table(["rows", "count"], rows)], figures=drawn)


def rewards(reports: RunReports, figures: bool) -> Section | None:
    """Rewards of RL runs by step; None where no run reported any."""
    runs = {name: lines for name, lines in reports.curves.items() if any(REWARD in line for line in lines)}
    if not runs:
        return None
    rows = []
    for name, lines in runs.items():
        reported = [line for line in lines if REWARD in line]
        ends = [f"{line[REWARD]:.2f}" for line in (reported[0], reported[-1])]
        rows.append(Row([Cell(name), Cell(f"{len(reported)}"), Cell(f"{lines[-1]['step']}"), *map(Cell, ends)]))
    head = ["RL run", "reports", "last step", "accuracy reward at first", "at last"]
    note = (
        "Running means over nine neighbouring reports with the 95 % interval of that mean (the noise between steps, not"
    )
    note += " between runs), above what was reported. The accuracy reward of the groups kept is of a selected sample:"
    note += " dynamic sampling leaves out what is always right or always wrong."
    drawn = figure(figures, "runs", "reward_curves", "Rewards by step", runs)
    return Section("Rewards", tables=[Table(head, rows)], figures=drawn, note=note)


def storyboards(reports: RunReports, figures: bool) -> Section | None:
    """Items to look at; None on a page without figures."""
    chosen = {name: path for name, path in reports.pictures.items() if name.split("/")[0] != PICTURES}
    if not chosen or not figures:
        return None
    return Section("Items to look at", figures=[picture(name, path) for name, path in chosen.items()])


def seconds(reports: RunReports) -> Section:
    rows = [Row([Cell(stage), Cell(f"{spent:,.1f}")]) for stage, spent in reports.seconds.items()]
    return Section("Seconds per stage", tables=[Table(["stage", "seconds"], rows, "Seconds of work", folded=True)])


def provenance(reports: RunReports) -> Section:
    rows = [Row([Cell(name), Cell(version)]) for name, version in reports.provenance.items()]
    return Section("Provenance", tables=[Table(["artifact", "version"], rows, f"{len(rows)} artifacts", folded=True)])
