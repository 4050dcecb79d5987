"""Frames to vision features: one resize with a guaranteed cap, patches by the model's own processors, frozen features.

Qwen3-VL takes a video two frames at a time: the tower attends within a pair, and each pair has its own timestamp,
placeholder and rope positions.  So here a frame pair is what an image is, with a time.

The tower and the merger are frozen everywhere in this project, so the features of a frame are constants.  They are
computed without gradients and kept in a bounded cache, by content: passes over the same frames encode each once.
"""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from cachetools import FIFOCache
from PIL import Image
from torchvision.transforms.v2.functional import InterpolationMode, resize
from transformers import Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration, Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.video_utils import VideoMetadata

from training.data.images import fit_grid


@dataclass(frozen=True)
class Patches:
    """An image or a video's frame pair at its final size; cut into patches only where its features are not cached."""

    frames: np.ndarray  # uint8 [1 or 2, H, W, 3]
    processor: Qwen2VLImageProcessor | Qwen3VLVideoProcessor
    merged_grid: tuple[int, int]  # rows, columns of merged tokens
    key: str  # content hash
    seconds: float | None = None  # the time of a frame pair; None: an image

    @property
    def tokens(self) -> int:
        """Merged vision tokens."""
        return self.merged_grid[0] * self.merged_grid[1]

    @property
    def grid(self) -> torch.Tensor:
        """The tower's grid [3] (1, h, w) in patches."""
        merge = self.processor.merge_size
        return torch.tensor([1, self.merged_grid[0] * merge, self.merged_grid[1] * merge])

    @property
    def pixels(self) -> torch.Tensor:
        """The tower's input of this frame, as `pixel_values` makes it."""
        return pixel_values([self])


def pixel_values(patches: Sequence[Patches]) -> torch.Tensor:
    """The tower's input [patches, channels * 2 * patch * patch] of frames in order, by the checkpoint's own processors.

    Sizes are settled: nothing is resized.  Images go in together, which takes half the time where they are small; frame
    pairs one at a time, since together they take twice the memory.
    """
    parts: list[torch.Tensor] = []
    for is_image, group in groupby(patches, key=lambda p: p.seconds is None):
        run = list(group)
        parts += [_images(run)] if is_image else map(_frame_pair, run)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _images(run: list[Patches]) -> torch.Tensor:
    frames = [p.frames[0].copy() for p in run]  # Pillow's memory is read-only, of which PyTorch warns
    options = {"do_resize": False, "input_data_format": "channels_last", "return_tensors": "pt"}
    return run[0].processor(frames, **options)["pixel_values"]


def _frame_pair(patches: Patches) -> torch.Tensor:
    return patches.processor(
        patches.frames,
        do_resize=False,
        do_sample_frames=False,
        cap_pixels_per_frame=False,  # unset, the processor warns (transformers 5.23)
        video_metadata=VideoMetadata(total_num_frames=2, fps=1.0, frames_indices=[0, 1]),
        return_tensors="pt",
    )["pixel_values_videos"]


class Patcher:
    """Resizes frames, once."""

    def __init__(self, image_processor: Qwen2VLImageProcessor) -> None:
        self.processor = image_processor
        self.tile = image_processor.patch_size * image_processor.merge_size

    def __call__(self, frame: np.ndarray, low: int, high: int) -> Patches:
        """uint8 RGB [H,W,3] to an image of low..high merged tokens."""
        grid = fit_grid(frame.shape[0], frame.shape[1], low, high, self.tile)
        return self._patches(_resized(frame, grid[0] * self.tile, grid[1] * self.tile), grid)

    def release(self, frame: np.ndarray, low: int, high: int, processor: tuple[int, int]) -> Patches:
        """As the public release resizes, for parity: by qwen-vl-utils to low..high tokens, then by the image processor
        to its own limits.  Strips exceed `high`; what is below the processor's minimum is enlarged again.
        """
        rows, columns = fit_grid(frame.shape[0], frame.shape[1], low, high, self.tile, strict=False)
        once = _resized(frame, rows * self.tile, columns * self.tile)
        grid = fit_grid(once.shape[0], once.shape[1], *processor, self.tile, strict=False)
        return self._patches(_resized_by_torchvision(once, grid[0] * self.tile, grid[1] * self.tile), grid)

    def _patches(self, frame: np.ndarray, grid: tuple[int, int]) -> Patches:
        return Patches(frame[None], self.processor, grid, _key(frame[None]))


