"""The headers of a model's safetensors, read by the loader's own reader and held against its config: what a download
lacks, in milliseconds at any size."""

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_weights(folder: Path, parameters: int) -> None:
    """Checks that the files of a model hold at least so many weights, each file to its end; no weight is read.

    Raises ValueError, naming the file, where they do not.
    """
    held = sum(_weights_in(file) for file in _files(folder))
    if held < parameters:
        raise ValueError(f"{folder} has {held:,} weights, and its config is for {parameters:,}")


def _files(folder: Path) -> list[Path]:
    if (folder / ONE_FILE).is_file():
        return [folder / ONE_FILE]
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"{folder} has no weights ({ONE_FILE}, or its index and shards)")
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of weights: {error}") from error


def _weights_in(file: Path) -> int:
    if not file.is_file():
        raise ValueError(f"there is no {file}, which the index names")
    try:
        with safe_open(file, framework="numpy") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is incomplete or damaged ({error})") from error
