"""The clip of a training row that was not probed before: looked up and probed when the row is first read.

So a training of 50,000 rows starts at once, and decodes no clip that it does not use.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from training.data.clip_names import locate_clip, resolve_clip
from training.data.keyframes import key_frame_pool
from training.data.video import UnreadableVideo, probe


def with_clip(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its clip's `path`, `frame_count` and `reader`; as it is where it has them.

    Raises ValueError for a clip that is missing or cannot be read.
    """
    if row["frame_count"] is not None:
        return dict(row)
    path, frames = clip_path(row), row["frames"]
    try:
        if not path.is_file():
            raise ValueError(f"there is no clip {path}; `video` is a path relative to the file of the records")
        clip = probe(path, lambda count: [n for n in frames if n < count] if frames else key_frame_pool(count))
    except (UnreadableVideo, OSError) as error:
        raise ValueError(f"{path} cannot be read as a video: {error}") from error
    return {**row, "path": str(path), "frame_count": clip.frames, "reader": clip.reader}


def clip_path(row: Mapping[str, Any]) -> Path:
    """The clip's file: `path`, or `video` inside the folder `clips`, by either name (`locate_clip`).

    Raises RejectedRow where the folder does not hold it.
    """
    if "clips" not in row:
        return Path(row["path"])
    times = {name: row[name] for name in ("start", "end")}
    look_up = partial(resolve_clip, roots=[Path(row["clips"])])
    return locate_clip(row["video"], times if all(times.values()) else None, look_up)[0]
