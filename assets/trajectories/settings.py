"""Settings of the sources: where trajectories, clips and benchmark files are."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from assets.framework.settings import Settings
from assets.trajectories.locations import valid_location


class SourceSettings(Settings):
    """The places of the sources."""

    trajectories: Annotated[str, BeforeValidator(valid_location)]
    """TwiFF shards (parquet, JSON lines, JSON): a folder, an fsspec URL or `hf://datasets/ORG/NAME@REVISION`, and in
    each of them, with a pattern after it, some of the files."""
    rows_per_partition: int = Field(default=10_000, ge=1)
    """The most rows of a partition: a longer file is cut into several."""
    clips: tuple[Annotated[str, BeforeValidator(valid_location)], ...]
    """Clip roots, folders or fsspec URLs; a row's video must lead inside one of them. The first that has it counts."""
    futurebench: Path
    """Folder with `futurebench.json` and `first_part_video/`."""
    twiffbench: Path
    """Folder with `test-*.parquet`."""
    seedbench: Path | None = None
    """Folder of SEED-Bench-R1 (`annotations/`, `images/`, `videos/`); None: it is not among the benchmarks."""
    quarantine_limit: float = Field(default=0.05, ge=0, le=1)
    """The share of rows in quarantine above which a check fails."""
