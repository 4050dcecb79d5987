"""`[generation.endpoint.MODEL]`: Dagster's command line makes a model's answers and reports from vLLM's server; answers
and scores are those that the demo has of it, and say which engine gave them.

The home is a new one.  It has copies of the artifacts that the assets read, and nothing of the demo's home is written.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from assets.benchmarks.assets import (
    ANSWER_TABLE,
    FUTURE_ANSWERS,
    FUTURE_ITEMS,
    FUTURE_REPORT,
    REPORT,
    TWIFF_ANSWERS,
    TWIFF_ITEMS,
)
from assets.benchmarks.latents import LATENT_RETRIEVAL
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
    model, checkpoint = list(demo.latent_checkpoints.items())[-1]
    home = _home(demo, model, work / "home")
    with served(demo, checkpoint, work) as server:
        shell = _shell(model, server, home, work)
        _materialize(shell, (FUTURE_ANSWERS, TWIFF_ANSWERS, FUTURE_REPORT), model)
        _materialize(shell, (INTERVENED, NECESSITY), model)
    store = AssetStore(home)
    for key in (FUTURE_ANSWERS, TWIFF_ANSWERS):
        made = store.current(key, model)
        yield _compared(f"{model}, {key}", _answers(demo.store, key, model), _answers(store, key, model))
        engines = made.provenance["counts"]["engines"]
        yield Check(f"{model}, {key}: by {', '.join(engines)}", PROGRAM, len(engines), 1)
    scores = [one.current(FUTURE_REPORT, model).provenance["counts"]["splits"] for one in (demo.store, store)]
    yield Check(f"{model}, {FUTURE_REPORT}: scores of splits", PROGRAM, _equal(*scores), len(scores[0]))
    report = read_json(store.current(NECESSITY, model).file(REPORT))
    local = sum(row["outcome"] == "not examined" for row in report["diagnostics"].values())
    yield Check(f"{model}: diagnostics that say that they need a model loaded here", PROGRAM, int(local > 0), 1)
    wanted = [name for name in demo.profile.benchmarks.necessity.interventions if name not in LOCAL_INTERVENTIONS]
    yield Check(f"{model}: interventions in the report", PROGRAM, len(report["interventions"]), len(wanted))


def _home(demo: Demo, model: str, home: Path) -> Path:
    """A home with what the assets read: the items, whose clips stay where they are, the model, and its mean latent."""
    store, trained = AssetStore(home), demo.profile.checkpoints.artifact(model)
    for key, partition in ((FUTURE_ITEMS, None), (TWIFF_ITEMS, None), trained, (LATENT_RETRIEVAL, model)):
        artifact = demo.store.current(key, partition)
        folder = artifact.path.relative_to(demo.store.artifacts.root)
        shutil.copytree(artifact.path, store.artifacts.root / folder)
        store.artifacts.make_current(str(folder.parent), artifact.version)
    return home


def _shell(model: str, server: Server, home: Path, work: Path) -> Mapping[str, str]:
    """The environment of a shell that has evaluated `future-l1 env`, with a profile that names the server."""
    overlay = work / "served.toml"
    profile = os.environ[PROFILE_VARIABLE]
    overlay.write_text(OVERLAY.format(profile=profile, model=model, url=server.url, items=INTERVENED_ITEMS))
    variables = os.environ | {HOME_VARIABLE: str(home), PROFILE_VARIABLE: str(overlay)}
    script = f'eval "$({shlex.quote(sys.executable)} -m pipelines env)" && env -0'
    ended = subprocess.run(["bash", "-ec", script], cwd=PROJECT, env=variables, check=True, stdout=subprocess.PIPE)
    shell = dict(line.split("=", 1) for line in ended.stdout.decode().split("\0") if "=" in line)
    return shell | {ENDPOINT_KEYS[0]: server.key}


def _materialize(shell: Mapping[str, str], keys: tuple[str, ...], partition: str) -> None:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "pipelines.definitions",
               "--select", ",".join(keys), "--partition", partition]  # fmt: skip
    ended = subprocess.run(command, cwd=PROJECT, env=shell, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]


def _answers(store: AssetStore, key: str, model: str) -> pl.DataFrame:
    return read_parquet(store.current(key, model).file(ANSWER_TABLE))


def _compared(title: str, ours: pl.DataFrame, theirs: pl.DataFrame) -> Check:
    pairs = ours.join(theirs, on=("prompt_id", "sample", "tokens"), how="semi")
    return Check(f"{title}: answers token for token", PROGRAM, pairs.height, ours.height)


def _equal(ours: Mapping[str, object], theirs: Mapping[str, object]) -> int:
    """How many of the entries of the one the other has, too."""
    return sum(theirs.get(name) == value for name, value in ours.items())
