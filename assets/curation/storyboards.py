"""What the UI shows of scored rows: storyboards to look at, the rows of highest gain, and why others were rejected.

Everything shown is untrusted: text is cut, control characters are dropped, a picture's text is drawn as it is (no
markup of any kind), and a table's cells carry no live Markdown.
"""

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from evaluation.generation.curtailment import CONDITIONS, Condition
from training.data.keyframes import key_frame_number
from training.data.trajectory import IMAGE
from training.data.video import read_frames
from training.grading.parsers import answer_text
from training.runtime.printable import printable
from training.storage.hashing import stable_hash

STORYBOARDS, TOP_ROWS, REJECTED = "storyboards.png", "top_rows.md", "rejected.md"
PNG_LIMIT = 400_000
SHOWN = (
    "row_id", "video", "question", "answer", "category", "observed", "future", "path", "frame_count", "reader",
    "p_t", "p_v", "gain",
)  # fmt: skip
TITLES: dict[Condition, str] = {"plain": "without the hint", "hint": "with the hint"}
MARKS = {"correct": "✓", "incorrect": "✗", "unjudged": "?"}
COLOURS = {"correct": "#0072b2", "incorrect": "#d55e00", "unjudged": "#8a8a8a"}  # Okabe and Ito; the marks differ, too
INK, QUIET, RULE, PAPER, FUTURE, MISSING = "#222222", "#666666", "#d8d8d8", "#ffffff", "#e69f00", "#e4e4e4"

WIDTH, MARGIN, LEFT = 1130, 16, 560  # pixels: the picture (what a dialog shows whole), its margins, the frames' part
GAP = 10
# Frame heights and colours (None: all), tried in this order until the file is small enough.
QUALITIES = ((180, None), (180, 256), (100, 256), (64, 256), (40, 256))
BOXES_A_LINE = 15
DISTINCT = 4  # answers with different texts that are listed per condition
LONGEST = 600  # characters of a text that are looked at
CELL = 120  # characters of a table's cell

_LABELLED = re.compile(rf"(?:frame_\d+\s*)?{re.escape(IMAGE)}")
_MARKDOWN = re.compile(r"([\\`*_~\[\](){}<>|&$!#@:])")


def write_shown(folder: Path, rows: pl.DataFrame, verdicts: pl.DataFrame, report: Mapping[str, Any], n: int) -> None:
    """Writes what an asset's page shows: n storyboards, the ten rows of highest gain, and why others were rejected."""
    (folder / STORYBOARDS).write_bytes(storyboards(rows, verdicts, n))
    (folder / TOP_ROWS).write_text(top_rows(rows))
    (folder / REJECTED).write_text(rejected_table(report))


def highest(rows: pl.DataFrame, n: int) -> pl.DataFrame:
    """The n rows of highest gain in the order of selection; rows without a gain are not among them."""
    scored = rows.drop_nulls("gain")
    least = scored["gain"].top_k(n).min()
    scored = scored.filter(pl.col("gain") >= pl.lit(least, pl.Int64))
    drawn = pl.Series("drawn", [stable_hash(row_id) for row_id in scored["row_id"]], pl.UInt64)
    return scored.with_columns(drawn).sort("gain", "drawn", descending=[True, False]).head(n).drop("drawn")


def top_rows(rows: pl.DataFrame, n: int = 10) -> str:
    """The n rows of highest gain as a Markdown table."""
    columns = ("gain", "p_t", "p_v", "category", "question", "answer", "video")
    lines = [f"| rank | {' | '.join(columns)} |", "| ---: " * 4 + "| --- " * 4 + "|"]
    for rank, row in enumerate(highest(rows, n).select(columns).iter_rows(named=True), start=1):
        row["question"] = _question(row["question"])
        lines.append(f"| {rank} | " + " | ".join(_cell(row[name]) for name in columns) + " |")
    return "\n".join(lines)


def rejected_table(report: Mapping[str, Any]) -> str:
    """The `rejected_by_reason` of a report as a Markdown table; shares are of the `scored` rows."""
    scored = report["scored"]
    lines = ["| rejected | rows | of those scored |", "| --- | ---: | ---: |"]
    for reason, rows in [*report["rejected_by_reason"].items(), ("all", sum(report["rejected_by_reason"].values()))]:
        share = f"{100 * rows / scored:.1f} %" if scored else "-"
        lines.append(f"| {_cell(reason.replace('_', ' '))} | {rows:,} | {share} |")
    return "\n".join(lines)


