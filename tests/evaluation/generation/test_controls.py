"""Controls change what a prompt shows and nothing else, and say so where there is nothing to change."""

import io
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evaluation.generation.controls import CONTROLS, ROTATIONS, ControlName, controlled, rotated
from evaluation.generation.requests import with_images
from training.data import parts
from training.data.parts import Part
from training.data.video import FrameCache, UnreadableVideo, read_frames
from training.grading.parsers import options_of

OPTIONS = ["pink", "a red tile", "cyan", "green"]
LISTED = "Which colour?\nA. pink\nB. a red tile\nC. cyan\nD. green"


def png(width: int, height: int, colour: tuple[int, int, int] = (250, 0, 0)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(encoded, "PNG")
    return encoded.getvalue()


def changed(control: ControlName, content: list[Part], prompt_id: str = "item", seed: int = 0) -> list[Part]:
    return controlled(control, content, prompt_id, seed, OPTIONS)


def test_every_control_has_its_name() -> None:
    assert get_args(ControlName) == CONTROLS and set(ROTATIONS) < set(CONTROLS)
    content = [parts.text(LISTED)]
    assert changed("none", content) == content


# ---- frames


def test_without_video_frames_are_grey_in_their_size_and_number(rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    (read_frame,) = read_frames(row["path"], [0], row["reader"])
    original: list[Part] = [
        parts.text("frame_1"), parts.frame(row["path"], 0, max_tokens=4, reader=row["reader"]),
        parts.image(png(30, 20)), parts.video(row["path"], [0, 1, 3, 2], row["reader"]), parts.text(LISTED),
    ]  # fmt: skip
    result = list(with_images(changed("no_video", original), FrameCache(0)))
    assert [part["type"] for part, _ in result] == [part["type"] for part in original]
    assert [len(images) for _, images in result] == [0, 1, 1, 4, 0]
    for (_, images), size in zip(result[1:4], (read_frame.shape, (20, 30, 3), read_frame.shape), strict=True):
        assert all(image.shape == size and (image == 128).all() for image in images)
    assert result[1][0]["max_tokens"] == 4
    assert (result[3][0]["path"], result[3][0]["frames"]) == (row["path"], [0, 1, 3, 2]), "whose times they have"
    assert [part["text"] for part, _ in result] == [part["text"] for part in original]


def test_a_clip_that_cannot_be_read_cannot_be_made_grey(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    with pytest.raises(UnreadableVideo, match=r"broken\.mp4"):
        changed("no_video", [parts.frame(broken, 0)])


def test_the_question_alone_is_all_its_text_and_no_frame() -> None:
    original = [
        parts.text("frame_1"),
        parts.frame("clip.mp4", 0),
        parts.video("c.mp4", [1]),
        parts.text(LISTED),
    ]
    assert changed("question_only", original) == [original[0], original[3]]


def test_shuffled_frames_of_a_video_are_the_same_frames_in_another_order() -> None:
    original = [parts.video("clip.mp4", list(range(8)), max_tokens=9), parts.text(LISTED)]
    video, text = changed("shuffled_frames", original)
    assert sorted(video["frames"]) == list(range(8)) and video["frames"] != list(range(8))
    assert text == original[1] and video | {"frames": list(range(8))} == original[0]
    assert changed("shuffled_frames", original)[0] == video, "an item has its order for good"
    orders = {tuple(changed("shuffled_frames", original, f"item{n}", n % 2)[0]["frames"]) for n in range(6)}
    assert len(orders) > 3, "each item and each seed has an order of its own"


@given(st.integers(2, 6), st.text(max_size=5), st.integers(0, 99))
def test_shuffling_never_leaves_all_frames_where_they_were(count: int, prompt_id: str, seed: int) -> None:
    images = [parts.image(png(4, 4, (n, 0, 0)), max_tokens=n + 1) for n in range(count)]
    original = [part for image in images for part in (parts.text("frame"), image)]
    result = changed("shuffled_frames", original, prompt_id, seed)
    before, after = ([part["data"] for part in parts if part["data"]] for parts in (original, result))
    assert sorted(before) == sorted(after) and before != after
    assert [part["max_tokens"] for part in result] == [part["max_tokens"] for part in original], (
        "a cap stays at its place"
    )


def test_frames_are_mirrored_or_cropped_as_they_are_read(rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    original = [parts.text("frame_1"), parts.frame(row["path"], 0, 4, row["reader"]), parts.image(png(30, 20)),
                parts.video(row["path"], [0, 3], row["reader"])]  # fmt: skip
    read = list(with_images(original, FrameCache(0)))
    for control in ("mirrored", "cropped"):
        content = changed(control, original)
        assert content == [original[0], *(part | {"transform": control} for part in original[1:])]
        result = list(with_images(content, FrameCache(0)))
        assert result[0] == (original[0], [])
        for (_, before), (_, after) in zip(read[1:], result[1:], strict=True):
            assert len(before) == len(after)
            for image, other in zip(before, after, strict=True):
                assert image.shape == other.shape
                if control == "mirrored":
                    assert (other == image[:, ::-1]).all()
        middle = result[1][1][0].astype(int)[8:-8, 8:-8]
        assert control == "mirrored" or np.ptp(middle, axis=(0, 1)).max() < np.ptp(read[1][1][0], axis=(0, 1)).max()


def test_another_items_frames_stand_in_the_prompts_own_places() -> None:
    original = [parts.text("frame_1"), parts.frame("a.mp4", 0, 4), parts.text("and"), parts.frame("a.mp4", 3),
                parts.text(LISTED)]  # fmt: skip
    other = [parts.image(png(4, 4)), parts.text("Another question")]
    result = controlled("other_frames", original, "item", 0, OPTIONS, other)
    assert [part["data"] for part in result] == [None, other[0]["data"], None, other[0]["data"], None]
    assert [part["text"] for part in result] == [part["text"] for part in original]
    assert [part["max_tokens"] for part in result] == [None, 4, None, None, None], "a cap stays at its place"
    with pytest.raises(ValueError, match="shows the same frames"):
        controlled("other_frames", original, "item", 0, OPTIONS, original[1:])
    with pytest.raises(ValueError, match="has no image"):
        controlled("other_frames", original, "item", 0, OPTIONS, [parts.video("b.mp4", [0, 1])])


@pytest.mark.parametrize(
    ("control", "content", "message"),
    [
        ("shuffled_frames", [parts.frame("clip.mp4", 0), parts.text("?")], "a single frame"),
        ("shuffled_frames", [parts.video("clip.mp4", [0])], "a single frame"),
        ("no_video", [parts.text("?")], "no frames"),
        ("question_only", [parts.text("?")], "no frames"),
        ("mirrored", [parts.text("?")], "no frames"),
        ("other_frames", [parts.text("?")], "no frames"),
        ("options_1", [parts.text("Which?\nA. pink")], "does not list"),
        ("options_1", [parts.text("Which?\nA. pink\nC. cyan\nB. a red tile\nD. green")], "does not list"),
    ],
)
def test_where_there_is_nothing_to_change_the_control_says_so(control: Any, content: list[Part], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(control, content)


# ---- options


def test_options_move_and_letters_stay() -> None:
    (original,) = changed("options_1", [parts.text(LISTED + "\nReply with a letter.")])
    assert original["text"] == "Which colour?\nA. a red tile\nB. cyan\nC. green\nD. pink\nReply with a letter."
    for control in ROTATIONS:
        (original,) = changed(control, [parts.text(LISTED)])
        assert list(options_of(original["text"]).values()) == rotated(OPTIONS, int(control[-1]))


def test_options_within_the_question_are_rotated_there() -> None:
    inline = parts.text("A) pink was seen. Which is next: A) pink B) a red tile C) cyan D) green? Reply.")
    (original,) = changed("options_3", [inline])
    assert original["text"] == "A) pink was seen. Which is next: A) green B) pink C) a red tile D) cyan? Reply."


def test_a_rotation_needs_the_options() -> None:
    with pytest.raises(ValueError, match="needs the prompts' column `options`"):
        controlled("options_2", [parts.text(LISTED)], "item", 0, None)


@given(st.integers(-5, 9))
def test_rotated_letters_give_the_items_letters(by: int) -> None:
    result = dict(zip("ABCD", rotated(OPTIONS, by), strict=True))
    letters = dict(zip("ABCD", OPTIONS, strict=True))
    for letter, item_letter in zip("ABCD", rotated(list("ABCD"), by), strict=True):
        assert result[letter] == letters[item_letter]
    assert rotated(rotated(OPTIONS, by), -by) == OPTIONS


def test_grey_is_the_middle_of_what_a_pixel_can_be() -> None:
    (part,) = changed("no_video", [parts.image(png(2, 2))])
    with Image.open(io.BytesIO(part["data"])) as image:
        assert np.asarray(image).mean() == pytest.approx(127.5, abs=0.5)
