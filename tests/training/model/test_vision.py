"""Frames to features: the cap holds for every shape, patches are the processor's own, features the tower's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data.images import fit_grid
from training.model.checkpoint import FutureL1, load
from training.model.encoding import Encoder, FrameLimits
from training.model.vision import FrozenVision, Patcher, Patches, VideoPatcher, pixel_values

PARITY = Path(__file__).parents[2] / "data" / "parity" / "checkpoint"
SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.integers(1, 64), st.integers(0, 2000), st.sampled_from([16, 28, 32]))
def test_no_shape_exceeds_the_cap(height: int, width: int, low: int, more: int, tile: int) -> None:
    rows, columns = fit_grid(height, width, low, low + more, tile)
    assert min(rows, columns) >= 1
    assert rows * columns <= low + more


@given(SIDES, SIDES, st.integers(1, 64), st.integers(0, 2000))
def test_turning_a_frame_turns_its_grid(height: int, width: int, low: int, more: int) -> None:
    rows, columns = fit_grid(height, width, low, low + more, 32)
    free = fit_grid(height, width, low, 10**9, 32)  # where the cap cuts what `low` asked for, it cuts columns first
    if (rows, columns) == free or (low == 1 and rows < low + more and columns < low + more):
        assert fit_grid(width, height, low, low + more, 32) == (columns, rows)


@pytest.mark.parametrize(
    ("size", "cap", "grid"),
    [
        ((720, 1280), 4, (1, 2)), ((720, 1280), 8, (2, 3)), ((720, 1280), 16, (3, 5)), ((720, 1280), 32, (4, 7)),
        ((720, 1280), 64, (6, 10)), ((480, 640), 32, (4, 6)), ((512, 512), 16, (4, 4)), ((300, 3000), 4, (1, 4)),
        ((720, 1280), 1, (1, 1)), ((512, 512), 2, (1, 1)),
    ],
)  # fmt: skip
def test_latent_grids_of_common_shapes(size: tuple[int, int], cap: int, grid: tuple[int, int]) -> None:
    assert fit_grid(*size, 1, cap, 32) == grid


def test_observed_frames_keep_their_size_rounded_to_whole_tokens() -> None:
    assert fit_grid(720, 1280, 2, 16384, 32) == (22, 40)
    assert fit_grid(360, 640, 2, 16384, 32) == (11, 20)


def test_small_frames_are_enlarged_to_the_least() -> None:
    rows, columns = fit_grid(32, 32, 4, 16, 32)
    assert rows * columns >= 4


@pytest.mark.parametrize("wrong", [(0, 5, 1, 4), (5, 5, 0, 4), (5, 5, 4, 3)])
def test_frames_without_size_and_impossible_limits_are_errors(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot fit"):
        fit_grid(*wrong, 32)


def noise(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def release() -> FutureL1:
    """Patches of 16 px, as Qwen3-VL's."""
    return load(PARITY)


@pytest.fixture(scope="module")
def patcher(base: FutureL1) -> Patcher:
    return Patcher(base.processor.image_processor)


def test_patches_are_those_of_the_processor(base: FutureL1, patcher: Patcher) -> None:
    frame = noise(0)
    expected = base.processor.image_processor(Image.fromarray(frame), return_tensors="pt")
    patches = patcher(frame, 4, 16)
    assert torch.equal(patches.pixels, expected["pixel_values"])
    assert patches.grid.tolist() == expected["image_grid_thw"][0].tolist() == [1, 8, 8]
    assert patches.tokens == 16


def test_a_large_frame_is_resized_once(base: FutureL1, patcher: Patcher) -> None:
    frame = noise(1, 90, 160)
    patches = patcher(frame, 1, 4)
    resized = Image.fromarray(frame).resize((32, 16), Image.Resampling.BICUBIC)
    expected = base.processor.image_processor(resized, do_resize=False, return_tensors="pt")
    assert patches.merged_grid == (1, 2)
    assert torch.equal(patches.pixels, expected["pixel_values"])


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ((720, 1280), {1: 4, 2: 4, 4: 2, 8: 6, 16: 15, 32: 28, 64: 60}),
        ((480, 640), {1: 4, 2: 4, 4: 2, 8: 6, 16: 12, 32: 24, 64: 54}),
        ((512, 512), {1: 4, 2: 4, 4: 4, 8: 4, 16: 16, 32: 25, 64: 64}),
        ((320, 768), {1: 4, 2: 2, 4: 3, 8: 4, 16: 12, 32: 24, 64: 60}),
        ((320, 640), {1: 4, 2: 2, 4: 2, 8: 8, 16: 10, 32: 32, 64: 55}),
        ((300, 3000), {4: 6}),
    ],
)
def test_the_releases_counts_can_be_had_and_ours_never_exceed_the_budget(
    release: FutureL1, size: tuple[int, int], counts: dict[int, int]
) -> None:
    """reference/sft.md 2.4, measured on the release: its two resizers break the budget, ours keeps it."""
    frame = noise(2, *size)
    for budget, count in counts.items():
        limits = FrameLimits((2, 16384), budget, "release"), FrameLimits((2, 16384), budget)
        theirs, ours = (Encoder(release.processor, chosen, None).future(frame) for chosen in limits)
        assert theirs.tokens == count
        assert ours.tokens <= budget
        if count <= budget:
            assert (ours.key, ours.merged_grid) == (theirs.key, theirs.merged_grid), "the same pixels, too"


