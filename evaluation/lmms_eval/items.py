"""The items of our tasks: from the benchmark's folder, or from the folder of an artifact with a table of items.

FUTURE_L1_FUTUREBENCH_DIR and FUTURE_L1_TWIFFBENCH_DIR name the folders, as `--data-dir` of `future-l1 evaluate` does.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.benchmarks.futurebench_items import FutureBenchItems
from evaluation.benchmarks.twiffbench_items import TwiffBenchItems
from training.data.images import open_image
from training.data.parts import Part
from training.data.video import read_frames

ITEM_TABLE = "items.parquet"

_log = logging.getLogger(__name__)


def usable_items(benchmark: FutureBenchItems | TwiffBenchItems) -> list[dict[str, Any]]:
    """The items without a problem; what is left out, and why, is logged.

    Raises ValueError, naming the variable, where there are none.
    """
    folder = _folder(f"FUTURE_L1_{benchmark.name.upper()}_DIR")
    rows = _stored(folder / ITEM_TABLE, benchmark) if (folder / ITEM_TABLE).is_file() else list(benchmark.rows(folder))
    problems = {row["id"]: row["problem"] for row in rows if row.get("problem") is not None}
    for item, problem in problems.items():
        _log.warning("%s, item %s is left out: %s", benchmark.name, item, problem)
    if len(problems) == len(rows):
        raise ValueError(f"{folder} has no usable item of {len(rows)}: {next(iter(problems.values()), 'it is empty')}")
    return [row for row in rows if row["id"] not in problems]


def messages(content: Sequence[Part]) -> list[dict[str, Any]]:
    """A prompt as chat messages: its images opened, its video by path, of which a model chooses the frames itself."""
    return [{"role": "user", "content": [_content(part) for part in content]}]


def _content(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "video":
        return {"type": "video", "url": part["path"]}
    if part["data"] is not None:
        pixels = open_image(part["data"])
    else:
        (pixels,) = read_frames(part["path"], part["frames"], part["reader"])
    return {"type": "image", "url": Image.fromarray(pixels)}


def _folder(variable: str) -> Path:
    folder = os.environ.get(variable, "").strip()
    if not folder or not Path(folder).is_dir():
        state = f"it is {folder!r}" if folder else "it is not set"
        raise ValueError(f"{variable} must name the benchmark's folder, or an artifact's with {ITEM_TABLE}; {state}")
    return Path(folder)


def _stored(path: Path, benchmark: FutureBenchItems | TwiffBenchItems) -> list[dict[str, Any]]:
    """The table of an artifact.  Raises ValueError, naming it, for another table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a parquet table: {error}") from error
    if missing := {"id", "question", "answer", "problem", benchmark.split_column} - set(table.column_names):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: it is no table of {benchmark.name}'s items")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