def storyboards(rows: pl.DataFrame, verdicts: pl.DataFrame, n: int = 4) -> bytes:
    """One PNG of the n rows of highest gain: observed and future frames, question, reference, answers under both
    conditions.  Ten rows or fewer make at most PNG_LIMIT bytes.

    `rows` are TrajectoryTable's columns, the clip's `path`, `frame_count` and `reader`, and p_t, p_v, gain; `verdicts`
    as VerdictTable, those of other rows are passed over.  A clip that cannot be read is a grey box with the reason.
    """
    chosen = highest(rows, n).select(SHOWN)
    told = verdicts.filter(pl.col("row_id").is_in(chosen["row_id"].implode())).sort("row_id", "condition", "sample")
    answers = {
        (row_id, condition): list(group.select("text", "verdict").iter_rows())
        for (row_id, condition), group in told.group_by("row_id", "condition", maintain_order=True)
    }
    boards = [(row, _frames(row)) for row in chosen.iter_rows(named=True)]
    if not boards:
        picture = Image.new("RGB", (WIDTH, 60), PAPER)
        _line(ImageDraw.Draw(picture), MARGIN, 20, "No row has a gain.", _font(15), QUIET)
        return _png(picture, None)
    for height, colours in QUALITIES:
        made = [_board(rank, row, frames, answers, height) for rank, (row, frames) in enumerate(boards, start=1)]
        picture = Image.new("RGB", (WIDTH, MARGIN + sum(board.height for board in made)), PAPER)
        top = MARGIN
        for board in made:
            picture.paste(board, (0, top))
            top += board.height
        png = _png(picture, colours)
        if len(png) <= PNG_LIMIT:
            break
    return png


def _frames(row: Mapping[str, Any]) -> list[Image.Image] | str:
    """The observed and then the future frames, or why they cannot be read."""
    try:
        numbers = [key_frame_number(row["frame_count"], index) for index in (*row["observed"], *row["future"])]
        return [Image.fromarray(frame) for frame in read_frames(row["path"], numbers, row["reader"])]
    except (ValueError, OSError, RuntimeError) as error:
        return _clean(str(error).replace(str(Path(row["path"]).parent) + "/", "")) or type(error).__name__


def _board(
    rank: int,
    row: Mapping[str, Any],
    frames: list[Image.Image] | str,
    answers: Mapping[tuple[Any, ...], list[tuple[str, str]]],
    height: int,
) -> Image.Image:
    """One row's storyboard: a rule and a headline, frames on the left, words on the right."""
    board = Image.new("RGB", (WIDTH, 1400), PAPER)  # more than the lines below can fill
    draw = ImageDraw.Draw(board)
    draw.line((MARGIN, 0, WIDTH - MARGIN, 0), fill=RULE, width=2)
    headline = f"{rank}.  gain {row['gain']:+d}"
    _line(draw, MARGIN, 12, headline, _font(19, bold=True))
    rest = f"p_t {row['p_t']}, p_v {row['p_v']} · {row['category']} · {_clean(row['video'])}"
    left = MARGIN + int(_font(19, bold=True).getlength(headline)) + 18
    _words(draw, left, 15, rest, _font(15), WIDTH - MARGIN - left, 1, QUIET)
    below_frames = _strip(board, draw, row, frames, height)
    x, width = MARGIN + LEFT + 26, WIDTH - 2 * MARGIN - LEFT - 26
    y = _words(draw, x, 48, _question(row["question"]), _font(16), width, 5, INK)
    y = _words(draw, x, y + 8, f"reference: {_clean(row['answer'])}", _font(16, bold=True), width, 2, INK) + 12
    column = (width - 20) // 2
    ends = [
        _answers(draw, x + i * (column + 20), y, condition, answers.get((row["row_id"], condition), []), column)
        for i, condition in enumerate(CONDITIONS)
    ]
    return board.crop((0, 0, WIDTH, max(below_frames, *ends) + 20))


def _strip(
    board: Image.Image, draw: ImageDraw.ImageDraw, row: Mapping[str, Any], frames: list[Image.Image] | str, height: int
) -> int:
    """Draws the frames in lines, each with its key-frame index below; returns where they end."""
    if isinstance(frames, str):
        draw.rectangle((MARGIN, 48, MARGIN + LEFT, 138), fill=MISSING)
        _words(draw, MARGIN + 14, 58, f"no frames: {frames}", _font(15), LEFT - 28, 3, QUIET)
        return 138
    names = [("observed", i) for i in row["observed"]] + [("future", i) for i in row["future"]]
    a_line = 2 if len(frames) <= 4 else 4
    room = (LEFT - GAP * (a_line - 1)) // a_line
    x, y, bottom = MARGIN, 48, 48
    for frame, (kind, index) in zip(frames, names, strict=True):
        shown = _fitted(frame, room, height)
        if x + shown.width > MARGIN + LEFT:
            x, y = MARGIN, bottom
        board.paste(shown, (x, y))
        colour = FUTURE if kind == "future" else QUIET
        draw.rectangle((x, y, x + shown.width - 1, y + shown.height - 1), outline=colour, width=3)
        _line(draw, x, y + shown.height + 4, f"{kind} {index}", _font(14, bold=kind == "future"), QUIET)
        x, bottom = x + max(shown.width, 90) + GAP, max(bottom, y + shown.height + 32)
    return bottom


