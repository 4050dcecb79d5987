"""The dataset card of a publication: what is in it, how it was selected, the numbers, two figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from assets.curation.contamination import SAME_CONTENT, SAME_VIDEO
from assets.curation.selection import SelectionSettings

GAIN_FIGURE = "gain_histogram.png"
COMPOSITION_FIGURE = "composition.png"

_HEAD = (
    """\
---
pretty_name: Future-L1-50K
size_categories: [{size}]
configs:
- config_name: default
  data_files: future_l1_50k.parquet
---

# Future-L1-50K

{kept:,} video trajectories that a model could not answer from the observed frames and could once it was shown the \
true future frames: visual-gain selection as in Future-L1 (arXiv 2606.05769, section 3.2). Made by the open Future-L1 \
pipeline; metadata only, clips are not part of it.

![Rows by visual gain]("""
    + GAIN_FIGURE
    + """)

![Rows by category and by number of future frames]("""
    + COMPOSITION_FIGURE
    + ")\n"
)

_COLUMNS = """\
| column | meaning |
| --- | --- |
| `video` | clip file name |
| `conversations` | human turn (`frame_N`, `<image>` markers, question) and gpt turn (numbered thoughts, an `<image>` \
for each future frame) |
| `image`, `reasoning_image` | key-frame indices 1..8 of the observed and of the future frames |
| `answer` | the short answer |
| `meta_data` | category, start and end in the source video |
| `correct_in_8_base`, `correct_in_8_hint`, `gain` | right answers without and with the hint, and their difference |
| `rank` | order of selection: by gain, then by the SHA-256 of `row_id` |
| `row_id`, `source`, `question`, `reasoning`, `observed`, `future`, `category`, `start`, `end` | the validated \
trajectory |
| `path`, `frame_count`, `reader`, `p_t`, `p_v` | the clip that was read, its displayed frames, what reads it; the \
same counts by their symbols |
"""


_CURTAILED = """\
{cut:,} of the {scored:,} scored rows were cut short: their answers stopped as soon as no outcome could have kept \
them. That changes no kept row, but a row that was cut short has no gain. So the gains of all scored rows are \
estimated from a sample: the {fully_sampled:,} rows that were chosen by a hash of their id and answered in full.
"""

_DISJOINT = """\
Left out as the same as an item of a benchmark: {video:,} rows whose source video overlaps an item's (same YouTube id \
and overlapping or unknown time), and {content:,} rows with an item's question, answer and, by a perceptual hash, \
observed frames. Not left out: {answer:,} rows with an item's question and answer and no such frame, and \
{question:,} with its question alone (template questions are common). Compared with: {benchmarks}. Left out as \
repetitions: {repeats:,} rows on the same frames of a clip with the same answer and a question that differs from a \
better-ranked row's only in letter case, punctuation or stop words.
"""


def dataset_card(report: Mapping[str, Any], selection: SelectionSettings, benchmarks: Sequence[str]) -> str:
    """Markdown; `report` is the selection's, `benchmarks` name what the rows were compared with."""
    kept, reasons, near = report["kept"], report["rejected_by_reason"], report["contamination"]
    rejected = {reason.replace("_", " "): count for reason, count in reasons.items()}
    parts = [
        _HEAD.format(size=_size(kept), kept=kept),
        "## Selection",
        f"Kept: p_t <= {selection.max_p_t} and p_v - p_t >= {selection.min_gain}, ranked by gain, at most"
        f" {selection.top:,} rows.\n",
        _table(("rows", "count"), {"scored": report["scored"], "kept": kept, **rejected, "pending": report["pending"]}),
        _DISJOINT.format(
            video=near[SAME_VIDEO], content=near[SAME_CONTENT], answer=near["question and answer alone"],
            question=near["question alone"], repeats=reasons["repeats"],
            benchmarks=", ".join(benchmarks) or "no benchmark",
        ),
        "## Gain of the kept rows",
        _table(("gain", "rows"), report["gain_histogram_kept"], of=kept),
        f"## Gain of all scored rows, from {report['fully_sampled']:,} of them",
        _CURTAILED.format(cut=report["cut_short"], scored=report["scored"], fully_sampled=report["fully_sampled"]),
        _table(("gain", "rows"), report["gain_histogram"], of=report["fully_sampled"]),
        "## Categories",
        _table(("category", "rows"), report["categories"], of=kept),
        "## Future frames per row",
        _table(("future frames", "rows"), report["future_frames"], of=kept),
        "## Columns",
        _COLUMNS,
    ]  # fmt: skip
    return "\n".join(parts)


def card_figures(report: Mapping[str, Any]) -> dict[str, bytes]:
    """The PNGs that the card shows, by file name."""
    from evaluation.drawing.run_plots import composition

    return {
        GAIN_FIGURE: gain_figure(report),
        COMPOSITION_FIGURE: composition(report["categories"], report["future_frames"]),
    }


def gain_figure(report: Mapping[str, Any]) -> bytes:
    """Kept rows and fully sampled rows by gain, of a publication or a shard (`visual_gain.gain_report`)."""
    from evaluation.drawing.run_plots import gain_histogram

    return gain_histogram(report["gain_histogram"], report["gain_histogram_kept"])


def _size(rows: int) -> str:
    """The hub's name for a size."""
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((name for bound, name in bounds.items() if rows < bound), "1M<n<10M")


def _table(head: tuple[str, str], rows: Mapping[str, Any], of: int = 0) -> str:
    """A two-column table; with `of`, counts carry their share."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for name, value in rows.items():
        share = f" ({100 * value / of:.1f} %)" if of else ""
        lines.append(f"| {name} | {f'{value:,}' if isinstance(value, int) else value}{share} |")
    return "\n".join(lines) + "\n"
