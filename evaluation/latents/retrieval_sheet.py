"""The picture of what was imagined: for some items the true future, and under it what each model's latents show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.drawing.sheet import (
    BLUE,
    INK,
    LINE,
    QUIET,
    VERMILION,
    Sheet,
    line_height,
    shaped_like,
    text_width,
    wrapped,
)

FRAME, GAP, BLOCK_GAP, LABELS, WIDTH = 66.0, 5.0, 22.0, 116.0, 1060.0
HEAD, CAPTION = 62.0, 16.0


@dataclass(frozen=True)
class SheetSpan:
    """One span: the real frame nearest to it, of those that it was compared with, what that is, and the painting.

    `right`: that it is the true future frame; `painted` is None where there is no read-out.
    """

    nearest: np.ndarray
    nearest_is: str
    right: bool
    painted: np.ndarray | None


@dataclass(frozen=True)
class SheetItem:
    """An item's last observed frame, its true future frames, the read-out of these, and each model's spans."""

    id: str
    observed: np.ndarray
    future: Sequence[np.ndarray]
    painted_future: Sequence[np.ndarray]
    spans: Mapping[str, Sequence[SheetSpan]]


def retrieval_sheet(items: Sequence[SheetItem], readout: Mapping[str, Any] | None) -> bytes:
    """A PNG; rows: the true frames, their read-out, and for each model the nearest real frames and painted latents.

    readout: `Readout.as_dict` of what painted, None where nothing could be fitted.  A model without a span is named
    below, and has no rows.
    """
    named = list(dict.fromkeys(name for item in items for name in item.spans))
    models = [name for name in named if any(item.spans.get(name) for item in items)]
    rows = [("what happened", ""), *([("read-out of it", "what can be painted")] if readout else [])]
    for model in models:
        rows += [(model, "nearest real frame"), *([("", "painted latents")] if readout else [])]
    bands = _bands(items)
    row = _frame_height(items) + CAPTION
    height = len(rows) * row + 34
    page = max([480.0, *(LABELS + sum(map(_width, band)) for band in bands)])
    note = _note(readout, len(items), [name for name in named if name not in models])
    told = wrapped(note, page - 24, 8.5)
    sheet = Sheet(page, HEAD + len(bands) * height + len(told) * line_height(8.5) + 12)
    sheet.text(12, 12, "What the latents show", 15, INK, bold=True)
    sheet.text(12, 34, "Each column is a future frame; below it is the latent span that stands for it.", 9, QUIET)
    for number, band in enumerate(bands):
        left, top = LABELS, HEAD + number * height
        _labels(sheet, rows, top + 20, row)
        for item in band:
            _block(sheet, item, models, readout is not None, left, top, row)
            left += _width(item)
    sheet.paragraph(12, HEAD + len(bands) * height, page - 24, note, 8.5, QUIET)
    return sheet.png()


def _width(item: SheetItem) -> float:
    return (1 + len(item.future)) * (FRAME + GAP) + BLOCK_GAP


def _bands(items: Sequence[SheetItem]) -> list[list[SheetItem]]:
    """Items side by side, as many as fit."""
    bands: list[list[SheetItem]] = []
    for item in items:
        if not bands or LABELS + sum(map(_width, [*bands[-1], item])) > WIDTH:
            bands.append([])
        bands[-1].append(item)
    return bands


def _frame_height(items: Sequence[SheetItem]) -> float:
    """Of the tallest frame at full width, but never taller than wide."""
    return FRAME * max((min(1.0, item.observed.shape[0] / item.observed.shape[1]) for item in items), default=1.0)


def _labels(sheet: Sheet, rows: Sequence[tuple[str, str]], top: float, row: float) -> None:
    for number, (title, more) in enumerate(rows):
        middle = top + number * row + (row - CAPTION) / 2
        both = bool(title and more)
        size = 9 * min(1.0, (LABELS - 18) / max(1.0, text_width(title, 9, bold=True)))
        sheet.text(LABELS - 12, middle - (6 if both else 0), title, size, INK, bold=True, anchor="rm")
        sheet.text(LABELS - 12, middle + (7 if both else 0), more, 7.5, QUIET, anchor="rm")


def _block(
    sheet: Sheet, item: SheetItem, models: Sequence[str], painted: bool, left: float, top: float, row: float
) -> None:
    """One item at its upper left corner."""
    places = [left + column * (FRAME + GAP) for column in range(1 + len(item.future))]
    sheet.text(left, top + 2, f"item {item.id}", 8, QUIET)
    sheet.box(left, top + 14, places[-1] + FRAME - left, 0.5, LINE, radius=0)
    y, high = top + 20, row - CAPTION
    sheet.image(places[0], y, FRAME, high, item.observed)
    sheet.text(places[0] + FRAME / 2, y + high + 7, "observed", 7.5, QUIET, anchor="mm")
    for number, (x, frame) in enumerate(zip(places[1:], item.future, strict=True), start=1):
        sheet.image(x, y, FRAME, high, frame)
        sheet.text(x + FRAME / 2, y + high + 7, f"future {number}", 7.5, QUIET, anchor="mm")
    y += row
    if painted:
        for x, frame in zip(places[1:], item.painted_future, strict=True):
            sheet.image(x, y, FRAME, high, shaped_like(frame, item.observed))
        y += row
    for model in models:
        _spans(sheet, item, model, places[1:], painted, y, row)
        y += (2 if painted else 1) * row


def _spans(
    sheet: Sheet, item: SheetItem, model: str, places: Sequence[float], painted: bool, y: float, row: float
) -> None:
    """A model's spans of an item, and where it has none."""
    high, spans = row - CAPTION, item.spans.get(model, ())
    for x, span in zip(places, spans, strict=False):
        colour, mark = (BLUE, "✓") if span.right else (VERMILION, "✗")
        sheet.image(x, y, FRAME, high, span.nearest, colour, thickness=1.5)
        sheet.text(x + FRAME / 2, y + high + 7.5, f"{mark} {span.nearest_is}", 7.5, colour, anchor="mm")
        if painted and span.painted is not None:
            sheet.image(x, y + row, FRAME, high, shaped_like(span.painted, item.observed))
    if len(spans) < len(places):
        x = places[len(spans)]
        sheet.missing(x, y, places[-1] + FRAME - x, high + (row if painted else 0), "no span")


def _note(readout: Mapping[str, Any] | None, items: int, without: Sequence[str]) -> str:
    drawn = f"{items} items of every depth, drawn by lot, whatever came out. "
    drawn += "✓ the nearest of all real frames is the true one, ✗ it is another. "
    if without:
        drawn += f"Without a span in any of them: {', '.join(without)}. "
    if readout is None:
        return drawn + "There were too few observed frames to fit a read-out, so nothing is painted."
    change = readout["r2_of_change"]
    share = "nothing" if change is None or change <= 0 else f"{100 * change:.0f} %"
    return drawn + (
        f"Painted by a linear read-out from features to pixels, fitted on {readout['rows']:,} tokens of observed frames"
        f" of other clips. Of the pixels of true future frames that it was not fitted on it paints"
        f" {100 * max(0.0, readout['r2'] or 0.0):.0f} % of the variance (R²), and of how they differ from the observed"
        f" frame {share}: what the read-out of the true frame does not show, no painted latent can show."
    )
