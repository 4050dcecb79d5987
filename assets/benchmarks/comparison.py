"""`reports/comparison`: the reports of all models on one page."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.benchmarks.assets import ANSWER_TABLE, FUTURE_ANSWERS, FUTURE_REPORT, GRADED_TABLE, REPORT, TWIFF_REPORT
from assets.benchmarks.latents import LATENT_RETRIEVAL
from assets.benchmarks.necessity import NECESSITY
from assets.checkpoints.assets import BASE
from assets.curation.assets import CURATED
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import COMPARISON, PAGE, result_of
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore, StoreParam, name_of
from assets.lineage.report import lineage_report, trace_storyboard
from assets.lineage.trace import Lineage
from evaluation.latents.geometry import latent_map
from evaluation.latents.retrieval_report import PICTURE_FILE, REPORT_FILE
from evaluation.reports.edges import asset_of
from evaluation.reports.lineage import EXAMPLES
from evaluation.reports.report import build_page
from evaluation.reports.run_reports import LineageReport, ModelOrigin, RunReports, paired_rows
from evaluation.reports.storyboards import BOARDS
from training.runtime.programs import read_metrics
from training.storage.files import read_json, write_json
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

PARTS = (FUTURE_REPORT, TWIFF_REPORT, NECESSITY, LATENT_RETRIEVAL, CURATED)
TEXT = "report.md"
MAIN_FIGURES = ("accuracy_by_hop", "interventions", "latent_retrieval", "spans_by_hop")

CODE = code_of(
    "assets.lineage.report", "evaluation.latents.geometry", "evaluation.latents.retrieval_report",
    "evaluation.reports.report", "evaluation.reports.storyboards",
)  # fmt: skip


def comparison_asset(checkpoints: Checkpoints, published_data: bool) -> dg.AssetsDefinition:
    """`published_data`: our models answer the very benchmarks that the published rows are of."""

    declared = Asset(
        COMPARISON,
        "Our models beside the published rows: tables, figures and provenance on one self-contained page.",
        kinds=("html", "matplotlib"),
        code_version=CODE,
        deps=PARTS,
        previews=("comparison.md", *(f"{name}.png" for name in MAIN_FIGURES)),
        links={"page": PAGE, "report": REPORT},
    )

    @asset(declared)
    def reports_comparison(store: StoreParam) -> dg.MaterializeResult[None]:
        reports = run_reports(store, checkpoints, published_data)
        if not reports.futurebench:
            raise ValueError("no model has a FutureBench report yet: materialise some")

        def write(workspace: Path) -> dict[str, Any]:
            answers = {m: store.current(FUTURE_ANSWERS, m).file(ANSWER_TABLE) for m in reports.futurebench}
            points = latent_map({model: read_parquet(path) for model, path in answers.items()})
            pictures = reports.pictures | _example_storyboards(store, reports.lineage, workspace)
            complete = reports.model_copy(update={"latent_map": points, "pictures": pictures})
            page = build_page(complete, "Future-L1: comparison", f"Models: {', '.join(reports.futurebench)}")
            (workspace / PAGE).write_text(page.html())
            (workspace / TEXT).write_text(page.markdown())
            (workspace / "comparison.md").write_text(page.main_table())
            for figure in page.figures():
                if figure.name in MAIN_FIGURES:
                    (workspace / f"{figure.name}.png").write_bytes(figure.png)
            write_json(workspace / REPORT, complete.model_dump(mode="json", exclude={"pictures"}))
            return {"models": list(reports.futurebench)}

        inputs = {name: version for name, version in reports.provenance.items() if asset_of(name) in PARTS}
        config: dict[str, Any] = {"models": checkpoints.models}
        config["lineage"] = digest(reports.lineage.model_dump(mode="json")) if reports.lineage else None
        return result_of(store, declared, store.work(COMPARISON, inputs, config, CODE).do(write))

    return reports_comparison


def run_reports(store: AssetStore, checkpoints: Checkpoints, published_data: bool) -> RunReports:
    """The current reports of this profile's models; the latent map is made for the page alone."""

    def reports(key: str, file: str = REPORT) -> dict[str, dict[str, Any]]:
        return {m: read_json(store.current(key, m).file(file)) for m in checkpoints.models if store.has(key, m)}

    future = reports(FUTURE_REPORT)
    tables = {model: store.current(FUTURE_REPORT, model).file(GRADED_TABLE) for model in future}
    everything = store.everything()
    checkpoint_names = {model: name_of(*checkpoints.artifact(model)) for model in future}
    lineage = Lineage({name: artifact for name, artifact in everything.items() if name != COMPARISON})
    seconds: dict[str, float] = {}
    for name, artifact in everything.items():
        seconds[asset_of(name)] = seconds.get(asset_of(name), 0.0) + artifact.provenance["seconds"]
    return RunReports(
        curation=store.current(CURATED).provenance["counts"],
        futurebench=future,
        twiffbench=reports(TWIFF_REPORT),
        necessity=reports(NECESSITY),
        latent_retrieval=reports(LATENT_RETRIEVAL, REPORT_FILE),
        curves={m: read_metrics(store.current("checkpoints/rl", m).path) for m in checkpoints.rl if m in future},
        pictures=_pictures(store, checkpoints),
        models={model: _origin(store, checkpoints, model) for model in future},
        paired=paired_rows({model: read_parquet(path) for model, path in tables.items()}, checkpoints.rl),
        seconds=seconds,
        provenance={name: artifact.version for name, artifact in everything.items()},
        lineage=lineage_report(lineage, checkpoint_names),
        outdated={model: inputs for model, name in checkpoint_names.items() if (inputs := lineage.outdated(name))},
        on_published_data=published_data,
    )


def _example_storyboards(store: AssetStore, report: LineageReport | None, folder: Path) -> dict[str, Path]:
    """Draws the rows and the items of the page's lineage into a folder."""
    lineage, pictures = Lineage(store.everything()), {}
    for number, trace in enumerate((*report.rows, *report.items) if report else ()):
        if png := trace_storyboard(lineage, trace):
            pictures[f"{EXAMPLES}/{trace.id}"] = folder / f"example_{number}.png"
            pictures[f"{EXAMPLES}/{trace.id}"].write_bytes(png)
    return pictures


def _pictures(store: AssetStore, checkpoints: Checkpoints) -> dict[str, Path]:
    """Retrieved frames of each model, and the last model's storyboards."""
    retrieval = {m: store.current(LATENT_RETRIEVAL, m) for m in checkpoints.models if store.has(LATENT_RETRIEVAL, m)}
    pictures = {
        f"retrieved_frames/{model}": artifact.file(PICTURE_FILE)
        for model, artifact in retrieval.items()
        if PICTURE_FILE in artifact.manifest["files"]
    }
    for model in [model for model in checkpoints.models if store.has(FUTURE_REPORT, model)][-1:]:
        report = store.current(FUTURE_REPORT, model)
        pictures |= {f"storyboards/{'correct' if correct else 'incorrect'} answers of {model}": report.file(name)
                     for name, correct in BOARDS.items() if name in report.manifest["files"]}  # fmt: skip
    return pictures


def _origin(store: AssetStore, checkpoints: Checkpoints, model: str) -> ModelOrigin:
    name, partition = checkpoints.artifact(model)
    checkpoint = store.current(name, partition)
    inputs = checkpoint.provenance["inputs"].items()
    data = [str(version)[:16] for key, version in inputs if key.startswith("curation/")]
    stage = "zero-shot" if name == BASE else name.rpartition("/")[2].upper()
    return ModelOrigin(checkpoint=checkpoint.version, dataset=", ".join(data), stage=stage)