def test_the_releases_second_resize_is_the_processors(release: FutureL1) -> None:
    frame = noise(3, 180, 320)
    once = Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC)
    expected = release.processor.image_processor(once, return_tensors="pt")
    patches = Encoder(release.processor, FrameLimits((2, 16384), 2, "release"), None).future(frame)
    assert torch.equal(patches.pixels, expected["pixel_values"])


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_many_frames_at_a_time_have_the_pixels_of_each(base: FutureL1, patcher: Patcher) -> None:
    """Of two sizes, one of them resized (Pillow's memory is read-only), with frame pairs between."""
    pairs = VideoPatcher(base.processor.video_processor)([noise(5), noise(6), noise(7)], [0, 1, 2], 1.0, 4, 16)
    mixed = [patcher(noise(0), 4, 16), patcher(noise(1, 90, 160), 1, 4), *pairs, patcher(noise(2), 4, 16)]
    assert torch.equal(pixel_values(mixed), torch.cat([patches.pixels for patches in mixed]))


def test_frame_pairs_of_a_video_are_what_the_tower_makes_of_the_whole(base: FutureL1) -> None:
    frames = [noise(i) for i in range(6)]
    patch = VideoPatcher(base.processor.video_processor)
    pairs = patch(frames, [0, 1, 2, 3, 4, 5], 2.0, 4, 16)
    whole = base.processor.video_processor(
        np.stack(frames), do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="pt"
    )
    with torch.no_grad():
        expected = base.model.model.get_video_features(whole["pixel_values_videos"], whole["video_grid_thw"])
    actual = FrozenVision(base.model).encoder_outputs(pairs)
    assert actual is not None
    torch.testing.assert_close(
        torch.cat(actual["video"].pooler_output), torch.cat(list(expected.pooler_output)), atol=1e-5, rtol=0
    )
    assert [pair.seconds for pair in pairs] == [0.25, 1.25, 2.25]
    assert {pair.merged_grid for pair in pairs} == {(4, 4)}


def test_a_last_frame_without_a_partner_is_paired_with_itself(base: FutureL1) -> None:
    patch = VideoPatcher(base.processor.video_processor)
    frames = [noise(i) for i in range(3)]
    odd, even = patch(frames, [0, 2, 4], 2.0, 4, 16), patch([*frames, frames[2]], [0, 2, 4, 4], 2.0, 4, 16)
    assert [p.key for p in odd] == [p.key for p in even]
    assert odd[-1].seconds == 2.0


def features_of(base: FutureL1, patches: Patches) -> torch.Tensor:
    with torch.no_grad():
        return base.model.model.get_image_features(patches.pixels, patches.grid[None]).pooler_output[0]


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
@pytest.mark.parametrize("chunk", [2, 256])
def test_features_are_the_towers_in_order(base: FutureL1, patcher: Patcher, cache_bytes: int, chunk: int) -> None:
    patches = [patcher(noise(i), 1, 4 if i % 2 else 16) for i in range(5)]
    vision = FrozenVision(base.model, cache_bytes, chunk)
    for order in ([patches[3], patches[0], patches[3]], patches):
        for frame, (actual, _) in zip(order, vision.features(order), strict=True):
            torch.testing.assert_close(actual, features_of(base, frame), atol=1e-5, rtol=0)
            assert not actual.requires_grad


def test_a_frame_in_the_cache_is_not_encoded_again(base: FutureL1, patcher: Patcher) -> None:
    encoded: list[int] = []
    hook = base.model.model.visual.register_forward_hook(lambda _m, _a, _k, _o: encoded.append(1), with_kwargs=True)
    vision = FrozenVision(base.model, 2**20)
    frames = [patcher(noise(i), 4, 16) for i in range(3)]
    vision.features(frames)
    vision.features([*frames[::-1], frames[0]])
    hook.remove()
    assert len(encoded) == 1


def test_the_cache_keeps_its_bound_and_the_newest(base: FutureL1, patcher: Patcher) -> None:
    frames = [patcher(noise(i), 4, 16) for i in range(8)]
    one = features_of(base, frames[0]).numel() * 4
    vision = FrozenVision(base.model, cache_bytes=3 * one + one // 2)
    for frame in frames:
        vision.features([frame])
    kept = [vision._cache.get(frame.key) for frame in frames]
    assert [feature is not None for feature in kept] == [False] * 5 + [True] * 3
    assert sum(f[0].untyped_storage().nbytes() for f in kept if f) == vision._cache.currsize <= vision._cache.maxsize


def test_without_frames_there_are_no_outputs(base: FutureL1) -> None:
    assert FrozenVision(base.model).encoder_outputs([]) is None
