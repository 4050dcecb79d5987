"""`python -m training.engines CHECKPOINT [OPTION ...]`: vLLM's own OpenAI server for a checkpoint of ours.

Runs with the interpreter of the environment that has vLLM.  The options are vLLM's; they stand last, and count.
"""

import json
import os
import sys
from importlib import metadata
from pathlib import Path

from training.engines import VLLM, engine_arguments
from training.engines.checks import check_options, has_chat_template, read_config
from training.engines.identity import CHECKPOINT_VARIABLE
from training.storage.hashing import model_digest

SERVER = "vllm.entrypoints.openai.api_server"
MIDDLEWARE = "training.engines.middleware.LatentMiddleware"
IDENTITY = "training.engines.identity.IdentityMiddleware"
CPU_VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Defaults without a GPU: one GiB of keys and values, and threads that share their cores with other programs."""
NO_USAGE_STATISTICS = {"VLLM_NO_USAGE_STATS": "1"}
"""vLLM's server reports its use to vLLM's authors unless this says otherwise, or the user's own environment."""


def vllm_version() -> str:
    """The version of the installed vLLM, `+cpu` at its end where it is a build for CPUs.

    Raises ValueError where there is none, another than VLLM, or none that knows our models.
    """
    versions = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    version = versions["vllm"] or versions["vllm-cpu"]
    if version is None or version.split(".")[:2] != VLLM.split("."):
        raise ValueError(f"{sys.prefix} has {f'vLLM {version}' if version else 'no vLLM'}, want {VLLM}: "
                         "docs/using-the-models.md says how its environment is made")  # fmt: skip
    plugins = {point.value for point in metadata.entry_points(group="vllm.general_plugins")}
    if "training.engines:register" not in plugins:
        raise ValueError(f"vLLM in {sys.prefix} does not know our models: {sys.executable} -m pip install --no-deps .")
    return version if versions["vllm"] else f"{version}+cpu"


def server_arguments(checkpoint: Path, cpu: bool) -> list[str]:
    """The server's options by which it answers as our own decoder: float32 on a CPU and bfloat16 on a GPU, no sampling
    settings but a request's own, our chat template for a folder without one and, for a checkpoint with latents, what
    feeds them.

    Raises ValueError as `read_config` does.
    """
    options = ["--model", str(checkpoint), "--generation-config", "vllm"]
    options += ["--dtype", "float32", "--enforce-eager"] if cpu else ["--dtype", "bfloat16"]
    options += ["--middleware", MIDDLEWARE, "--trust-request-mm-kwargs"]  # of which the middleware lets little pass
    options += ["--middleware", IDENTITY]
    if not has_chat_template(checkpoint):
        from training.model.tokens import CHAT_TEMPLATE  # imports torch

        options += ["--chat-template", CHAT_TEMPLATE]
    if "future_l1" in read_config(checkpoint):
        for name, value in engine_arguments(cpu).items():
            text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict) else value[0]
            options += [f"--{name.replace('_', '-')}", text]
    return options


def main(arguments: list[str]) -> None:
    """Becomes the server.  Exits with a sentence where it cannot be."""
    if not arguments:
        sys.exit("give a checkpoint's folder, and after it options of vLLM's server")
    try:
        checkpoint, *options = arguments
        check_options(options)
        folder = Path(checkpoint).resolve()  # what is read is what was hashed, also where a link changes meanwhile
        cpu = vllm_version().endswith("+cpu")
        command = [sys.executable, "-m", SERVER, *server_arguments(folder, cpu), *options]
        identity = {CHECKPOINT_VARIABLE: model_digest(folder)}
    except ValueError as error:
        sys.exit(str(error))
    defaults = NO_USAGE_STATISTICS | (CPU_VARIABLES if cpu else {})
    os.execve(sys.executable, command, {**defaults, **os.environ, **identity})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
