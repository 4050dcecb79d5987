"""The splice: vectors in place of embeddings, with real ids, and never one too few."""

import pytest
import torch

from training.model.checkpoint import FutureL1
from training.model.splice import splice_latents, spliced_forward


@pytest.fixture
def ids(base: FutureL1) -> torch.Tensor:
    t = base.tokens
    two = [10, t.latent_start, t.latent, t.latent, t.latent_end, 12]
    one = [10, 11, t.latent_start, t.latent, t.latent_end, 12]
    return torch.tensor([two, one])


def forward(bundle: FutureL1, ids: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(ids.shape[1]).expand(3, len(ids), -1)
    inputs = {"input_ids": ids, "position_ids": positions}
    latent = ids == bundle.tokens.latent
    return spliced_forward(bundle.model, inputs, latent, latents, torch.zeros_like(latent))[0]


def test_the_model_sees_the_vectors_and_the_rest_unchanged(base: FutureL1, ids: torch.Tensor) -> None:
    latents = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    embed = base.model.get_input_embeddings()
    expected = embed(ids).detach().clone()
    expected[0, 2:4], expected[1, 3] = latents[:2], latents[2]
    with splice_latents(base.model, ids == base.tokens.latent, latents):
        embeddings = embed(ids)
    assert torch.equal(embeddings, expected)
    assert not torch.equal(embed(ids), expected), "the splice must end with its context"


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_lost_latent_never_passes(base: FutureL1, ids: torch.Tensor, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} latents for 3 latent positions"):
        forward(base, ids, torch.zeros(count, 128))


def test_gradients_reach_the_latents(base: FutureL1, ids: torch.Tensor) -> None:
    latents = torch.zeros(3, 128).normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
    states = forward(base, ids, latents)
    (gradient,) = torch.autograd.grad(states[0, -1].pow(2).sum(), latents)
    assert (gradient[:2].norm(dim=-1) > 0).all(), "both latents of the first row move its last state"
    assert (gradient[2] == 0).all(), "the other row's latent does not"


def test_the_model_is_called_with_the_real_ids(base: FutureL1, ids: torch.Tensor) -> None:
    embeddings: list[torch.Tensor] = []
    hook = base.model.register_forward_pre_hook(lambda _m, _a, kw: embeddings.append(kw["input_ids"]), with_kwargs=True)
    forward(base, ids, torch.zeros(3, 128))
    hook.remove()
    assert torch.equal(embeddings[0], ids)


def test_later_positions_feel_a_latent_and_earlier_ones_do_not(base: FutureL1, ids: torch.Tensor) -> None:
    with torch.no_grad():
        plain, moved = (forward(base, ids, torch.full((3, 128), value)) for value in (0.0, 1.0))
    change = (plain - moved).abs().amax(-1)
    assert (change[0, :2] == 0).all() and (change[1, :3] == 0).all()
    assert (change[0, 2:] > 0).all() and (change[1, 3:] > 0).all()
