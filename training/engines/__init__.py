"""The vLLM engine: our checkpoints in stock vLLM 0.32, which feeds latents back where it is installed beside vLLM.

    VLLM/bin/python -m pip install --no-deps .
    VLLM/bin/python -m training.engines CHECKPOINT --port 8000

Nothing of vLLM is patched: `engine_arguments` names our classes where vLLM asks for some.  On GPUs the model brings a
`ModelState` of its own to vLLM's V2 model runner (`state`); the V1 runner, which CPUs get unless RUNNER is 1 in the
environment, has a logits processor (`processor`).  Both keep to the rules of `training.model.modes`, without vLLM in
`slots` and `rows`.
Everything here runs with what vLLM needs and without our own dependencies.
"""

import os
from typing import Any

ARCHITECTURE = "FutureL1ForConditionalGeneration"
PROCESSOR = "training.engines.processor:SpanProcessor"
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
VLLM = "0.32"
"""The minor version whose interfaces are used here: `ModelState` is young, and changes."""


def register() -> None:
    """The entry point: vLLM calls it in each of its processes."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, "training.engines.model:FutureL1ForConditionalGeneration")


def engine_arguments(cpu: bool) -> dict[str, Any]:
    """What `vllm.LLM` and vLLM's server need beside a checkpoint's folder; `cpu`: of a build for CPUs."""
    arguments = {
        "hf_overrides": {"architectures": [ARCHITECTURE]},
        "worker_extension_cls": "training.engines.worker.LatentWorker",
        "scheduler_cls": f"training.engines.scheduler.{'LatentScheduler' if cpu else 'LatentAsyncScheduler'}",
    }
    is_v1 = cpu and os.environ.get(RUNNER) != "1"
    return arguments | ({"logits_processors": [PROCESSOR]} if is_v1 else {})
