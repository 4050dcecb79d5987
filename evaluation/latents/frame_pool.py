"""Frames of benchmark items as features at latent size, and the pool of frames of other clips; memory is bounded.

Frames are compared on one grid.  Those of a clip nearly always have one size; others are cropped to the grid's shape
before they are encoded, so that every feature is of a real frame, not of a stretched one.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from cachetools import FIFOCache
from PIL import Image, ImageOps

from evaluation.generation.requests import with_images
from training.data.parts import image
from training.data.video import FrameCache
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoder
from training.model.vision import Patches
from training.sft.inspection import latent_config_of
from training.storage.hashing import stable_hash
from training.storage.parquet import scan_parquet

COLUMNS = ("id", "video", "question_images", "reasoning_images", "problem")
READ_ROWS, READ_BYTES = 8, 2**20
"""Rows of the table that are read at a time, and its read buffer: images are large."""
THUMBNAIL = 256
"""Most pixels along a side of a thumbnail."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class ItemEntry:
    """An item without its images; `clip` is its video, or the item itself where none is named."""

    id: str
    clip: str
    frames: int


@dataclass(frozen=True)
class Item:
    """An item with its encoded images."""

    id: str
    clip: str
    observed: list[bytes]
    future: list[bytes]


@dataclass(frozen=True)
class Frame:
    """A frame at latent size: pixels uint8 [h,w,3], features float32 [T,D], the grid of T; key: a content hash."""

    thumbnail: np.ndarray
    pixels: np.ndarray
    features: np.ndarray
    grid: Grid
    key: str

    @property
    def nbytes(self) -> int:
        return self.thumbnail.nbytes + self.pixels.nbytes + self.features.nbytes


def list_items(items: Path) -> list[ItemEntry]:
    """The valid items of a TwiFF-Bench table (benchmarks.twiffbench.ItemTable), without their images."""
    table = scan_parquet(items).filter(pl.col("problem").is_null()).select("id", "video", "reasoning").collect()
    return [ItemEntry(name, video or f"item {name}", len(texts) - 1) for name, video, texts in table.iter_rows()]


def read_items(items: Path, wanted: Collection[str] | None = None) -> Iterator[Item]:
    """Valid items with their images, a few at a time, in the table's order; `wanted`: these ids alone."""
    with pq.ParquetFile(items, buffer_size=READ_BYTES, pre_buffer=False) as table:  # else a whole row group is read
        for batch in table.iter_batches(READ_ROWS, columns=list(COLUMNS)):
            for row in batch.to_pylist():
                if row["problem"] is None and (wanted is None or row["id"] in wanted):
                    clip = row["video"] or f"item {row['id']}"
                    yield Item(row["id"], clip, row["question_images"], row["reasoning_images"])


class FrameEncoder:
    """A checkpoint's vision tower, which encodes frames as it encodes SFT's targets.

    `latents`: L_max, if not the checkpoint's; a base model's is the paper's.
    """

    def __init__(self, bundle: FutureL1, latents: int | None = None) -> None:
        self.encoder: Encoder = bundle.encoder(latent_config_of(bundle, latents, None))
        self._vision = bundle.vision()

    def frames(self, images: Sequence[np.ndarray], grid: Grid | None = None) -> list[Frame]:
        """uint8 RGB images [H,W,3], encoded together; with `grid`, cropped to its shape where theirs is another."""
        patches = [self._at(pixels, grid) for pixels in images]
        features = [merged.float().cpu().numpy() for merged, _ in self._vision.features(patches)]
        return [
            Frame(_thumbnail(pixels), p.frames[0], feature, p.merged_grid, p.key)
            for pixels, p, feature in zip(images, patches, features, strict=True)
        ]

    def item(self, item: Item) -> tuple[list[Frame], list[Frame]]:
        """Observed and future frames, all on the grid of the first future one, which SFT would aim at.

        Raises ValueError or OSError for an image that cannot be decoded.
        """
        images = decoded([*item.observed, *item.future])
        grid = self.encoder.future(images[len(item.observed)]).merged_grid
        frames = self.frames(images, grid)
        return frames[: len(item.observed)], frames[len(item.observed) :]

    def _at(self, pixels: np.ndarray, grid: Grid | None) -> Patches:
        patches = self.encoder.future(pixels)
        if grid is None or patches.merged_grid == grid:
            return patches
        tile = self.encoder.patch.tile
        size = grid[1] * tile, grid[0] * tile
        cropped = ImageOps.fit(Image.fromarray(pixels), size, Image.Resampling.BICUBIC)
        return self.encoder.patch(np.asarray(cropped), 1, grid[0] * grid[1])


class FramePool:
    """One frame of each of `others` clips, candidates beside an item's own; sampled by a hash: the same for each model.

    Only encoded images are held; the caller caches features.
    """

    def __init__(self, items: Path, entries: Sequence[ItemEntry], others: int, seed: int) -> None:
        in_order = sorted(entries, key=lambda entry: stable_hash(seed, entry.id), reverse=True)
        of_clip = {entry.clip: entry.id for entry in in_order}
        chosen = sorted(of_clip.values(), key=lambda name: stable_hash(seed, name))[: others + 1]
        self.others = others
        self._images: list[tuple[str, bytes]] = []
        for item in read_items(items, set(chosen)):
            images = [*item.observed, *item.future]
            data = images[stable_hash(seed, f"frame of {item.id}") % len(images)]
            with suppress(ValueError, OSError):  # an image that cannot be decoded is no candidate
                decoded([data])
                self._images.append((item.clip, data))

    def beside(
        self, encoder: FrameEncoder, clip: str, grid: Grid, cache: "FIFOCache[Grid, list[Frame]]"
    ) -> list[Frame]:
        """At most `others` frames on a grid, none of this clip; `cache` holds this encoder's frames."""
        frames = cache.get(grid)
        if frames is None:
            frames = encoder.frames(decoded([data for _, data in self._images]), grid)
            with suppress(ValueError):  # larger than the whole cache
                cache[grid] = frames
        apart = [frame for (owner, _), frame in zip(self._images, frames, strict=True) if owner != clip]
        return apart[: self.others]


def frame_cache(limit: int) -> "FIFOCache[Grid, list[Frame]]":
    """A cache of one encoder's frames of other clips by grid: at most `limit` bytes, the oldest go first."""
    return FIFOCache(limit, lambda frames: sum(frame.nbytes for frame in frames))


def decoded(images: Sequence[bytes]) -> list[np.ndarray]:
    """Encoded images as uint8 RGB arrays.  Raises ValueError or OSError for one that cannot be decoded."""
    return [pixels for _, [pixels] in with_images([image(data) for data in images], FrameCache(0))]


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(pixels)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(small)
