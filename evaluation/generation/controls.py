"""Controls: changes of a prompt, which measure what a model's answers depend on.

`no_video`: each frame is mid-grey, in its size and at its time.  `question_only`: frames are left out, the
text stays as it is.  `shuffled_frames`: the frames in another order, the times of a video's frames where they were.
`mirrored` and `cropped`: each frame mirrored from left to right, or its middle half in each direction enlarged to its
size.  `other_frames`: the frames of another item.  `options_k`: the options rotated by k places under the letters A, B,
C, D; answers are graded by the item's own letter.

A control changes a prompt's content and nothing else.  Where it finds nothing to change (a single frame to shuffle), it
raises ValueError, so that no answer to an unchanged prompt is counted as one to a changed prompt.
"""

import io
import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
from PIL import Image

from training.data.images import open_image
from training.data.parts import Part
from training.data.video import read_frames
from training.storage.hashing import stable_hash

ControlName = Literal[
    "none", "no_video", "question_only", "shuffled_frames", "mirrored", "cropped", "other_frames", "options_1",
    "options_2", "options_3",
]  # fmt: skip
CONTROLS: tuple[ControlName, ...] = get_args(ControlName)
ChangeName = Literal["mirrored", "cropped", "other_frames"]
"""The controls that show other frames, for which another answer may be right."""
CHANGES: tuple[ChangeName, ...] = get_args(ChangeName)
ROTATIONS: tuple[ControlName, ...] = ("options_1", "options_2", "options_3")
GREY = (128, 128, 128)

_LETTERS = "ABCD"
TRANSFORM = "transform"
"""A field of a part under the controls of its frames: the change of the images that are read (`transformed`)."""
_IMAGE_FIELDS = ("path", "frames", "reader", "data")
"""The fields of a part that name its image; the cap on its tokens stays with the place in the prompt."""
_Item = TypeVar("_Item")


def controlled(
    control: ControlName, content: Sequence[Part], prompt_id: str, seed: int, options: Sequence[str] | None,
    other: Sequence[Part] = (),
) -> list[Part]:  # fmt: skip
    """A prompt's content under a control; the order of shuffled frames depends on the seed and the prompt's id alone.
    `other`: the content of another prompt, for `other_frames`.

    Raises ValueError where there is nothing to control, or the options are not listed in the prompt's text;
    UnreadableVideo or OSError where a frame's size cannot be read.
    """
    match control:
        case "none":
            return list(content)
        case "no_video":
            return [_grey(part) if part["type"] != "text" else part for part in _with_frames(control, content)]
        case "question_only":
            return [part for part in _with_frames(control, content) if part["type"] == "text"]
        case "shuffled_frames":
            return _shuffled(_with_frames(control, content), random.Random(stable_hash("shuffled", seed, prompt_id)))
        case "mirrored" | "cropped":
            return [part if part["type"] == "text" else part | {TRANSFORM: control}
                    for part in _with_frames(control, content)]  # fmt: skip
        case "other_frames":
            return _with_other_frames(_with_frames(control, content), other)
        case "options_1" | "options_2" | "options_3":
            if not options:
                raise ValueError(f"control {control} needs the prompts' column `options`, and it is empty here")
            return _with_options(content, options, rotated(options, places(control)))


def rotated(options: Sequence[_Item], by: int) -> list[_Item]:
    """The options, each `by` places earlier: letter i stands for option i + by of the item (modulo their number).

    The letters, rotated in the same way, give the item's own letter for each letter of the prompt.
    """
    by %= len(options)
    return [*options[by:], *options[:by]]


def places(control: str) -> int:
    """The number of places by which a control rotates the options; 0 for all other controls."""
    return int(control.removeprefix("options_")) if control in ROTATIONS else 0


def _with_frames(control: str, content: Sequence[Part]) -> Sequence[Part]:
    if all(part["type"] == "text" for part in content):
        raise ValueError(f"control {control}: the prompt shows no frames")
    return content


