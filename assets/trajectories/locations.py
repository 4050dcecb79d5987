"""Locations as a profile writes them: a local path, an fsspec URL, or a dataset repository on a hub."""

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

HUB = "hf://"

_HUB = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>refs/convert/[\w.-]+|refs/pr/\d+|[^/@\s]+)(?:/(?P<files>.*))?"
)


@dataclass(frozen=True)
class HubLocation:
    """A dataset repository at a revision; `files` is a folder, a file or a pattern in it ("" for all of it)."""

    repo: str
    revision: str
    files: str


def hub_location(location: str) -> HubLocation:
    """Reads `hf://datasets/ORG/NAME@REVISION/files*`; raises ValueError that says what is missing."""
    match = _HUB.fullmatch(location)
    if match is None:
        raise ValueError(
            f"{location!r} is no dataset repository: want hf://datasets/ORG/NAME@REVISION, with a commit, a tag or a "
            "branch as the revision, and after it, if not all files are meant, /folder or /pattern*.parquet"
        )
    return HubLocation(match["repo"], match["revision"], (match["files"] or "").strip("/"))


def hub_repository(location: str) -> str | None:
    """The dataset repository that a location is in, or None for one elsewhere."""
    return hub_location(location).repo if location.startswith(HUB) else None


def local_path(location: str) -> Path | None:
    """The path that a location on this machine is, or None for one elsewhere."""
    path = location.removeprefix("file://")
    return None if "://" in path else Path(path)


def any_remote(*locations: str) -> bool:
    """Whether one of the locations is not a local path."""
    return any(local_path(location) is None for location in locations)


def valid_location(location: str | Path) -> str:
    """The location as text.

    Raises ValueError for an unknown protocol, a hub location that pins no revision, and a URL that carries a password.
    """
    text = str(location)
    if not text.strip() or "\0" in text:
        raise ValueError(f"a location is a path or a URL; found {text!r}")
    if text.startswith(HUB):
        hub_location(text)
    elif "://" in text:
        import fsspec

        protocol = text.split("://")[0].split("::")[0]
        if protocol not in fsspec.available_protocols():
            raise ValueError(f"{text!r} has an unknown protocol {protocol!r}: want a path, hf:// or what fsspec reads")
        if urlsplit(text).password:
            raise ValueError(f"{text.split('://')[0]}://… carries a password: credentials belong in the environment")
    return text


def pattern_root(pattern: str) -> str:
    """The folder above the first part of a path that has a wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(number for number, part in enumerate(parts) if glob.has_magic(part))])
