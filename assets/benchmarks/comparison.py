"""`reports/comparison`: what the numbers of all models say together, on one page."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    FUTURE_ANSWERS,
    FUTURE_REPORT,
    REPORT,
    TWIFF_REPORT,
)
from assets.benchmarks.latent_retrieval import LATENT_RETRIEVAL
from assets.benchmarks.necessity import NECESSITY
from assets.benchmarks.report_inputs import run_reports
from assets.curation.assets import CURATED
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import COMPARISON, PAGE, result_of
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore, write_json
from evaluation.latents.geometry import latent_map
from evaluation.reports.report import build_page
from training.storage.hashing import digest
from training.storage.parquet import read_parquet

TEXT = "report.md"
MAIN_FIGURES = ("accuracy_by_hop", "interventions", "latent_retrieval", "spans_by_hop")

CODE = code_of("assets.benchmarks.report_inputs", "evaluation.latents.geometry", "evaluation.reports.report")


def comparison_asset(checkpoints: Checkpoints, published_data: bool) -> dg.AssetsDefinition:
    """`published_data`: our models answer the very benchmarks that the published rows are of."""

    declared = Asset(
        COMPARISON,
        "Our models beside the published rows: tables, figures and provenance on one self-contained page.",
        kinds=("html", "matplotlib"),
        code_version=CODE,
        deps=(FUTURE_REPORT, TWIFF_REPORT, NECESSITY, LATENT_RETRIEVAL, CURATED),
        previews=("comparison.md", *(f"{name}.png" for name in MAIN_FIGURES)),
        links={"page": PAGE, "report": REPORT},
    )

    @asset(declared)
    def reports_comparison(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        reports = run_reports(store, checkpoints, published_data)
        if not reports.futurebench:
            raise dg.Failure("no model has a FutureBench report yet: materialise some", allow_retries=False)

        def write(workspace: Path) -> dict[str, Any]:
            answers = {m: store.current(FUTURE_ANSWERS, m).file(ANSWER_TABLE) for m in reports.futurebench}
            points = latent_map({model: read_parquet(path) for model, path in answers.items()})
            told = reports.model_copy(update={"latent_map": points})
            page = build_page(told, "Future-L1: comparison", f"Models: {', '.join(reports.futurebench)}")
            (workspace / PAGE).write_text(page.html())
            (workspace / TEXT).write_text(page.markdown())
            (workspace / "comparison.md").write_text(page.main_table())
            for figure in page.figures():
                if figure.name in MAIN_FIGURES:
                    (workspace / f"{figure.name}.png").write_bytes(figure.png)
            write_json(workspace / REPORT, told.model_dump(mode="json", exclude={"pictures"}))
            return {"models": list(reports.futurebench)}

        made = (FUTURE_REPORT, TWIFF_REPORT, NECESSITY, LATENT_RETRIEVAL)
        inputs = {
            name: version
            for name, version in reports.provenance.items()
            if name == CURATED or name.startswith(tuple(f"{key}/" for key in made))
        }
        config: dict[str, Any] = {"models": checkpoints.models}
        config["lineage"] = digest(reports.lineage.model_dump(mode="json")) if reports.lineage else None
        return result_of(store, declared, store.work(COMPARISON, inputs, config, CODE).do(write))

    return reports_comparison