def _grey(part: Part) -> Part:
    """The part with one grey image in the place of what it shows: a video part keeps its frames' times."""
    if part["data"] is not None:
        frame = open_image(part["data"])
    else:
        (frame,) = read_frames(part["path"], part["frames"][:1], part["reader"])
    encoded = io.BytesIO()
    Image.new("RGB", (frame.shape[1], frame.shape[0]), GREY).save(encoded, "PNG")
    if part["type"] == "video":
        return part | {"data": encoded.getvalue()}
    return part | dict.fromkeys(_IMAGE_FIELDS) | {"data": encoded.getvalue()}


def transformed(part: Part, image: np.ndarray) -> np.ndarray:
    """An image of a part (uint8 height x width x RGB) as the part's control changes it, in its size."""
    match part.get(TRANSFORM):
        case "mirrored":
            return np.ascontiguousarray(image[:, ::-1])
        case "cropped":
            height, width = image.shape[:2]
            box = width // 4, height // 4, width - width // 4, height - height // 4
            cropped = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box)
            return np.asarray(cropped)
    return image


def _with_other_frames(content: Sequence[Part], other: Sequence[Part]) -> list[Part]:
    """The frames of another prompt in place of the prompt's own, part by part; where it has fewer, from its first on.

    A prompt that shows the same frames, or frames in another way, is no other.
    """
    sources = {kind: [part for part in other if part["type"] == kind] for kind in ("image", "video")}
    places, parts = Counter[str](), []
    for part in content:
        if part["type"] != "text":
            if not (of_kind := sources[part["type"]]):
                raise ValueError(f"control other_frames: the other item's prompt has no {part['type']}")
            source = of_kind[places[part["type"]] % len(of_kind)]
            places[part["type"]] += 1
            part = part | {field: source[field] for field in _IMAGE_FIELDS}
        parts.append(part)
    if parts == list(content):
        raise ValueError("control other_frames: the other item's prompt shows the same frames")
    return parts


def _shuffled(content: Sequence[Part], rng: random.Random) -> list[Part]:
    """Images change places with each other, the frames of a video among themselves, never all to where they were."""
    parts = [dict(part) for part in content]
    images = [part for part in parts if part["type"] == "image"]
    videos = [part for part in parts if part["type"] == "video" and len(part["frames"]) > 1]
    if len(images) < 2 and not videos:
        raise ValueError("control shuffled_frames: the prompt shows a single frame, so there is no order to change")
    sources = [{field: part[field] for field in _IMAGE_FIELDS} for part in images]
    for place, image in zip(images, _reordered(sources, rng), strict=True):
        place.update(image)
    for part in videos:
        part["frames"] = _reordered(part["frames"], rng)
    return parts


def _reordered(values: Sequence[_Item], rng: random.Random) -> list[_Item]:
    order = list(range(len(values)))
    while len(values) > 1 and order == sorted(order):
        rng.shuffle(order)
    return [values[at] for at in order]


def _with_options(content: Sequence[Part], options: Sequence[str], others: Sequence[str]) -> list[Part]:
    """The content with other options in the places of its own: lines `A. text`, or `A) text` within the question."""
    for number, part in enumerate(content):
        if part["type"] == "text":
            for mark in (". ", ") "):
                if (replaced := _replaced(part["text"], mark, options, others)) is not None:
                    return [*content[:number], part | {"text": replaced}, *content[number + 1 :]]
    raise ValueError("the prompt's text does not list the item's options as `A. text` lines or as `A) text`")


def _replaced(text: str, mark: str, options: Sequence[str], others: Sequence[str]) -> str | None:
    """None where the options do not stand in the text with their letters and in their order.

    The last list counts: a question may quote one before.
    """
    listed = [f"{letter}{mark}{option}" for letter, option in zip(_LETTERS, options, strict=False)]
    at, places = len(text), []
    for piece in reversed(listed):
        at = text.rfind(piece, 0, at)
        if at < 0:
            return None
        places.append(at)
    for start, piece, letter, other in zip(
        places, reversed(listed), reversed(_LETTERS[: len(listed)]), reversed(others), strict=True
    ):
        text = f"{text[:start]}{letter}{mark}{other}{text[start + len(piece) :]}"
    return text
