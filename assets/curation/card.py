"""The dataset card of a publication: what is in it, how it was selected, the numbers, one figure."""

from collections.abc import Mapping
from typing import Any

from assets.curation.selection import SelectionSettings

GAIN_FIGURE = "gain_histogram.png"

_HEAD = (
    """\
---
pretty_name: Future-L1-50K
size_categories: [{size}]
---

# Future-L1-50K

{kept:,} video trajectories that a model could not answer from the observed frames and could once it was shown the \
true future frames: visual-gain selection as in Future-L1 (arXiv 2606.05769, section 3.2). Made by the open Future-L1 \
pipeline; metadata only, clips are not part of it.

![Rows by visual gain]("""
    + GAIN_FIGURE
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
| `path`, `frame_count`, `p_t`, `p_v` | the clip that was read, its displayed frames; the same counts by their symbols |
"""


def dataset_card(report: Mapping[str, Any], selection: SelectionSettings) -> str:
    """Markdown; `report` is `selection.selection_report`'s."""
    kept = report["kept"]
    size = "n<1K" if kept < 1_000 else "1K<n<10K" if kept < 10_000 else "10K<n<100K"
    rejected = {reason.replace("_", " "): count for reason, count in report["rejected_by_reason"].items()}
    parts = [
        _HEAD.format(size=size, kept=kept),
        "## Selection",
        f"Kept: p_t <= {selection.max_p_t} and p_v - p_t >= {selection.min_gain}, ranked by gain, at most"
        f" {selection.top:,} rows.\n",
        _table(("rows", "count"), {"scored": report["scored"], "kept": kept, **rejected, "pending": report["pending"]}),
        "## Gain of the kept rows",
        _table(("gain", "rows"), report["gain_histogram_kept"]),
        "## Categories",
        _table(("category", "rows"), report["categories"], of=kept),
        "## Future frames per row",
        _table(("future frames", "rows"), report["future_frames"], of=kept),
        "## Columns",
        _COLUMNS,
    ]
    return "\n".join(parts)


def gain_figure(report: Mapping[str, Any]) -> bytes:
    """The PNG that the card shows; to be stored beside it as `GAIN_FIGURE`."""
    from evaluation.figures import gain_histogram

    return gain_histogram(report["gain_histogram"], report["gain_histogram_kept"])


def _table(head: tuple[str, str], rows: Mapping[str, Any], of: int = 0) -> str:
    """A two-column table; with `of`, counts carry their share."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for name, value in rows.items():
        share = f" ({100 * value / of:.1f} %)" if of else ""
        lines.append(f"| {name} | {f'{value:,}' if isinstance(value, int) else value}{share} |")
    return "\n".join(lines) + "\n"
