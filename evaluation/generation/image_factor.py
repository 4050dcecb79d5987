"""The size of a served model's vision tokens, which decides the size of the images in requests.

A merged token is patch_size x merge_size pixels a side: 32 for Qwen3-VL, 28 for Qwen2-VL and Qwen2.5-VL.  With another
number than the server's own, an image that should have so many tokens is sent too large or too small, and answers and
gains differ.
"""

import json
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from training.chat.endpoint import EndpointSettings

QWEN3_VL = 32
MIN_FACTOR, MAX_FACTOR = 4, 256
"""Bounds of a plausible factor: a file with another is not used."""
FILES = ("preprocessor_config.json", "processor_config.json")
HUB_SECONDS = 5.0
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def image_factor(settings: EndpointSettings, base: Path | None = None) -> int:
    """Pixels a side of a merged vision token: the settings', else the processor's, else Qwen3-VL's.

    `base`: a folder that may have the served model: its name decides.
    """
    return settings.image_factor or processor_factor(settings.model, base) or QWEN3_VL


def unknown_factor(settings: EndpointSettings, base: Path | None = None) -> str | None:
    """A warning where the number is a guess; None where it is not."""
    if settings.image_factor or processor_factor(settings.model, base):
        return None
    return (
        f"the size of the vision tokens of {settings.model!r} is unknown: images are sized for {QWEN3_VL} pixels a "
        "side, as Qwen3-VL has them; set image_factor (--image-factor) to patch_size x merge_size if it has others"
    )


@cache
def processor_factor(model: str, base: Path | None = None) -> int | None:
    """The number in the processor of a model that is named by its folder, as `base` is, or by its name on the hub."""
    folders = [Path(model), *([base] if base and base.name == model.rpartition("/")[2] else [])]
    for path in (folder / name for folder in folders for name in FILES):
        if factor := _factor_of(path):
            return factor
    return _factor_on_the_hub(model) if _HUB_NAME.fullmatch(model) else None


def _factor_on_the_hub(model: str) -> int | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    for name in FILES:
        with suppress(OSError, ValueError, HfHubHTTPError):
            path = hf_hub_download(model, name, etag_timeout=HUB_SECONDS, endpoint=os.environ.get("HF_ENDPOINT"))
            if factor := _factor_of(Path(path)):
                return factor
    return None


def _factor_of(path: Path) -> int | None:
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("image_processor", config)
        factor = int(config["patch_size"]) * int(config["merge_size"])
        return factor if MIN_FACTOR <= factor <= MAX_FACTOR else None
    return None
