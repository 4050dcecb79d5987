"""A shard's rows, one at a time: memory stays flat however large the file is.

Of parquet only the columns are read that a trajectory is made of, so that embedded images cost nothing.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.json_rows import Numbered, json_rows
from training.data.parquet_rows import parquet_rows
from training.data.trajectory import GIVEN_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUTS = (
    ("video", "conversations", "image", "reasoning_image"),  # Future-L1-50K
    ("video", "conversations", "frames", "recon_frames"),  # TwiFF's training files
    ("video", "question", "answer", "question_images_index", "reasoning_images_index"),  # TwiFF-2.7M
)
OPTIONAL_COLUMNS = ("answer", *GIVEN_COLUMNS)
MAX_ROW_BYTES = 2**20
"""Of the columns that are read, for parquet."""
META, META_FIELDS = "meta_data", ("classification", "start", "end")


def read_rows(path: Path) -> Iterator[Numbered]:
    """The rows of a shard.  Raises ValueError, naming the file, for what is no shard or is corrupt."""
    if path.name.endswith(".parquet"):
        return parquet_rows(path, partial(_columns, path), MAX_ROW_BYTES)
    return json_rows(path)


def _columns(path: Path, schema: "pa.Schema") -> list[str]:
    """The columns to read, of `meta_data` only three fields.  Raises ValueError if they make no layout."""
    import pyarrow as pa

    names = set(schema.names)
    layout = next((columns for columns in LAYOUTS if set(columns) <= names), None)
    if layout is None:
        needed = " or ".join(str(list(columns)) for columns in LAYOUTS)
        raise ValueError(f"{path} is not a TwiFF shard: it has columns {sorted(names)}, a shard needs {needed}")
    columns = [*layout, *(name for name in OPTIONAL_COLUMNS if name in names and name not in layout)]
    if META not in names:
        return columns
    meta = schema.field(META).type
    if not pa.types.is_struct(meta):
        return [*columns, META]
    return [*columns, *(f"{META}.{field.name}" for field in meta if field.name in META_FIELDS)]
