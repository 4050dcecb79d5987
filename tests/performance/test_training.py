"""One SFT step with the frozen tower's features in memory, and with every frame encoded again."""

from typing import Any

import torch

from tests.performance.conftest import Compare
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoder, collate
from training.model.forward import last_hidden_state
from training.model.rows import RowReader
from training.model.vision import FrozenVision


def test_a_step_with_features_kept_against_encoded_again(
    taught: FutureL1, encoder: Encoder, rows: list[dict[str, Any]], compare: Compare
) -> None:
    reader = RowReader(encoder, keep=True)
    batch = collate([reader.dialogue(row, spans=True) for row in rows], taught.tokens.pad)
    latent = batch.ids == taught.tokens.latent
    weights = [p for name, p in taught.model.named_parameters() if ".visual." not in name]

    def step(vision: FrozenVision) -> tuple[torch.Tensor, ...]:
        targets = torch.cat([feature for feature, _ in vision.features(batch.future)])
        inputs = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "position_ids": batch.positions,
            "mm_encoder_outputs": vision.encoder_outputs(batch.observed),
        }
        states = last_hidden_state(taught.model, inputs, latent, targets)
        loss = (states[latent.roll(-1, 1)] - targets).pow(2).mean()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    kept, none = taught.vision(cache_bytes=2**28), taught.vision()
    for ours, theirs in zip(step(kept), step(none), strict=True):
        torch.testing.assert_close(ours, theirs)
    compare("an SFT step, frames encoded again against kept", lambda: step(none), lambda: step(kept), len(rows))
