"""Names of clips: the file that one leads to, and the interval of a source video that it states."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.data.rejection import RejectedRow

MAX_NAME_BYTES = 1024
"""Of a clip's whole name; its root comes before it, and file systems take 4,096."""

_TIME = r"(?:(?:\d{1,4}:)?\d{1,2}:)?\d{1,7}(?:\.\d{1,9})?"  # 0:04:09.165, 4:09.165, 249.165
_CLIP_NAME = re.compile(
    rf"(?P<id>[A-Za-z0-9_-]{{11}})(?:-(?P<start>{_TIME})-(?P<end>{_TIME})|[-_].*)?(?:\.[A-Za-z]\w{{1,4}})?", re.DOTALL
)


def check_clip_name(name: str) -> None:
    """Raises RejectedRow for a name that no file system takes."""
    parts = [part.encode(errors="replace") for part in name.split("/")]
    if not name.strip() or "\0" in name or max(map(len, parts)) > 255 or sum(map(len, parts)) > MAX_NAME_BYTES:
        raise RejectedRow("malformed clip name", repr(name[:80]))


def resolve_clip(name: str, roots: Sequence[Path]) -> Path:
    """The clip file that a row names, inside one of `roots` (searched in order).

    Raises RejectedRow: names come from untrusted rows, so a path that leaves its root, by `..`, by being absolute or
    through a link, is rejected even where such a file exists.
    """
    check_clip_name(name)
    inside = False
    for root in (Path(root).resolve() for root in roots if not Path(name).is_absolute()):
        try:
            candidate = (root / name).resolve()
            if not candidate.is_relative_to(root):
                continue
            inside = True
            if candidate.is_file():
                return candidate
        except (OSError, RuntimeError, UnicodeError) as error:  # links in a circle, a name beyond the file system's
            raise RejectedRow("malformed clip name", f"{name[:80]!r}: {error}") from error
    if not inside:
        raise RejectedRow("path outside clip root", repr(name))
    raise RejectedRow("missing clip", f"{name!r} is in none of the {len(roots)} clip roots")


@dataclass(frozen=True)
class ClipInterval:
    """The interval of a source video that a clip covers: a YouTube id, and seconds from that video's start; None:
    unknown."""

    video_id: str | None
    start: float | None
    end: float | None


def locate_clip(
    video: str, times: Mapping[str, str] | None, look_up: Callable[[str], Path]
) -> tuple[Path, str | None]:
    """The file that `look_up` has for a clip's name, and, where it has it by its other name alone, that alias.

    times: `start` and `end` of the row, of which the alias is made.  Raises RejectedRow as `look_up` does.
    """
    try:
        return look_up(video), None
    except RejectedRow as reject:
        alias = _alias(video, **times) if times and reject.reason == "missing clip" else None
        if alias is None:
            raise
        try:
            return look_up(alias), alias
        except RejectedRow:
            raise RejectedRow(reject.reason, f"{reject.detail}, nor is {alias!r}") from None


def _alias(video: str, start: str, end: str) -> str | None:
    """The other name that clips go by, `{youtube id}-{start}-{end}.mp4`; None where it is the same or unknown."""
    youtube = clip_interval(video, None, None).video_id
    alias = PurePosixPath(video).parent / f"{youtube}-{start}-{end}.mp4"
    return str(alias) if youtube is not None and str(alias) != video else None


def clip_interval(video: str, start: str | None, end: str | None) -> ClipInterval:
    """The interval of a row's clip in its source video.

    `video` is the clip's name, `{11-character id}_{clip}.mp4` or `{id}-{start}-{end}.mp4`; `start` and `end` are the
    row's own times ("0:04:09.165"), used where the name has none.  Times that do not follow one another are no times.
    """
    name = _CLIP_NAME.fullmatch(PurePosixPath(video).name)
    if name is None:
        return ClipInterval(None, *_interval(start, end))
    return ClipInterval(name["id"], *_interval(name["start"] or start, name["end"] or end))


def _interval(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """Two times in seconds, None for what is no time; neither if they do not follow one another."""
    first, last = _seconds(start), _seconds(end)
    if first is not None and last is not None and first >= last:
        return None, None
    return first, last


def _seconds(time: str | None) -> float | None:
    if time is None or re.fullmatch(_TIME, time.strip()) is None:
        return None
    seconds = 0.0
    for part in time.strip().split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
