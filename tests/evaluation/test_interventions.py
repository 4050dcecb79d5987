"""What stands in for a model's own latents: it changes latents, all of them, and nothing else."""

from typing import Any

import pytest
import torch

from evaluation import interventions
from training.model.checkpoint import FutureL1
from training.model.decode import Decoded, Sampling, Spans, decode
from training.model.encoding import Encoder
from training.model.rows import RowReader

LATENT, BUDGET = 9, 3


def decoded(ids: list[list[int]], latents: list[float]) -> Decoded:
    """Answers whose k-th latent is the vector (value, value)."""
    vectors = torch.tensor(latents)[:, None].expand(-1, 2)
    nothing = torch.zeros(len(ids), len(ids[0]))
    done = torch.ones(len(ids), dtype=torch.bool)
    return Decoded(torch.tensor(ids), nothing, nothing.bool(), vectors, vectors[:, 0], done, 0.0, 0.0)


# rows: two spans of 3 and 1, none, one span of 2, one span of 3
PLAIN = decoded(
    [[1, 9, 9, 9, 1, 9], [1, 1, 1, 1, 1, 1], [1, 9, 9, 1, 1, 1], [9, 9, 9, 1, 1, 1]], [1, 2, 3, 4, 5, 6, 7, 8, 9]
)


def at(span: int, slot: int) -> list[float]:
    """What each of the four rows is fed at this place instead of its own vector, -1."""
    replace = interventions.other_item(PLAIN, LATENT, BUDGET)
    fed = replace(torch.full((4, 2), -1.0), torch.full((4,), span), torch.full((4,), slot))
    return fed[:, 0].tolist()


def test_another_items_latents_are_the_next_answers_that_has_any() -> None:
    assert at(0, 0) == [5, 5, 7, 1]
    assert at(0, 1) == [6, 6, 8, 2]


def test_a_shorter_donor_lends_its_last_span_and_latent() -> None:
    assert at(0, 2) == [6, 6, 9, 3], "the donor of rows 0 and 1 has only two latents"
    assert at(1, 0) == [5, 5, 7, 4], "only row 0, the donor of row 3, has a second span"
    assert at(5, 2) == [6, 6, 9, 4]


def test_rows_in_text_mode_are_no_obstacle() -> None:
    assert len(at(-1, -1)) == 4


def test_without_another_item_the_latents_stay() -> None:
    lonely = decoded([[1, 9, 9, 9], [1, 1, 1, 1]], [1, 2, 3])
    replace = interventions.other_item(lonely, LATENT, BUDGET)
    own = torch.full((2, 2), -1.0)
    assert torch.equal(replace(own, torch.zeros(2).long(), torch.zeros(2).long()), own)


def test_noise_has_the_norm_of_what_it_replaces() -> None:
    own = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.5]])
    place = torch.zeros(2).long()
    first, again = (interventions.noise(torch.tensor([1, 2]))(own, place, place) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=-1), torch.tensor([5.0, 0.5]))
    assert not torch.allclose(first, own)


def test_noise_depends_on_the_answers_seed_and_the_latents_place() -> None:
    own, noise = torch.ones(3, 8), interventions.noise
    spans, slots = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    batch = noise(torch.tensor([7, 7, 7]))(own, spans, slots)
    for row in range(3):
        alone = noise(torch.tensor([7]))(own[:1], spans[row : row + 1], slots[row : row + 1])
        assert torch.equal(alone[0], batch[row])
    other = noise(torch.tensor([8, 7, 7]))(own, spans, slots)
    assert torch.equal(other[1:], batch[1:])
    different = [batch[0], batch[1], batch[2], other[0]]
    assert all(not torch.allclose(a, b) for i, a in enumerate(different) for b in different[:i])


@pytest.mark.parametrize("name", ["zeros", "noise", "other_item"])
def test_only_what_follows_a_replaced_latent_changes(
    taught: FutureL1, encoder: Encoder, rows: list[dict[str, Any]], name: str
) -> None:
    reader = RowReader(encoder, keep=False)
    prompts = [reader.prompt(row) for row in rows[:6]]

    def answer(intervention: Any = None) -> Decoded:
        return decode(
            taught.model, taught.vision(), taught.tokens, prompts, Sampling(40), Spans(4, "fixed"), [[0]] * 6,
            intervention=intervention,
        )  # fmt: skip

    plain = answer()
    chosen = {
        "zeros": interventions.zeros(),
        "noise": interventions.noise(torch.arange(6)),
        "other_item": interventions.other_item(plain, taught.tokens.latent, 4),
    }[name]
    replaced = answer(chosen)
    assert len(plain.latents) > 0
    for before, after in zip(plain.ids.tolist(), replaced.ids.tolist(), strict=True):
        begin = before.index(taught.tokens.latent_start) if taught.tokens.latent_start in before else len(before)
        assert before[: begin + 6] == after[: begin + 6], "the text up to the first span, and its fixed length"
    if name == "zeros":
        assert (replaced.latents == 0).all()
    else:
        first = min(len(plain.latents), len(replaced.latents))
        assert not torch.allclose(plain.latents[:first], replaced.latents[:first], atol=1e-2)
