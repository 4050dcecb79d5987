"""`[generation.endpoint.MODEL]`: Dagster's command line makes a model's answers and reports from vLLM's server, in a
copy of the demo's home; the answers are those that the demo has of it, and say which engine gave them."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from assets.benchmarks.assets import ANSWER_TABLE, FUTURE_ANSWERS, REPORT, TWIFF_ANSWERS
from assets.benchmarks.necessity import INTERVENED, NECESSITY
from assets.framework.store import AssetStore
from evaluation.generation.jobs import LOCAL_INTERVENTIONS
from pipelines.profile import HOME_VARIABLE, PROFILE_VARIABLE
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_server import Server, served
from training.chat.endpoint import ENDPOINT_KEYS
from training.runtime.project import PROJECT
from training.storage.files import read_json
from training.storage.parquet import read_parquet

PROGRAM = "dagster, vLLM's server"
INTERVENED_ITEMS = 20
OVERLAY = """
extends = "{profile}"
[generation.endpoint.{model}]
base_urls = ["{url}"]
concurrency = 16
[benchmarks.necessity]
n = {items}
"""


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    home = shutil.copytree(demo.profile.home, work / "home", symlinks=True)
    model, checkpoint = list(demo.latent_checkpoints.items())[-1]
    store = AssetStore(home)
    with served(demo, checkpoint, work) as server:
        shell = _shell(model, server, home, work)
        _materialize(shell, f"{FUTURE_ANSWERS},{TWIFF_ANSWERS}", model)
        for key in (INTERVENED, NECESSITY):
            _materialize(shell, key, model)
    for benchmark in ("futurebench", "twiffbench"):
        made = store.current(f"benchmarks/{benchmark}_answers", model)
        yield _compared(f"{model}, {benchmark}", demo.answers(benchmark, model), read_parquet(made.file(ANSWER_TABLE)))
        engines = made.provenance["counts"]["engines"]
        yield Check(f"{model}, {benchmark}: by {', '.join(engines)}", PROGRAM, len(engines), 1)
    rows = read_json(store.current(NECESSITY, model).file(REPORT))
    local = sum(row["outcome"] == "not examined" for row in rows["diagnostics"].values())
    yield Check(f"{model}: diagnostics that say that they need a model loaded here", PROGRAM, int(local > 0), 1)
    wanted = [name for name in demo.profile.benchmarks.necessity.interventions if name not in LOCAL_INTERVENTIONS]
    yield Check(f"{model}: interventions in the report", PROGRAM, len(rows["interventions"]), len(wanted))


def _shell(model: str, server: Server, home: Path, work: Path) -> Mapping[str, str]:
    """The environment of a shell that has evaluated `future-l1 env`, with a profile that names the server."""
    overlay = work / "served.toml"
    profile = os.environ.get(PROFILE_VARIABLE, "demo")
    overlay.write_text(OVERLAY.format(profile=profile, model=model, url=server.url, items=INTERVENED_ITEMS))
    variables = os.environ | {HOME_VARIABLE: str(home), PROFILE_VARIABLE: str(overlay)}
    script = f'eval "$({shlex.quote(sys.executable)} -m pipelines env)" && env -0'
    ended = subprocess.run(["bash", "-ec", script], cwd=PROJECT, env=variables, check=True, stdout=subprocess.PIPE)
    shell = dict(line.split("=", 1) for line in ended.stdout.decode().split("\0") if "=" in line)
    return shell | {ENDPOINT_KEYS[0]: server.key}


def _materialize(shell: Mapping[str, str], keys: str, partition: str) -> None:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "pipelines.definitions",
               "--select", keys, "--partition", partition]  # fmt: skip
    ended = subprocess.run(command, cwd=PROJECT, env=shell, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]


def _compared(title: str, ours: pl.DataFrame, theirs: pl.DataFrame) -> Check:
    pairs = ours.join(theirs, on=("prompt_id", "sample", "tokens"), how="semi")
    return Check(f"{title}: answers token for token", PROGRAM, pairs.height, ours.height)
