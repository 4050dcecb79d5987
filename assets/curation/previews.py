"""Previews of scored rows for the UI: storyboards, the rows of highest gain, and the rejected rows by reason.

Everything in them is untrusted: text is cut, control characters are dropped, a picture's text has no markup of any
kind, and a table's cells carry no live Markdown.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assets.curation.scored import hash_order
from evaluation.drawing.sheet import BLUE, QUIET, VERMILION
from evaluation.drawing.storyboard import Block, Board, BoardFrame, Columns, Layout, Squares, Text, storyboard
from evaluation.generation.curtailment import CONDITIONS, Condition
from training.data.keyframes import key_frame_number
from training.data.trajectory import IMAGE
from training.data.video import read_frames
from training.grading.parsers import answer_text
from training.runtime.printable import printable

STORYBOARDS, TOP_ROWS, REJECTED = "storyboards.png", "top_rows.md", "rejected.md"
GAIN_FIGURE = "gain_histogram.png"
PNG_LIMIT = 400_000
COLUMNS = (
    "row_id", "video", "question", "answer", "category", "observed", "future", "path", "frame_count", "reader",
    "p_t", "p_v", "gain",
)  # fmt: skip
TITLES: dict[Condition, str] = {"plain": "without the hint", "hint": "with the hint"}
MARKS = {"correct": "✓", "incorrect": "✗", "unjudged": "?"}
COLOURS = {"correct": BLUE, "incorrect": VERMILION, "unjudged": QUIET}
WIDTH, FRAMES, SIZE = 565.0, 280.0, 7.5
"""Points: of the picture, which a dialog of the UI shows whole, of the frames' part, and of letters."""
QUALITIES = ((90, None), (90, 256), (50, 256), (32, 256), (20, 256))
"""Frame heights in points and colours (None: all), in the order in which they are tried until the file is small."""
MAX_TEXTS = 4
"""Answers with different texts that are listed per condition."""
MAX_TEXT = 600
"""Characters of a text that are read."""
MAX_CELL = 120
"""Characters of a table's cell."""

_FRAME_MARKER = re.compile(rf"(?:frame_\d+\s*)?{re.escape(IMAGE)}")
_MARKDOWN = re.compile(r"([\\`*_~\[\](){}<>|&$!#@:])")


def write_previews(folder: Path, rows: pl.DataFrame, verdicts: pl.DataFrame, report: Mapping[str, Any], n: int) -> None:
    """Writes an asset's previews: n storyboards, the ten rows of highest gain, and the rejected rows by reason."""
    (folder / STORYBOARDS).write_bytes(storyboards(rows, verdicts, n))
    (folder / TOP_ROWS).write_text(top_rows(rows))
    (folder / REJECTED).write_text(rejected_table(report))


def gain_figure(report: Mapping[str, Any]) -> bytes:
    """Kept rows and fully sampled rows by gain, of a publication or a shard (`visual_gain.gain_report`)."""
    from evaluation.drawing.run_plots import gain_histogram

    return gain_histogram(report["gain_histogram"], report["gain_histogram_kept"])


def highest(rows: pl.DataFrame, n: int) -> pl.DataFrame:
    """The n rows of highest gain in the order of selection; rows without a gain are not among them."""
    scored = rows.drop_nulls("gain")
    least = scored["gain"].top_k(n).min()
    scored = scored.filter(pl.col("gain") >= pl.lit(least, pl.Int64))
    scored = scored.with_columns(hash_order(scored["row_id"]))
    return scored.sort("gain", "order", descending=[True, False]).head(n).drop("order")


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
    as VerdictTable, those of other rows are passed over.  A row whose clip cannot be read has the reason in its place.
    """
    best = highest(rows, n).select(COLUMNS)
    graded = verdicts.filter(pl.col("row_id").is_in(best["row_id"].implode())).sort("row_id", "condition", "sample")
    answers = {
        (row_id, condition): list(group.select("text", "verdict").iter_rows())
        for (row_id, condition), group in graded.group_by("row_id", "condition", maintain_order=True)
    }
    boards = [_board(rank, row, answers) for rank, row in enumerate(best.iter_rows(named=True), start=1)]
    heading = [] if boards else [Text("No row has a gain.", colour=QUIET)]
    for height, colours in QUALITIES:
        png = storyboard(boards, Layout(WIDTH, FRAMES, height, SIZE), heading, colours)
        if len(png) <= PNG_LIMIT:
            break
    return png


def _board(rank: int, row: Mapping[str, Any], answers: Mapping[tuple[Any, ...], Sequence[tuple[str, str]]]) -> Board:
    blocks: list[Block] = [
        Text(_question(row["question"]), max_lines=5),
        Text(f"reference: {_clean(row['answer'])}", bold=True, max_lines=2),
        Columns([_answers(name, answers.get((row["row_id"], name), [])) for name in CONDITIONS]),
    ]
    detail = f"p_t {row['p_t']}, p_v {row['p_v']} · {row['category']} · {_clean(row['video'])}"
    return Board(f"{rank}.  gain {row['gain']:+d}", _clean(detail), _frames(row), blocks)


def _frames(row: Mapping[str, Any]) -> list[BoardFrame] | str:
    """The observed and then the future frames, or why they cannot be read."""
    names = [("observed", index) for index in row["observed"]] + [("future", index) for index in row["future"]]
    try:
        numbers = [key_frame_number(row["frame_count"], index) for _, index in names]
        frames = read_frames(row["path"], numbers, row["reader"])
    except (ValueError, OSError, RuntimeError) as error:
        reason = _clean(str(error).replace(str(Path(row["path"]).parent) + "/", "")) or type(error).__name__
        return f"no frames: {reason}"
    return [
        BoardFrame(frame, f"{kind} {index}", kind == "future")
        for frame, (kind, index) in zip(frames, names, strict=True)
    ]


def _answers(condition: Condition, answers: Sequence[tuple[str, str]]) -> list[Block]:
    """How many of a condition's answers are right, a square for each, and their distinct texts."""
    count = Counter(verdict for _, verdict in answers)
    title = f"{count['correct']} of {len(answers)}" if answers else "no answers"
    texts = Counter((_answer(text), verdict) for text, verdict in answers).most_common()
    blocks: list[Block] = [
        Text(f"{TITLES[condition]}: {title}", bold=True),
        Squares(count["correct"], count["incorrect"], count["unjudged"], (BLUE, VERMILION, QUIET)),
    ]
    blocks += [
        Text(text, colour=COLOURS[verdict], max_lines=2, label=f"{MARKS[verdict]} {n} ×")
        for (text, verdict), n in texts[:MAX_TEXTS]
    ]
    if rest := texts[MAX_TEXTS:]:
        others = f"and {sum(n for _, n in rest)} with {len(rest)} other text{'s' * (len(rest) > 1)}"
        blocks.append(Text(others, colour=QUIET))
    return blocks


def _question(text: str) -> str:
    """A question without its frames' markers."""
    return _clean(_FRAME_MARKER.sub(" ", text))


def _answer(text: str) -> str:
    """The answer in a response, or the response's beginning if it has no answer tag."""
    inner = answer_text(text)
    return _clean(inner) or "(empty)" if inner is not None else f"(no answer tag) {_clean(text)}"


def _clean(text: str) -> str:
    """One line of printable characters, bounded."""
    return " ".join(printable(text[: 4 * MAX_TEXT]).split())[:MAX_TEXT]


def _cell(value: object) -> str:
    """A value inside a Markdown table: one line, cut, nothing in it is markup."""
    text = _clean(str(value))
    return _MARKDOWN.sub(r"\\\1", text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…")
