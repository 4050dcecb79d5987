"""`inputs/base_model`, `checkpoints/sft` and `checkpoints/rl`: op-backed assets that start the training programs."""

import json
import shutil
from collections.abc import Iterator, Mapping
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
from assets.launching.launcher import Launcher, Start
from training.runtime.programs import CHECKPOINT, METRICS, RESULT, read_metrics
from training.storage.artifacts import MODEL, Artifact

BASE = "inputs/base_model"
SFT = "checkpoints/sft"
RL = "checkpoints/rl"
"""The folder of an artifact that holds the checkpoint itself, as transformers writes it."""
CURVES = "curves.png"
SFT_PROGRAM, RL_PROGRAM = "training.sft", "training.rl"

BASE_CODE = code_of("assets.checkpoints.base")
SFT_CODE, RL_CODE = code_of(SFT_PROGRAM), code_of(RL_PROGRAM)

# What is trained on really changed: materialising the same version again does not count.
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
) -> list[dg.AssetsDefinition]:
    """`together`: of each program, how many recipes are trained in one run, side by side, where several are asked for.

    With `retrain`, checkpoints follow their data by themselves, once somebody turns automation on in the UI.
    """
    condition = RETRAIN if retrain else None
    return [
        _base(base),
        _sft(sft, checkpoints, seed, device, max_parallel.get(SFT_PROGRAM, 1), condition),
        _rl(rl, checkpoints, seed, device, max_parallel.get(RL_PROGRAM, 1), condition),
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


def _sft(
    runs: Mapping[str, SftRun],
    checkpoints: Checkpoints,
    seed: int,
    device: str,
    max_parallel: int,
    condition: dg.AutomationCondition | None,
) -> dg.AssetsDefinition:
    declared = Asset(
        SFT,
        "Supervised fine-tuning on interleaved text and latents; resumes from its own last checkpoint.",
        kinds=("torch", "safetensors"),
        code_version=SFT_CODE,
        deps=(BASE, SFT_SETS),
        partitions=checkpoints.sft_partitioning(max_parallel),
        previews=(CURVES,),
        links={"model": MODEL, "metrics": METRICS},
        automation_condition=condition,
    )

    @asset(declared, pool="gpu")
    def start_sft(
        context: dg.AssetExecutionContext,
        config: RecipeConfig,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
    ) -> Iterator[dg.MaterializeResult[None]]:
        base, sets = store.current(BASE), store.current(SFT_SETS)
        configs = {name: _config(runs[name], seed, device, config) for name in context.partition_keys}

        def train(workspaces: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
            asked = {
                name: {**configs[name], "data": _set_file(sets, runs[name].data), "base": str(base.folder(MODEL))}
                for name in workspaces
            }
            return _run(context, launcher, SFT_PROGRAM, workspaces, asked)

        works = {
            name: store.work(
                SFT,
                {BASE: base.version, f"{SFT_SETS}/{runs[name].data}": _set_version(sets, runs[name].data)},
                told,
                SFT_CODE,
                name,
            )
            for name, told in configs.items()
        }
        yield batch_result(context, store, declared, Work.do_together(works, train))

    return start_sft


def _rl(
    runs: Mapping[str, RlRun],
    checkpoints: Checkpoints,
    seed: int,
    device: str,
    max_parallel: int,
    condition: dg.AutomationCondition | None,
) -> dg.AssetsDefinition:
    declared = Asset(
        RL,
        "LA-DAPO and its ablations, from an SFT checkpoint; resumes from its own last checkpoint.",
        kinds=("torch", "safetensors"),
        code_version=RL_CODE,
        deps=(SFT, RL_SETS),
        partitions=checkpoints.rl_partitioning(max_parallel),
        previews=(CURVES,),
        links={"model": MODEL, "metrics": METRICS},
        automation_condition=condition,
    )

    @asset(declared, pool="gpu")
    def start_rl(
        context: dg.AssetExecutionContext,
        config: RecipeConfig,
        store: dg.ResourceParam[AssetStore],
        launcher: dg.ResourceParam[Launcher],
        judge: dg.ResourceParam[JudgeAccess],
    ) -> Iterator[dg.MaterializeResult[None]]:
        sets = store.current(RL_SETS)
        starts = {name: store.current(SFT, runs[name].start) for name in context.partition_keys}
        configs = {name: _config(runs[name], seed, device, config) for name in context.partition_keys}

        def train(workspaces: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
            with judge.settings() as address:
                served = address.model_dump(mode="json") if address else None
                asked = {
                    name: {**configs[name], "data": _set_file(sets, runs[name].data),
                           "sft": str(starts[name].folder(MODEL)), "judge": served}
                    for name in workspaces
                }  # fmt: skip
                return _run(context, launcher, RL_PROGRAM, workspaces, asked)

        works = {
            name: store.work(
                RL,
                {
                    f"{SFT}/{runs[name].start}": starts[name].version,
                    f"{RL_SETS}/{runs[name].data}": _set_version(sets, runs[name].data),
                },
                {**told, "judge": judge.name},
                RL_CODE,
                name,
            )
            for name, told in configs.items()
        }
        yield batch_result(context, store, declared, Work.do_together(works, train))

    return start_rl


def _run(
    context: dg.AssetExecutionContext,
    launcher: Launcher,
    module: str,
    workspaces: Mapping[str, Path],
    asked: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """A program for each workspace, side by side; what each leaves, finished.

    A workspace has the result of a program whose step was killed before it published: it is finished only.
    """
    waiting = {name: workspace for name, workspace in workspaces.items() if not (workspace / RESULT).is_file()}
    if waiting:
        launcher.run_parallel(context, [Start(module, folder, asked[name]) for name, folder in waiting.items()])
    return {name: _finish(folder, json.loads((folder / RESULT).read_text())) for name, folder in workspaces.items()}


def _config(run: SftRun | RlRun, seed: int, device: str, tried: RecipeConfig) -> dict[str, Any]:
    """What a training is told besides its inputs."""
    values = tried.values()
    recipe = run.recipe.model_copy(update={"max_steps": values.pop("max_steps", run.recipe.max_steps)})
    return {"recipe": recipe.model_dump(mode="json"), "seed": seed, "device": device} | values


def _set_file(sets: Artifact, name: str) -> str:
    return str(sets.file(f"{name}.parquet"))


def _set_version(sets: Artifact, name: str) -> str:
    """A set's own bytes: a checkpoint does not change when only another set of the same artifact did."""
    return str(sets.manifest["files"][f"{name}.parquet"]["sha256"])


def _finish(workspace: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the checkpoint and the figures; what was only for resuming goes."""
    if (workspace / CHECKPOINT).is_dir():  # else a step that was killed after this has moved it
        shutil.rmtree(workspace / MODEL, ignore_errors=True)
        (workspace / CHECKPOINT).rename(workspace / MODEL)
    shutil.rmtree(workspace / "steps", ignore_errors=True)
    from evaluation.drawing.run_plots import training_curves

    metrics = read_metrics(workspace)
    (workspace / CURVES).write_bytes(training_curves(metrics))
    return {**result, "last_metrics": metrics[-1] if metrics else {}}
