"""The picture of what was imagined: right and wrong, with and without a read-out, and models that imagine nothing."""

import io
from typing import Any

import numpy as np
from PIL import Image

from evaluation.drawing.sheet import shaped_like
from evaluation.latents.retrieval_sheet import SheetItem, SheetSpan, retrieval_sheet

READOUT = {"rows": 10, "penalty": 0.1, "r2": 0.5, "r2_of_change": 0.1}
BLUE, VERMILION, PAINT = (0, 114, 178), (213, 94, 0), (1, 2, 250)


def frame(level: int, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    return np.full((*shape, 3), level, np.uint8)


def span(right: bool = True, painted: bool = True) -> SheetSpan:
    return SheetSpan(frame(50), "future 1", right, np.full((8, 8, 3), PAINT, np.uint8) if painted else None)


def item(name: str = "a", future: int = 2, shape: tuple[int, int] = (40, 40), **models: Any) -> SheetItem:
    frames = [frame(100, shape)] * future
    return SheetItem(name, frame(20, shape), frames, [frame(150, (8, 8))] * future, models)


def page(items: list[SheetItem], readout: dict[str, Any] | None = READOUT) -> np.ndarray:
    with Image.open(io.BytesIO(retrieval_sheet(items, readout))) as drawn:
        return np.asarray(drawn.convert("RGB"))


def count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(-1).sum())


def test_a_right_span_is_blue_and_a_wrong_one_vermilion() -> None:
    right, wrong = page([item(m=[span(), span()])]), page([item(m=[span(right=False)] * 2)])
    assert count(right, BLUE) > 500 and not count(right, VERMILION)
    assert count(wrong, VERMILION) > 500 and not count(wrong, BLUE)


def test_every_span_is_painted_where_there_is_a_read_out() -> None:
    one, two = (count(page([item(m=[span()] * n)]), PAINT) for n in (1, 2))
    assert two == 2 * one > 10_000
    without = page([item(m=[span(painted=False)])], None)
    assert not count(without, PAINT) and without.shape[0] < page([item(m=[span()])]).shape[0]


def test_a_model_without_a_span_has_no_rows_and_an_item_without_one_an_empty_place() -> None:
    alone = page([item(m=[span()])])
    assert page([item(m=[span()], silent=[])]).shape == alone.shape
    both = page([item("a", m=[span()], n=[span()]), item("b", m=[span()], n=[])])
    assert both.shape[0] > alone.shape[0] and count(both, PAINT) == 3 * count(alone, PAINT)


def test_items_stand_side_by_side_until_the_page_is_full() -> None:
    few, many = page([item(str(n), m=[span()]) for n in range(3)]), page([item(str(n), m=[span()]) for n in range(9)])
    assert few.shape[0] < many.shape[0] and many.shape[1] <= 2 * 1060


def test_wide_frames_make_low_rows_and_paintings_take_their_shape() -> None:
    assert page([item(m=[span()], shape=(20, 40))]).shape[0] < page([item(m=[span()])]).shape[0]
    assert shaped_like(frame(1, (8, 8)), frame(2, (9, 16))).shape == (9, 16, 3)


def test_without_items_there_is_still_a_page() -> None:
    assert page([], None).shape[1] > 300
