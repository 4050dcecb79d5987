"""The picture of future-frame retrieval: spans of both outcomes, with and without a read-out, and silent models."""

import io
from typing import Any

import numpy as np
from PIL import Image

from evaluation.drawing.sheet import shaped_like
from evaluation.latents.frame_pool import Frame
from evaluation.latents.readout import Readout
from evaluation.latents.retrieval import RetrievedItem, RetrievedSpan, SpanScores
from evaluation.latents.retrieval_sheet import retrieval_sheet

BLUE, VERMILION, PAINT, GREY = (0, 114, 178), (213, 94, 0), (1, 2, 250), (150, 150, 150)
WEIGHTS = np.array([np.subtract(PAINT, GREY), GREY]) / 255  # a feature of 1 is painted, one of 0 is grey
READOUT = Readout(WEIGHTS, side=1, rows=10, penalty=0.1, r2=0.5, r2_of_change=0.1)


def level(value: int, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    return np.full((*shape, 3), value, np.uint8)


def frame(value: int, shape: tuple[int, int] = (40, 40)) -> Frame:
    return Frame(level(value, shape), level(value, shape), np.zeros((4, 1), np.float32), (2, 2), str(value))


def span(correct: bool = True) -> RetrievedSpan:
    return RetrievedSpan(np.ones((4, 1), np.float32), frame(50), "future 1", correct)


def item(name: str = "a", shape: tuple[int, int] = (40, 40), **models: list[RetrievedSpan]) -> dict[str, Any]:
    """One item with two future frames, by model."""
    kept = {model: RetrievedItem(frame(20, shape), [frame(100, shape)] * 2, spans) for model, spans in models.items()}
    return {model: {name: one} for model, one in kept.items()}


def page(items: list[dict[str, Any]], readout: Readout | None = READOUT) -> np.ndarray:
    models = {name: SpanScores(readout=readout) for one in items for name in one} or {"m": SpanScores(readout=readout)}
    for one in items:
        for name, kept in one.items():
            models[name].pictured |= kept
    with Image.open(io.BytesIO(retrieval_sheet(models))) as picture:
        return np.asarray(picture.convert("RGB"))


def count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == colour).all(-1).sum())


def test_a_correct_span_is_blue_and_an_incorrect_one_vermilion() -> None:
    right, wrong = page([item(m=[span(), span()])]), page([item(m=[span(correct=False)] * 2)])
    assert count(right, BLUE) > 500 and not count(right, VERMILION)
    assert count(wrong, VERMILION) > 500 and not count(wrong, BLUE)


def test_every_span_is_painted_where_there_is_a_read_out() -> None:
    one, two = (count(page([item(m=[span()] * n)]), PAINT) for n in (1, 2))
    assert two == 2 * one > 10_000
    without = page([item(m=[span()])], None)
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
    assert shaped_like(level(1, (8, 8)), level(2, (9, 16))).shape == (9, 16, 3)


def test_without_items_there_is_still_a_page() -> None:
    assert page([], None).shape[1] > 300
