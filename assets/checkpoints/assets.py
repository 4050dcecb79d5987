"""`inputs/base_model`, `checkpoints/sft` and `checkpoints/rl`: op-backed assets that start the training programs."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from assets.checkpoints.base import files_of, link
from assets.checkpoints.settings import RecipeConfig, RlRun, SftRun
from assets.curation.assets import RL_SETS, SFT_SETS
from assets.framework.code import code_of
from assets.framework.define import Asset, asset
from assets.framework.metadata import batch_result, result_of
from assets.framework.partitions import Checkpoints
from assets.framework.resources import JudgeAccess
from assets.framework.store import AssetStore, Work
from assets.launching.launcher import Launcher
from training.runtime.launch import Start
from training.runtime.programs import CHECKPOINT, METRICS, RESULT, read_metrics
from training.storage.artifacts import MODEL, Artifact

BASE = "inputs/base_model"
SFT = "checkpoints/sft"
RL = "checkpoints/rl"
CURVES = "curves.png"
SFT_PROGRAM, RL_PROGRAM = "training.sft", "training.rl"

BASE_CODE = code_of("assets.checkpoints.base")
SFT_CODE, RL_CODE = code_of(SFT_PROGRAM), code_of(RL_PROGRAM)

# A new data version of what is trained on; materialising the same version again does not count.
RETRAIN = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since_last_handled()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.in_progress()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("what it is trained on really changed")


def checkpoint_assets(
    base: Path,
    sft: Mapping[str, SftRun],
    rl: Mapping[str, RlRun],
    checkpoints: Checkpoints,
    seed: int,
    device: str,
    max_parallel: Mapping[str, int],
    retrain: bool,
    report_to: Sequence[str],
) -> list[dg.AssetsDefinition]:
    """`max_parallel`: for each program, the number of recipes that one run trains side by side.

    With `retrain`, checkpoints follow their data by themselves, once automation is turned on in the UI.
    """
    shared: dict[str, Any] = {
        "kinds": ("torch", "safetensors"),
        "previews": (CURVES,),
        "links": {"model": MODEL, "metrics": METRICS},
        "automation_condition": RETRAIN if retrain else None,
    }
    sft_asset = Asset(
        SFT,
        "Supervised fine-tuning on interleaved text and latents; resumes from its own last checkpoint.",
        code_version=SFT_CODE,
        deps=(BASE, SFT_SETS),
        partitions=checkpoints.sft_partitioning(max_parallel.get(SFT_PROGRAM, 1)),
        **shared,
    )
    rl_asset = Asset(
        RL,
        "LA-DAPO and its ablations, from an SFT checkpoint; resumes from its own last checkpoint.",
        code_version=RL_CODE,
        deps=(SFT, RL_SETS),
        partitions=checkpoints.rl_partitioning(max_parallel.get(RL_PROGRAM, 1)),
        **shared,
    )
    program_config = {"seed": seed, "device": device}
    return [
        _base(base),
        _sft(_Training(sft_asset, SFT_PROGRAM, SFT_SETS, "base", sft, program_config, report_to)),
        _rl(_Training(rl_asset, RL_PROGRAM, RL_SETS, "sft", rl, program_config, report_to), rl),
    ]


def _base(base: Path) -> dg.AssetsDefinition:
    declared = Asset(
        BASE,
        "The base model, resolved: every file hashed, and linked from the artifact.",
        kinds=("transformers", "safetensors"),
        code_version=BASE_CODE,
        links={"model": MODEL},
    )

    @asset(declared)
    def checkpoints_base(store: dg.ResourceParam[AssetStore]) -> dg.MaterializeResult[None]:
        work = store.work(BASE, files_of(base), {}, BASE_CODE)
        return result_of(store, declared, work.do(lambda workspace: link(base, workspace / MODEL)))

    return checkpoints_base


@dataclass(frozen=True)
class _Training:
    """SFT or RL: what its program is started with.  model_field: the name of the input model in the program's config.

    report_to is no part of an artifact's version: trackers change nothing in a checkpoint.
    """

    asset: Asset
    program: str
    sets: str
    model_field: str
    runs: Mapping[str, SftRun | RlRun]
    config: Mapping[str, Any]
    report_to: Sequence[str]

    def materialise(
        self,
        context: dg.AssetExecutionContext,
        overrides: RecipeConfig,
        store: AssetStore,
        launcher: Launcher,
        models: Mapping[str, tuple[str, Artifact]],
        judge: JudgeAccess | None = None,
    ) -> dg.MaterializeResult[None]:
        """Trains the recipes of the run's partitions, each from its model (its key with the artifact)."""
        sets = store.current(self.sets)
        files = {name: f"{self.runs[name].data}.parquet" for name in context.partition_keys}
        configs = {name: self._recipe_config(name, overrides) for name in context.partition_keys}

        def train(workspaces: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
            with judge.settings() if judge else nullcontext() as settings:
                served = {"judge": settings.model_dump(mode="json") if settings else None} if judge else {}
                started = {
                    name: {**configs[name], "data": str(sets.file(files[name])), "report_to": list(self.report_to),
                           self.model_field: str(models[name][1].folder(MODEL)), **served}
                    for name in workspaces
                }  # fmt: skip
                return _run(context, launcher, self.program, workspaces, started)

        works = {
            name: store.work(
                self.asset.key,
                {
                    models[name][0]: models[name][1].version,
                    # a set's own bytes: another set of the same artifact changes nothing here
                    f"{self.sets}/{self.runs[name].data}": str(sets.manifest["files"][files[name]]["sha256"]),
                },
                {**config, "judge": judge.name} if judge else config,
                self.asset.code_version or "",
                name,
            )
            for name, config in configs.items()
        }
        return batch_result(context, store, self.asset, Work.do_together(works, train))

    def _recipe_config(self, name: str, overrides: RecipeConfig) -> dict[str, Any]:
        values, recipe = overrides.values(), self.runs[name].recipe
        recipe = recipe.model_copy(update={"max_steps": values.pop("max_steps", recipe.max_steps)})
        return {"recipe": recipe.model_dump(mode="json"), **self.config, **values}


def _sft(training: _Training) -> dg.AssetsDefinition:
    @asset(training.asset, pool="gpu")
    def start_sft(
        context: dg.AssetExecutionContext,
        config: RecipeConfig,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
    ) -> Iterator[dg.MaterializeResult[None]]:
        models = dict.fromkeys(context.partition_keys, (BASE, store.current(BASE)))
        yield training.materialise(context, config, store, launcher, models)

    return start_sft


def _rl(training: _Training, runs: Mapping[str, RlRun]) -> dg.AssetsDefinition:
    @asset(training.asset, pool="gpu")
    def start_rl(
        context: dg.AssetExecutionContext,
        config: RecipeConfig,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> Iterator[dg.MaterializeResult[None]]:
        starts = {name: runs[name].start for name in context.partition_keys}
        models = {name: (f"{SFT}/{start}", store.current(SFT, start)) for name, start in starts.items()}
        yield training.materialise(context, config, store, launcher, models, judge)

    return start_rl


def _run(
    context: dg.AssetExecutionContext,
    launcher: Launcher,
    module: str,
    workspaces: Mapping[str, Path],
    configs: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Starts a program for each workspace, side by side; returns their results.

    A workspace has the result of a program whose step was killed before it published: such a program does not start.
    """
    waiting = {name: workspace for name, workspace in workspaces.items() if not (workspace / RESULT).is_file()}
    if waiting:
        launcher.run_parallel(context, [Start(module, folder, configs[name]) for name, folder in waiting.items()])
    return {name: _finish(folder, json.loads((folder / RESULT).read_text())) for name, folder in workspaces.items()}


def _finish(workspace: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps the checkpoint and the metrics, and removes the files for resuming."""
    if (workspace / CHECKPOINT).is_dir():  # else a step that was killed after this has moved it
        shutil.rmtree(workspace / MODEL, ignore_errors=True)
        (workspace / CHECKPOINT).rename(workspace / MODEL)
    shutil.rmtree(workspace / "steps", ignore_errors=True)
    from evaluation.drawing.run_plots import training_curves

    metrics = read_metrics(workspace)
    (workspace / CURVES).write_bytes(training_curves(metrics))
    return {**result, "last_metrics": metrics[-1] if metrics else {}}
