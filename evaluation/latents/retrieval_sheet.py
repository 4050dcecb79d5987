"""The picture of future-frame retrieval: items' true future frames, and below them what each model's latents show."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from evaluation.drawing.sheet import BLUE, INK, LINE, QUIET, VERMILION, Sheet, shaped_like, text_width
from evaluation.latents.readout import Readout
from evaluation.latents.retrieval import RetrievedItem, RetrievedSpan, SpanScores

FRAME, GAP, BLOCK_GAP, LABELS, WIDTH = 66.0, 5.0, 22.0, 116.0, 1060.0
HEAD, CAPTION = 62.0, 16.0


def retrieval_sheet(models: Mapping[str, SpanScores]) -> bytes:
    """A PNG; rows: the true frames, their read-out, and for each model the nearest real frames and painted latents.

    A model without a span is named below, and has no rows.  All models share one vision tower: the first one's frames
    and read-out stand for all.
    """
    first = next(iter(models.values()))
    items, readout = first.pictured, first.readout
    spans = {name: {item: kept.spans for item, kept in scores.pictured.items()} for name, scores in models.items()}
    silent = [name for name, of_items in spans.items() if not any(of_items.values())]
    spans = {name: of_items for name, of_items in spans.items() if name not in silent}
    rows = [("true frames", ""), *([("", "their read-out")] if readout else [])]
    for model in spans:
        rows += [(model, "nearest real frame"), *([("", "painted latents")] if readout else [])]
    bands = _bands(items)
    row = _frame_height(items.values()) + CAPTION
    height = len(rows) * row + 34
    page = max([480.0, *(LABELS + sum(_width(items[name]) for name in band) for band in bands)])
    note = _note(readout, len(items), silent)
    bottom = Sheet(1, 1).paragraph(12, HEAD + len(bands) * height, page - 24, note, 8.5)
    sheet = Sheet(page, bottom + 12)
    sheet.text(12, 12, "What the latents show", 15, INK, bold=True)
    sheet.text(12, 34, "Each column is a future frame; below it is the latent span that stands for it.", 9, QUIET)
    for number, band in enumerate(bands):
        left, top = LABELS, HEAD + number * height
        _labels(sheet, rows, top + 20, row)
        for name in band:
            of_models = [of_items.get(name, []) for of_items in spans.values()]
            _item(sheet, name, items[name], of_models, readout, left, top, row)
            left += _width(items[name])
    sheet.paragraph(12, HEAD + len(bands) * height, page - 24, note, 8.5, QUIET)
    return sheet.png()


def _width(item: RetrievedItem) -> float:
    return (1 + len(item.future)) * (FRAME + GAP) + BLOCK_GAP


def _bands(items: Mapping[str, RetrievedItem]) -> list[list[str]]:
    """Items side by side, as many as fit."""
    bands: list[list[str]] = []
    for name in items:
        if not bands or LABELS + sum(_width(items[other]) for other in [*bands[-1], name]) > WIDTH:
            bands.append([])
        bands[-1].append(name)
    return bands


def _frame_height(items: Iterable[RetrievedItem]) -> float:
    """Of the tallest frame at full width, but never taller than wide."""
    shapes = [item.observed.thumbnail.shape for item in items]
    return FRAME * max((min(1.0, shape[0] / shape[1]) for shape in shapes), default=1.0)


def _labels(sheet: Sheet, rows: Sequence[tuple[str, str]], top: float, row: float) -> None:
    for number, (title, subtitle) in enumerate(rows):
        middle = top + number * row + (row - CAPTION) / 2
        both = bool(title and subtitle)
        size = 9 * min(1.0, (LABELS - 18) / max(1.0, text_width(title, 9, bold=True)))
        sheet.text(LABELS - 12, middle - (6 if both else 0), title, size, INK, bold=True, anchor="rm")
        sheet.text(LABELS - 12, middle + (7 if both else 0), subtitle, 7.5, QUIET, anchor="rm")


def _item(
    sheet: Sheet, name: str, item: RetrievedItem, models: Sequence[Sequence[RetrievedSpan]], readout: Readout | None,
    left: float, top: float, row: float,
) -> None:  # fmt: skip
    """One item at its upper left corner, with each model's spans."""
    places = [left + column * (FRAME + GAP) for column in range(1 + len(item.future))]
    sheet.text(left, top + 2, f"item {name}", 8, QUIET)
    sheet.box(left, top + 14, places[-1] + FRAME - left, 0.5, LINE, radius=0)
    y, high = top + 20, row - CAPTION
    captions = ["observed", *(f"future {number}" for number in range(1, len(places)))]
    for x, frame, caption in zip(places, [item.observed, *item.future], captions, strict=True):
        sheet.image(x, y, FRAME, high, frame.thumbnail)
        sheet.text(x + FRAME / 2, y + high + 7, caption, 7.5, QUIET, anchor="mm")
    y += row
    if readout:
        _paint(sheet, item, readout, places[1:], y, high, [frame.features for frame in item.future])
        y += row
    for spans in models:
        for x, span in zip(places[1:], spans, strict=False):
            colour, mark = (BLUE, "✓") if span.correct else (VERMILION, "✗")
            sheet.image(x, y, FRAME, high, span.nearest.thumbnail, colour, thickness=1.5)
            sheet.text(x + FRAME / 2, y + high + 7.5, f"{mark} {span.label}", 7.5, colour, anchor="mm")
        if len(spans) < len(item.future):
            x = places[1 + len(spans)]
            sheet.missing(x, y, places[-1] + FRAME - x, high + (row if readout else 0), "no span")
        y += row
        if readout:
            _paint(sheet, item, readout, places[1:], y, high, [span.latents for span in spans])
            y += row


def _paint(
    sheet: Sheet, item: RetrievedItem, readout: Readout, places: Sequence[float], y: float, high: float,
    features: Sequence[np.ndarray],
) -> None:  # fmt: skip
    """Features or latents [n,D] of some future frames as the read-out paints them."""
    for x, frame, painted in zip(places, item.future, features, strict=False):
        painting = readout.paint(painted, frame.grid)
        sheet.image(x, y, FRAME, high, shaped_like(painting, item.observed.thumbnail))


def _note(readout: Readout | None, items: int, silent: Sequence[str]) -> str:
    note = f"{items} items of every depth, a random sample that does not depend on the answers. "
    note += "✓ the nearest of all real frames is the true one, ✗ it is another. "
    if silent:
        note += f"Without a span in any of them: {', '.join(silent)}. "
    if readout is None:
        return note + "There were too few observed frames to fit a read-out, so nothing is painted."
    change = readout.r2_of_change
    share = "nothing" if change is None or change <= 0 else f"{100 * change:.0f} %"
    return note + (
        f"Painted by a linear read-out from features to pixels, fitted on {readout.rows:,} tokens of observed frames"
        f" of other clips. Of the pixels of true future frames that it was not fitted on it paints"
        f" {100 * max(0.0, readout.r2 or 0.0):.0f} % of the variance (R²), and of how they differ from the observed"
        f" frame {share}: what the read-out of the true frame does not show, no painted latent can show."
    )
