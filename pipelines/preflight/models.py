"""The base model: whether its folder holds all files of a Qwen3-VL.  No weight is read."""

import json
from collections.abc import Iterator

from pipelines.profile import Profile
from training.estimate.shape import model_shape
from training.model.weight_headers import check_weights

FILES = (("tokenizer.json", "vocab.json"), ("processor_config.json", "preprocessor_config.json"))
"""Files of a model's folder besides its config and weights, of each the names that it may have."""
REMEDY = "download it again, or name another folder as `base`"


def base_problems(profile: Profile) -> Iterator[str]:
    base = profile.base
    if (base / "adapter_config.json").exists():
        yield f"{base} holds an adapter: merge it into its base, and give that folder as `base`"
        return
    if not (base / "config.json").is_file():
        yield f"no model at {base}: `base` names the folder of a Qwen3-VL, with its config.json"
        return
    for names in FILES:
        files = [base / name for name in names if (base / name).is_file()]
        if not files:
            yield f"{base} has no {' or '.join(names)}: {REMEDY}"
        for file in files:
            try:
                json.loads(file.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                yield f"{file} is no JSON ({error}): {REMEDY}"
    try:
        shape, _ = model_shape(base)
        check_weights(base, shape.parameters)
    except ValueError as error:
        yield f"{error}; {REMEDY}"
