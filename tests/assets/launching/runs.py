"""A job of one step in the pool `gpu` that publishes what the counting program returns; runs of it in processes."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.framework.store import AssetStore, Work
from assets.launching.launcher import Launcher, LaunchSettings
from tests.assets.launching.counting import PROGRAM
from training.runtime.launch import Start

INSTANCE = """
storage: {sqlite: {base_dir: BASE}}
concurrency: {pools: {default_limit: 1, granularity: op}}
telemetry: {enabled: false}
"""
RUN = """
import json, sys
import dagster as dg
from tests.assets.launching.runs import counting
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    dg.execute_job(dg.reconstructable(counting), instance, json.loads(sys.argv[2]), raise_on_error=False)
"""


def work(home: Path) -> Work:
    """The artifact that the step publishes."""
    return AssetStore(home).work("counted/numbers", {}, {"to": 4}, "1")


@dg.op(pool="gpu", config_schema={"home": str, "launch": dict, "program": dict})
def count(context: dg.OpExecutionContext) -> None:
    """Runs the program, unless its artifact is published already."""
    config = context.op_config
    launcher = Launcher(LaunchSettings.model_validate(config["launch"]), lambda *_: None)

    def make(workspace: Path) -> Mapping[str, Any]:
        return launcher.run_parallel(context, [Start(PROGRAM, workspace, config["program"])])[0]

    work(Path(config["home"])).do(make)


@dg.job
def counting() -> None:
    count()


def instance_folder(home: Path) -> Path:
    """A folder with a dagster.yaml: SQLite, and one slot in the pool."""
    folder = home / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(INSTANCE.replace("BASE", str(folder)))
    return folder


def start_run(instance: Path, config: Mapping[str, Any]) -> subprocess.Popen[str]:
    """A run's own process, whose step is another one."""
    command = [sys.executable, "-c", RUN, str(instance), json.dumps(config)]
    return subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, start_new_session=True)