class VideoPatcher:
    """Resizes the frames of one video, in pairs."""

    def __init__(self, video_processor: Qwen3VLVideoProcessor) -> None:
        self.processor = video_processor
        self.tile = video_processor.patch_size * video_processor.merge_size

    def __call__(
        self, frames: Sequence[np.ndarray], numbers: Sequence[int], fps: float, low: int, high: int
    ) -> list[Patches]:
        """uint8 RGB frames of one size, with their numbers in the clip, to pairs of low..high merged tokens each.

        A last frame without a partner is its own.  A pair's time is the mean of its two frames' times.
        """
        if len(frames) % 2:
            frames, numbers = [*frames, frames[-1]], [*numbers, numbers[-1]]
        rows, columns = fit_grid(frames[0].shape[0], frames[0].shape[1], low, high, self.tile)
        video = np.stack([_resized(frame, rows * self.tile, columns * self.tile) for frame in frames])
        pairs = [video[i : i + 2] for i in range(0, len(video), 2)]
        times = [(first / fps + second / fps) / 2 for first, second in zip(numbers[::2], numbers[1::2], strict=True)]
        return [
            Patches(pair, self.processor, (rows, columns), _key(pair), seconds)
            for pair, seconds in zip(pairs, times, strict=True)
        ]


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def _resized_by_torchvision(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    channels_first = torch.from_numpy(frame.copy()).permute(2, 0, 1)  # Pillow's memory is read-only
    resized = resize(channels_first, [height, width], InterpolationMode.BICUBIC, antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()


def _key(pixels: np.ndarray) -> str:
    return hashlib.blake2b(pixels.tobytes() + str(pixels.shape).encode(), digest_size=16).hexdigest()


Feature = tuple[torch.Tensor, tuple[torch.Tensor, ...]]


class FrozenVision:
    """Features of the frozen tower and merger, each distinct frame encoded once while the cache holds it.

    A feature is (merged [k, D], deepstack tuple of [k, D]); cache_bytes bounds what is kept (0 keeps nothing), `chunk`
    the merged tokens that are encoded at a time (a single larger frame goes alone).  `apart`: a tower of its own, for
    models whose weights are sharded between their own forward passes (FSDP).
    """

    def __init__(
        self, model: Qwen3VLForConditionalGeneration, cache_bytes: int = 0, chunk: int = 16384, apart: bool = False
    ) -> None:
        tower = model.model.visual
        self.tower = copy.deepcopy(tower).requires_grad_(False) if apart else tower
        self.width, self.chunk = model.config.text_config.hidden_size, chunk
        self._cache: FIFOCache[str, Feature] = FIFOCache(cache_bytes, getsizeof=_bytes)
        self._held: dict[str, Feature] = {}

    @contextmanager
    def holding(self, patches: Sequence[Patches]) -> Iterator[None]:
        """Context in which these frames' features, encoded together, are available whatever the cache's bound."""
        self._held = {p.key: feature for p, feature in zip(patches, self.features(patches), strict=True)}
        try:
            yield
        finally:
            self._held = {}

    @torch.no_grad()
    def _encode(self, patches: Sequence[Patches]) -> list[Feature]:
        device, dtype = self.tower.device, self.tower.dtype
        pixels, grids = pixel_values(patches), torch.stack([p.grid for p in patches])
        with torch.autocast(device.type, enabled=False):  # constants, also within another autocast
            out = self.tower(pixels.to(device, dtype), grids.to(device))
        sizes = [p.tokens for p in patches]
        layers = [out.pooler_output, *out.deepstack_features]
        # clones: a view would keep the features of the whole chunk alive
        split = zip(*(layer.split(sizes) for layer in layers), strict=True)
        return [(merged.clone(), tuple(layer.clone() for layer in deep)) for merged, *deep in split]

    def features(self, patches: Sequence[Patches]) -> list[Feature]:
        """Features of each frame, in order."""
        features = {p.key: f for p in patches if (f := self._held.get(p.key) or self._cache.get(p.key)) is not None}
        missing = list({p.key: p for p in patches if p.key not in features}.values())
        for part in _chunks(missing, self.chunk):
            for patch, feature in zip(part, self._encode(part), strict=True):
                features[patch.key] = feature
                with suppress(ValueError):  # larger than the whole cache
                    self._cache[patch.key] = feature
        return [features[p.key] for p in patches]

    def merged(self, patches: Sequence[Patches]) -> torch.Tensor:
        """The merged features of all frames, one below the other [n, D]: latent targets."""
        if not patches:
            return torch.empty(0, self.width, device=self.tower.device, dtype=self.tower.dtype)
        return torch.cat([merged for merged, _ in self.features(patches)])

    def encoder_outputs(self, patches: Sequence[Patches]) -> dict[str, BaseModelOutputWithDeepstackFeatures] | None:
        """The observed frames of a batch, as `mm_encoder_outputs` of transformers' forward."""
        outputs = {}
        for kind, of_kind in (
            ("image", [p for p in patches if p.seconds is None]),
            ("video", [p for p in patches if p.seconds is not None]),
        ):
            if of_kind:
                features = self.features(of_kind)
                outputs[kind] = BaseModelOutputWithDeepstackFeatures(
                    pooler_output=[f for f, _ in features],
                    deepstack_features=[list(layer) for layer in zip(*(deep for _, deep in features), strict=True)],
                )
        return outputs or None


def _bytes(feature: Feature) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (feature[0], *feature[1]))


def _chunks(patches: Sequence[Patches], tokens: int) -> Iterator[list[Patches]]:
    """Runs of at most so many merged tokens, or of one frame."""
    part: list[Patches] = []
    for patch in patches:
        if part and sum(p.tokens for p in part) + patch.tokens > tokens:
            yield part
            part = []
        part.append(patch)
    if part:
        yield part
