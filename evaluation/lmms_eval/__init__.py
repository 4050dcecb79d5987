"""lmms-eval: our models among its models, and benchmarks that it does not have among its tasks.

    lmms-eval eval --model future_l1 --model_args pretrained=DIR --batch_size 16 \\
        --tasks future_l1_futurebench --include_path "$(python -m evaluation.lmms_eval)"

The model is found by its entry point, `lmms_eval.models`; for tasks lmms-eval 0.7.3 has none, so that their folder is
named.  Everything here runs without polars, dataframely and Dagster: lmms-eval needs an environment of its own.
"""

from pathlib import Path
from typing import Any

TASKS = Path(__file__).parent / "tasks"


def manifest() -> Any:
    """The entry point: `--model future_l1` is `FutureL1Chat`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="future_l1", chat_class_path="evaluation.lmms_eval.chat_model.FutureL1Chat")