def _fitted(frame: Image.Image, width: int, height: int) -> Image.Image:
    """The frame inside these bounds; a tiny one is enlarged in whole steps, so that its pixels stay crisp."""
    scale = min(width / frame.width, height / frame.height)
    if scale >= 2:
        return frame.resize((frame.width * int(scale), frame.height * int(scale)), Image.Resampling.NEAREST)
    size = max(1, round(frame.width * min(scale, 1))), max(1, round(frame.height * min(scale, 1)))
    return frame.resize(size, Image.Resampling.LANCZOS)


def _answers(
    draw: ImageDraw.ImageDraw, x: int, y: int, condition: Condition, told: Sequence[tuple[str, str]], width: int
) -> int:
    """Draws how many of a condition's answers are right, a box for each, and their distinct texts; returns the end."""
    verdicts = Counter(verdict for _, verdict in told)
    title = f"{TITLES[condition]}: {verdicts['correct']} of {len(told)}" if told else f"{TITLES[condition]}: no answers"
    _line(draw, x, y, title, _font(15, bold=True))
    y += 26
    for number, verdict in enumerate(name for name in MARKS for _ in range(verdicts[name])):
        left = x + number % BOXES_A_LINE * 18
        y += 18 if number and number % BOXES_A_LINE == 0 else 0
        fill = COLOURS[verdict] if verdict == "correct" else None
        draw.rectangle((left, y, left + 13, y + 13), fill=fill, outline=COLOURS[verdict], width=2)
        if verdict == "incorrect":
            draw.line((left + 3, y + 3, left + 10, y + 10), fill=COLOURS[verdict], width=2)
    y += 24 if told else 0
    texts = Counter((_answer(text), verdict) for text, verdict in told).most_common()
    for (text, verdict), count in texts[:DISTINCT]:
        mark = f"{MARKS[verdict]} {count} × "
        _line(draw, x, y, mark, _font(15, bold=True), COLOURS[verdict])
        y = _words(draw, x + 52, y, text, _font(15), width - 52, 2, INK)
    if rest := texts[DISTINCT:]:
        more = f"and {sum(count for _, count in rest)} with {len(rest)} other text{'s' * (len(rest) > 1)}"
        y = _words(draw, x, y, more, _font(14), width, 1, QUIET)
    return y


def _words(
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    text: str,
    font: ImageFont.FreeTypeFont,
    width: int,
    most: int,
    colour: str,
) -> int:
    """Draws text in at most so many lines of this width, cut with an ellipsis; returns where it ends."""
    for line in _wrapped(text, font, width, most):
        _line(draw, x, y, line, font, colour)
        y += round(font.size * 1.35)
    return y


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    lines = [""]
    for word in _clean(text).split(" "):
        # A word is broken only where it is wider than a line; twelve letters fit any column.
        for part, piece in enumerate([word] if font.getlength(word) <= width else re.findall(".{1,12}", word)):
            joined = lines[-1] + " " * (not part and lines[-1] != "") + piece
            if font.getlength(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last.rstrip() + "…"]
    return lines


def _line(
    draw: ImageDraw.ImageDraw, x: int, y: int, text: str, font: ImageFont.FreeTypeFont, colour: str = INK
) -> None:
    draw.text((x, y), text, font=font, fill=colour)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; the basic layout is the same on every machine."""
    from matplotlib import get_data_path

    path = Path(get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{'-Bold' * bold}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _png(picture: Image.Image, colours: int | None) -> bytes:
    buffer = io.BytesIO()
    (picture.quantize(colours) if colours else picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _question(text: str) -> str:
    """A question without its frames' markers."""
    return _clean(_LABELLED.sub(" ", text))


def _answer(text: str) -> str:
    """What a response answers, or its beginning if it has no answer tag."""
    inner = answer_text(text)
    return _clean(inner) or "(empty)" if inner is not None else f"(no answer tag) {_clean(text)}"


def _clean(text: str) -> str:
    """One line of printable characters, bounded."""
    return " ".join(printable(text[: 4 * LONGEST]).split())[:LONGEST]


def _cell(value: object) -> str:
    """A value inside a Markdown table: one line, cut, nothing in it is markup."""
    text = _clean(str(value))
    return _MARKDOWN.sub(r"\\\1", text if len(text) <= CELL else text[: CELL - 1] + "…")
