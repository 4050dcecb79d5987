"""What runs outside our own environment asks for little: each entry point with the packages that our modules import for
it, while those of the tables and of the workflow are not there at all.

`evaluation.lmms_eval` and `training.engines` run in environments with lmms-eval and vLLM, without our dependencies; the
trainers, on a machine with
torch, transformers, accelerate and TRL.  What those packages themselves import is theirs to declare.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation.benchmarks.test_futurebench import record, write
from training.runtime.project import PROJECT
from training.tiny import BASE

ABSENT = ("dagster", "dagster_pipes", "dataframely", "decord", "duckdb", "openai", "polars")
ROOMS = ("assets", "evaluation", "pipelines", "training")

RUN = """
import builtins, importlib, json, sys
from importlib.machinery import PathFinder

absent, rooms, modules, script = json.loads(sys.argv[1])

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
packages, original = set(), builtins.__import__

def imported(name, globals=None, *args, **kwargs):
    if globals and globals.get("__name__", "").partition(".")[0] in rooms:
        packages.add(name.partition(".")[0])
    return original(name, globals, *args, **kwargs)

builtins.__import__ = imported
for module in modules:
    importlib.import_module(module)
exec(script)
print(json.dumps(sorted(packages - set(rooms) - set(sys.stdlib_module_names))))
"""

MODEL = ("numpy", "PIL", "cachetools", "pydantic", "safetensors", "torch", "torchvision", "transformers")
TRAINERS = (*MODEL, "accelerate", "peft", "trl")

DECODE = f"""
from pathlib import Path
from training.model.checkpoint import load
from training.model.decode import decode
from training.model.sampling import Sampling
bundle = load(Path({str(BASE)!r}))
prompt = bundle.prompt_encoder((1, 4), None).prompt(["Which colour?"])
decode(bundle.model, bundle.vision(), bundle.tokens, [prompt], Sampling(2), bundle.spans, [[0]])
"""


ENGINES = PROJECT / "training" / "engines"
LMMS_EVAL = PROJECT / "evaluation" / "lmms_eval"
READ_ITEM = """
import os
from pathlib import Path
from evaluation.benchmarks.futurebench_items import FutureBenchItems, FutureBenchSettings
from evaluation.lmms_eval.items import messages, usable_items
from evaluation.lmms_eval.media import PromptReader
from training.model.checkpoint import load
os.environ["FUTURE_L1_FUTUREBENCH_DIR"] = {folder!r}
benchmark = FutureBenchItems(FutureBenchSettings(layout="keyframes"))
(item,) = usable_items(benchmark)
reader = PromptReader(load(Path({base!r})).prompt_encoder((1, 4), None), 8, 4)
assert len(reader.prompt(messages(benchmark.content(item))).ids) > 10
"""


def packages(modules: tuple[str, ...], script: str = "") -> set[str]:
    """The packages that our modules import, beside the standard library, for these modules and then the script."""
    request = json.dumps([ABSENT, ROOMS, modules, script])
    done = subprocess.run([sys.executable, "-c", RUN, request], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("modules", "script", "needed"),
    [
        pytest.param(("training.model.checkpoint",), DECODE, MODEL, id="a checkpoint that answers"),
        pytest.param(("training.grading.judge", "training.grading.grade"), "", ("numpy", "pydantic"), id="a grade"),
        pytest.param(("training.sft.trainer", "training.rl.trainer"), "", TRAINERS, id="both trainers"),
    ],
)
def test_an_entry_point_needs_these_packages_and_no_others(
    modules: tuple[str, ...], script: str, needed: tuple[str, ...]
) -> None:
    assert packages(modules, script) == set(needed)


def test_the_vllm_plugin_needs_these_packages_and_these_modules_of_ours() -> None:
    """Its parts that import vLLM itself run in `make interop`; here, all that they import of ours."""
    files = [file for file in ENGINES.glob("*.py") if "from vllm" not in file.read_text()]
    modules = {f"training.engines.{file.stem}" for file in files} - {"training.engines.__init__"}
    sources = [ast.parse(file.read_text()) for file in ENGINES.glob("*.py")]
    imports = [node.module for source in sources for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    ours = {module for module in imports if module and module.startswith(ROOMS)} - modules
    assert len(modules) > 5
    assert {module for module in ours if not module.startswith("training.engines")} == {
        *(f"training.model.{name}" for name in ("interventions", "modes", "sampling", "tokens")),
        "training.storage.hashing",
    }
    assert packages(tuple(modules)) == {"numpy", "pydantic", "torch", "transformers"}


def test_lmms_eval_needs_these_packages_of_ours(tmp_path: Path) -> None:
    """Its parts that import lmms-eval itself run in `make interop`; here, all that they import of ours."""
    sources = [ast.parse((LMMS_EVAL / name).read_text()) for name in ("chat_model.py", "task.py")]
    imports = [node.module for source in sources for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    ours = [module for module in imports if module and module.startswith(ROOMS)]
    assert len(ours) > 10
    write(tmp_path, record(0))
    script = READ_ITEM.format(folder=str(tmp_path), base=str(BASE))
    assert packages(("evaluation.lmms_eval", *ours), script) == {*MODEL, "av"}


@pytest.mark.parametrize(("choice", "disabled"), [({}, "True"), ({"HF_HUB_DISABLE_TELEMETRY": "0"}, "False")])
def test_trainings_are_reported_to_nobody_but_by_choice(choice: dict[str, str], disabled: str) -> None:
    script = "import training, huggingface_hub.constants as constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"} | choice
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == disabled
