"""The release's recorded numbers (tests/data/parity/README.md), from our own encoder, features, splice and losses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.data.dialogue import Slot, assistant_pieces, user_pieces
from training.data.keyframes import key_frame_number
from training.data.video import probe, read_frames
from training.model.checkpoint import FutureL1, load
from training.model.encoding import IGNORE, collate
from training.model.latent_config import LatentConfig
from training.model.splice import spliced_forward

PARITY = Path(__file__).parents[2] / "data" / "parity"
EXPECTED = json.loads((PARITY / "expected.json").read_text())
RECORD = json.loads((PARITY / "records.json").read_text())[0]
THOUGHTS = (
    "The ball starts on the left and rolls to the right.",
    "In the next view it is near the middle, so it goes on.",
)


@pytest.fixture(scope="module")
def release() -> FutureL1:
    return load(PARITY / "checkpoint")


@pytest.fixture(scope="module", params=["L4_rec1", "L32_rec1"])
def case(request: pytest.FixtureRequest, release: FutureL1) -> SimpleNamespace:
    """One recorded case beside ours: the encoded dialogue, latent targets, states and losses."""
    recorded: dict[str, Any] = EXPECTED["cases"][request.param]
    system = (PARITY / "system_prompt.txt").read_text()
    encoder = release.encoder(
        LatentConfig(image_tokens=(2, 16384), max_latents=recorded["L_max"], span_end="model", system_prompt=system)
    )
    user = user_pieces(RECORD["conversations"][0]["value"], 1)
    assistant = assistant_pieces(THOUGHTS, RECORD["answer"])
    clip = probe(PARITY / "clip.mp4")
    numbers = [key_frame_number(clip.frames, k) for k in (*RECORD["image"], *RECORD["reasoning_image"])]
    images = read_frames(PARITY / "clip.mp4", numbers, clip.reader)
    encoded = encoder.dialogue(user, assistant, {Slot("observed", 0): images[0], Slot("future", 0): images[1]})
    batch, vision = collate([encoded], release.tokens.pad), release.vision()
    latent = batch.ids == release.tokens.latent
    targets = torch.cat([f for f, _ in vision.features(batch.future)])
    inputs = {
        "input_ids": batch.ids,
        "attention_mask": batch.mask,
        "position_ids": batch.positions,
        "mm_encoder_outputs": vision.encoder_outputs(batch.observed),
    }
    with torch.no_grad():
        states, logits = spliced_forward(release.model, inputs, latent, targets, torch.ones_like(latent))
        logits = logits[None]
    learned = batch.labels[:, 1:] != IGNORE
    return SimpleNamespace(
        recorded=recorded, arrays=np.load(PARITY / f"{request.param}.npz"), numbers=numbers, encoded=encoded,
        targets=targets, predictions=states[latent.roll(-1, 1)], logits=logits,
        ce=float(F.cross_entropy(logits[:, :-1][learned], batch.labels[:, 1:][learned])),
    )  # fmt: skip


def test_token_ids_are_the_releases(release: FutureL1) -> None:
    t = release.tokens
    actual = {"<|latent|>": t.latent, "<|latent_start|>": t.latent_start, "<|latent_end|>": t.latent_end}
    assert actual.items() <= EXPECTED["meta"]["ids"].items()


def test_the_text_is_rendered_alike(release: FutureL1, case: SimpleNamespace) -> None:
    assert case.encoded.ids == case.arrays["input_ids"][0].tolist()
    assert case.encoded.labels == case.arrays["labels"][0].tolist()


def test_key_frames_are_the_same(case: SimpleNamespace) -> None:
    row = case.recorded["rows"][0]
    assert case.numbers == row["observed_frames"] + row["future_frames"]


def test_latents_stand_at_the_same_places(release: FutureL1, case: SimpleNamespace) -> None:
    row, latent = case.recorded["rows"][0], release.tokens.latent
    places = [t for t, i in enumerate(case.encoded.ids) if i == latent]
    assert places == row["latent_positions"]
    assert case.encoded.positions[:, places].tolist() == row["latent_position_ids_t_h_w"]
    assert [p.tokens for p in case.encoded.future] == row["latents_per_span"]


def test_rope_positions_are_the_same(case: SimpleNamespace) -> None:
    assert case.encoded.positions.tolist() == case.arrays["position_ids"][:, 0].tolist()


def test_pixels_are_the_same(case: SimpleNamespace) -> None:
    for patches, name in ((case.encoded.observed, "pixel_values_u8"), (case.encoded.future, "pixel_values_latent_u8")):
        pixels = ((patches[0].pixels * 0.5 + 0.5) * 255).round()
        assert (pixels.numpy() == case.arrays[name].astype(np.float32)).all()
    assert case.encoded.observed[0].grid.tolist() == case.recorded["image_grid_thw"][0]
    assert case.encoded.future[0].grid.tolist() == case.recorded["image_grid_thw_latent"][0]


def test_targets_predictions_and_logits_agree(case: SimpleNamespace) -> None:
    for ours, name in ((case.targets, "latent_inputs"), (case.predictions, "latent_predictions")):
        np.testing.assert_allclose(ours.numpy(), case.arrays[name].reshape(ours.shape), atol=1e-4)
    np.testing.assert_allclose(case.logits[0, -1].numpy(), case.arrays["last_token_logits"].reshape(-1), atol=1e-4)


def test_both_losses_agree(case: SimpleNamespace) -> None:
    assert case.ce == pytest.approx(case.recorded["ce_loss"], abs=1e-5)
    mse = float((case.predictions - case.targets).pow(2).mean())
    assert mse == pytest.approx(case.recorded["latent_mse"], abs=1e-5)
    assert case.ce + 0.1 * mse == pytest.approx(case.recorded["loss_lambda_0_1"], abs=1e-5)
    for mistake in ("mse_without_shift", "squared_l2_mean_over_latents"):
        assert abs(mse - case.recorded["negative_controls"][mistake]) > 0.01
