"""What a prompt shows: frames of clips, each clip opened once, and images that the prompt brings along."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from training.data.images import open_image
from training.data.prompts import Part
from training.data.video import FrameShelf


def with_images(parts: Sequence[Part], shelf: FrameShelf) -> Iterator[tuple[Part, list[np.ndarray]]]:
    """The parts in order, each with its images (uint8 height x width x RGB; none for text).

    Raises ValueError (UnreadableVideo among them) or OSError for what cannot be shown.
    """
    wanted: dict[tuple[str, str], list[int]] = defaultdict(list)
    for part in parts:
        if part["path"] is not None and part["data"] is None:
            wanted[part["path"], part["reader"]] += part["frames"]
    frames = {
        (path, number): frame
        for (path, reader), numbers in wanted.items()
        for number, frame in zip(numbers, shelf.read(path, numbers, reader), strict=True)
    }
    for part in parts:
        if part["type"] not in ("text", "image", "video"):
            raise ValueError(f"a prompt part of type {part['type']!r}: there are text, image and video")
        if part["type"] == "text":
            yield part, []
        elif part["data"] is not None:
            yield part, [open_image(part["data"])] * len(part["frames"] or (1,))
        else:
            yield part, [frames[part["path"], number] for number in part["frames"]]
