"""`inputs/base_model`, `checkpoints/sft` and `checkpoints/rl`: op-backed assets that start the training programs."""

import json
import shutil
from collections.abc import Mapping, Sequence
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
from assets.framework.resources import JudgeAccess, JudgeParam
from assets.framework.settings import refuse_unknown_names
from assets.framework.store import AssetStore, StoreParam, Work, name_of
from assets.launching.launcher import Launcher, LauncherParam
from training.runtime.launch import Start
from training.runtime.model_card import CARD, CardFields
from training.runtime.programs import CHECKPOINT, METRICS, RESULT, read_metrics
from training.storage.artifacts import MODEL

BASE, SFT, RL = "inputs/base_model", "checkpoints/sft", "checkpoints/rl"
CURVES = "curves.png"
SFT_PROGRAM, RL_PROGRAM = "training.sft", "training.rl"

BASE_CODE = code_of("assets.checkpoints.base")


def checkpoint_assets(
    base: Path,
    sft: Mapping[str, SftRun],
    rl: Mapping[str, RlRun],
    checkpoints: Checkpoints,
    seed: int,
    device: str,
    max_parallel: Mapping[str, int],
    report_to: Sequence[str],
    cards: Mapping[str, CardFields],
) -> list[dg.AssetsDefinition]:
    """`max_parallel`: for each program, the number of recipes that one run trains side by side.  `cards`: the fields of
    each model's card.
    """
    shared: dict[str, Any] = {
        "kinds": ("torch", "safetensors"),
        "previews": (CURVES,),
        "links": {"model": MODEL, "card": f"{MODEL}/{CARD}", "metrics": METRICS},
    }
    sft_asset = Asset(
        SFT,
        "Supervised fine-tuning on interleaved text and latents; resumes from its own last checkpoint.",
        code_version=code_of(SFT_PROGRAM),
        deps=(BASE, SFT_SETS),
        partitions=checkpoints.sft_partitioning(max_parallel.get(SFT_PROGRAM, 1)),
        **shared,
    )
    rl_asset = Asset(
        RL,
        "LA-DAPO and its ablations, from an SFT checkpoint; resumes from its own last checkpoint.",
        code_version=code_of(RL_PROGRAM),
        deps=(SFT, RL_SETS),
        partitions=checkpoints.rl_partitioning(max_parallel.get(RL_PROGRAM, 1)),
        **shared,
    )
    config = {"seed": seed, "device": device}
    bases: dict[str, tuple[str, str | None]] = dict.fromkeys(sft, (BASE, None))
    starts: dict[str, tuple[str, str | None]] = {name: (SFT, run.start) for name, run in rl.items()}
    return [
        _base(base),
        _trained(_Training(sft_asset, SFT_PROGRAM, SFT_SETS, "base", bases, sft, config, report_to, cards)),
        _trained(_Training(rl_asset, RL_PROGRAM, RL_SETS, "sft", starts, rl, config, report_to, cards), judged=True),
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
    def checkpoints_base(store: StoreParam) -> dg.MaterializeResult[None]:
        work = store.work(BASE, files_of(base), {}, BASE_CODE)
        return result_of(store, declared, work.do(lambda workspace: link(base, workspace / MODEL)))

    return checkpoints_base


@dataclass(frozen=True)
class _Training:
    """SFT or RL: what its program is started with.

    model_field: the name of the input model in the program's config; models: the asset and partition of each recipe's.
    report_to and cards are no part of an artifact's version: neither changes what a checkpoint computes.
    """

    asset: Asset
    program: str
    sets: str
    model_field: str
    models: Mapping[str, tuple[str, str | None]]
    runs: Mapping[str, SftRun | RlRun]
    config: Mapping[str, Any]
    report_to: Sequence[str]
    cards: Mapping[str, CardFields]

    def materialise(
        self,
        context: dg.AssetExecutionContext,
        overrides: RecipeConfig,
        store: AssetStore,
        launcher: Launcher,
        judge: JudgeAccess | None = None,
    ) -> dg.MaterializeResult[None]:
        """Trains the recipes of the run's partitions, each from its model."""
        sets = store.current(self.sets)
        values, works, configs = overrides.values(), {}, {}
        refuse_unknown_names("max_steps", values["max_steps"], self.runs)
        for name in context.partition_keys:
            run, model = self.runs[name], store.current(*self.models[name])
            recipe = run.recipe.model_copy(
                update={"max_steps": values["max_steps"].get(name, run.recipe.max_steps)}
            )
            config = {"recipe": recipe.model_dump(mode="json"), **self.config, "seed": values["seed"]}
            inputs = {
                name_of(*self.models[name]): model.version,
                # a set's own bytes: another set of the same artifact changes nothing here
                f"{self.sets}/{run.data}": str(sets.manifest["files"][f"{run.data}.parquet"]["sha256"]),
            }
            judged = {"judge": judge.name} if judge else {}
            works[name] = store.work(self.asset.key, inputs, config | judged, str(self.asset.code_version), name)
            configs[name] = config | {
                "data": str(sets.file(f"{run.data}.parquet")),
                "report_to": list(self.report_to),
                "card": self.cards[name].model_copy(update={"data_version": sets.version}).model_dump(),
                self.model_field: str(model.folder(MODEL)),
            }

        def train(workspaces: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
            with judge.settings() if judge else nullcontext() as settings:
                started = {name: dict(configs[name]) for name in workspaces}
                if judge:
                    for name, config in started.items():
                        replies = {"cache": str(judge.replies(self.asset.key, name))}
                        config["judge"] = settings and settings.model_dump(mode="json") | replies
                return _run(context, launcher, self.program, workspaces, started)

        return batch_result(context, store, self.asset, Work.do_together(works, train))


def _trained(training: _Training, judged: bool = False) -> dg.AssetsDefinition:
    steps = {name: run.recipe.max_steps for name, run in training.runs.items() if run.recipe.max_steps is not None}
    define = asset(training.asset, pool="gpu", config=RecipeConfig(seed=training.config["seed"], max_steps=steps))
    if judged:

        @define
        def start_judged(
            context: dg.AssetExecutionContext,
            config: RecipeConfig,
            store: StoreParam,
            launcher: LauncherParam,
            judge: JudgeParam,
        ) -> dg.MaterializeResult[None]:
            return training.materialise(context, config, store, launcher, judge)

        return start_judged

    @define
    def start(
        context: dg.AssetExecutionContext, config: RecipeConfig, store: StoreParam, launcher: LauncherParam
    ) -> dg.MaterializeResult[None]:
        return training.materialise(context, config, store, launcher)

    return start


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
