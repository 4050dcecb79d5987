"""`reports/comparison`: what the numbers of all models say together, on one page."""

from pathlib import Path
from typing import Any

import dagster as dg

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    FUTURE_ANSWERS,
    FUTURE_REPORT,
    GRADED_TABLE,
    REPORT,
    TWIFF_REPORT,
)
from assets.benchmarks.imagination import IMAGINATION
from assets.benchmarks.necessity import NECESSITY
from assets.checkpoints.assets import BASE as BASE_ASSET
from assets.code import code_of
from assets.curation.assets import CURATED
from assets.define import Asset, asset
from assets.lineage import Lineage
from assets.lineage_page import followed
from assets.metadata import result_of
from assets.partitions import Checkpoints
from assets.store import AssetStore, name_of, read_json, write_json
from evaluation.latents.imagination import FOUND, PICTURE
from evaluation.latents.latent_map import latent_map
from evaluation.reports.report import TEMPLATE, build_page
from evaluation.reports.run_reports import ModelOrigin, RunReports, paired_rows
from evaluation.reports.sections.published import PUBLISHED
from evaluation.reports.storyboard import BOARDS
from training.artifacts import digest, file_digest
from training.parquet import read_parquet
from training.programs import read_metrics

COMPARISON = "reports/comparison"
PAGE, TEXT = "report.html", "report.md"
MAIN_FIGURES = ("accuracy_by_hop", "interventions", "imagination", "spans_by_hop")

CODE = code_of(
    "evaluation/latents/latent_map.py",
    *(f"evaluation/reports/{name}.py" for name in ("figures", "report", "run_reports")),
    "evaluation/reports/plots",
    "evaluation/reports/sections",
)


def run_reports(store: AssetStore, checkpoints: Checkpoints, published_data: bool) -> RunReports:
    """What is reported of this profile's models, from the artifacts that are current; the latent map is the page's."""

    def reports(key: str, file: str = REPORT) -> dict[str, dict[str, Any]]:
        return {m: read_json(store.current(key, m).file(file)) for m in checkpoints.models if store.has(key, m)}

    future = reports(FUTURE_REPORT)
    tables = {model: store.current(FUTURE_REPORT, model).file(GRADED_TABLE) for model in future}
    everything = store.everything()
    seconds: dict[str, float] = {}
    for name, artifact in everything.items():
        asset = "/".join(name.split("/")[:2])
        seconds[asset] = seconds.get(asset, 0.0) + artifact.provenance["seconds"]
    return RunReports(
        curation=store.current(CURATED).provenance["counts"],
        futurebench=future,
        twiffbench=reports(TWIFF_REPORT),
        necessity=reports(NECESSITY),
        imagination=reports(IMAGINATION, FOUND),
        curves={m: read_metrics(store.current("checkpoints/rl", m).path) for m in checkpoints.rl if m in future},
        pictures=_pictures(store, checkpoints),
        models={model: _origin(store, checkpoints, model) for model in future},
        paired=paired_rows({model: read_parquet(path) for model, path in tables.items()}, checkpoints.rl),
        seconds=seconds,
        provenance={name: artifact.version for name, artifact in everything.items()},
        lineage=followed(Lineage(everything), {m: name_of(*checkpoints.artifact(m)) for m in future}, _best(future)),
        on_published_data=published_data,
    )


def _best(reports: dict[str, dict[str, Any]]) -> str:
    """The model with the highest average; the first where there is none."""
    return max(reports, key=lambda model: reports[model]["average"]["accuracy"] or 0.0, default="")


def _pictures(store: AssetStore, checkpoints: Checkpoints) -> dict[str, Path]:
    """What the models imagined, and the last one's storyboards."""
    imagined = {
        f"imagined/{model}": store.current(IMAGINATION, model).file(PICTURE)
        for model in checkpoints.models
        if store.has(IMAGINATION, model) and PICTURE in store.current(IMAGINATION, model).manifest["files"]
    }
    for model in reversed(checkpoints.models):
        if store.has(FUTURE_REPORT, model):
            told = store.current(FUTURE_REPORT, model)
            boards = {f"storyboards/{'right' if right else 'wrong'} answers of {model}": told.file(name)
                      for name, right in BOARDS.items() if name in told.manifest["files"]}  # fmt: skip
            return imagined | boards
    return imagined


def _origin(store: AssetStore, checkpoints: Checkpoints, model: str) -> ModelOrigin:
    name, partition = checkpoints.artifact(model)
    checkpoint = store.current(name, partition)
    inputs = checkpoint.provenance["inputs"]
    data = [str(version)[:16] for key, version in inputs.items() if key.startswith("curation/")]
    stage = "zero-shot" if name == BASE_ASSET else name.rpartition("/")[2].upper()
    return ModelOrigin(checkpoint=checkpoint.version, dataset=", ".join(data), stage=stage)


def comparison_asset(checkpoints: Checkpoints, published_data: bool) -> dg.AssetsDefinition:
    """`published_data`: our models answer the very benchmarks that the published rows are of."""

    declared = Asset(
        COMPARISON,
        "Our models beside the published rows: tables, figures and provenance on one self-contained page.",
        kinds=("html", "matplotlib"),
        code=CODE,
        upstream=(FUTURE_REPORT, TWIFF_REPORT, NECESSITY, IMAGINATION, CURATED),
        shown=("comparison.md", *(f"{name}.png" for name in MAIN_FIGURES)),
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

        made = (FUTURE_REPORT, TWIFF_REPORT, NECESSITY, IMAGINATION)
        inputs = {
            name: version
            for name, version in reports.provenance.items()
            if name == CURATED or name.startswith(tuple(f"{key}/" for key in made))
        }
        config: dict[str, Any] = {
            "models": checkpoints.models,
            "template": file_digest(TEMPLATE),
            "published": digest(PUBLISHED),
        }
        config["lineage"] = digest(reports.lineage.model_dump(mode="json")) if reports.lineage else None
        return result_of(store, declared, store.work(COMPARISON, inputs, config, CODE).do(write))

    return reports_comparison
