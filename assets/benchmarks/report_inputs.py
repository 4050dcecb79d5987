"""What the comparison reports of a profile's models, read from the artifacts that are current."""

from pathlib import Path
from typing import Any

from assets.benchmarks.assets import FUTURE_REPORT, GRADED_TABLE, REPORT, TWIFF_REPORT
from assets.benchmarks.latent_retrieval import LATENT_RETRIEVAL
from assets.benchmarks.necessity import NECESSITY
from assets.checkpoints.assets import BASE as BASE_ASSET
from assets.curation.assets import CURATED
from assets.framework.metadata import COMPARISON
from assets.framework.partitions import Checkpoints
from assets.framework.store import AssetStore, name_of, read_json
from assets.lineage import Lineage, asset_of, lineage_report
from evaluation.latents.retrieval_report import PICTURE_FILE, REPORT_FILE
from evaluation.reports.run_reports import ModelOrigin, RunReports, paired_rows
from evaluation.reports.storyboards import BOARDS
from training.runtime.programs import read_metrics
from training.storage.parquet import read_parquet


def run_reports(store: AssetStore, checkpoints: Checkpoints, published_data: bool) -> RunReports:
    """What is reported of this profile's models, from the artifacts that are current; the latent map is the page's."""

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
        lineage=lineage_report(lineage, checkpoint_names, _best(future)),
        on_published_data=published_data,
    )


def _best(reports: dict[str, dict[str, Any]]) -> str:
    """The model with the highest average; the first where there is none."""
    return max(reports, key=lambda model: reports[model]["average"]["accuracy"] or 0.0, default="")


def _pictures(store: AssetStore, checkpoints: Checkpoints) -> dict[str, Path]:
    """What the models imagined, and the last one's storyboards."""
    imagined = {
        f"retrieved_frames/{model}": store.current(LATENT_RETRIEVAL, model).file(PICTURE_FILE)
        for model in checkpoints.models
        if store.has(LATENT_RETRIEVAL, model)
        and PICTURE_FILE in store.current(LATENT_RETRIEVAL, model).manifest["files"]
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
