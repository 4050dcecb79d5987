"""Rows that are done leave their batch, and nothing changes for the others."""

from typing import Any

import pytest
import torch

from tests.reference_decoding import reference_decode
from training.model.checkpoint import FutureL1
from training.model.completions import Decoded
from training.model.decode import MIN_ROWS, decode, rows_left
from training.model.encoding import Encoded, Encoder
from training.model.interventions import first_repeated, noise
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling

SAMPLED = Sampling(44, temperature=1.2, latent_std=0.2)
SEEDS = [list(range(8 * number, 8 * number + 8)) for number in range(6)]


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    reader = RowReader(encoder, keep=True)
    texts = {len(prompt.ids): prompt for prompt in map(reader.prompt, rows[:24])}
    return [*texts.values(), *map(reader.prompt, rows[:6])][:6]


def assert_same(result: Decoded, expected: Decoded) -> None:
    """Bit for bit."""
    for name in ("ids", "log_probs", "sampled", "latents", "latent_noise", "finished"):
        assert torch.equal(getattr(result, name), getattr(expected, name)), name


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("intervene", [None, "noise", "first_repeated"])
def test_the_answers_are_those_of_a_batch_that_all_rows_stay_in(
    sft_model: FutureL1, prompts: list[Encoded], padded: bool, intervene: str | None
) -> None:
    """Tokens, probabilities and latents, bit for bit; also where an intervention looks at each row."""
    batch = prompts if padded else prompts[:1] * 6
    assert (len({len(prompt.ids) for prompt in batch}) > 1) == padded
    interventions = {
        "noise": lambda: noise(torch.tensor([seed for of_prompt in SEEDS for seed in of_prompt])),
        "first_repeated": lambda: first_repeated(48),
    }
    spans, vision, sizes = Spans(4, "fixed"), sft_model.vision(), list[int]()
    hook = sft_model.model.lm_head.register_forward_hook(lambda _module, _args, logits: sizes.append(len(logits)))

    def intervention() -> Any:
        return interventions[intervene]() if intervene else None

    result = decode(
        sft_model.model, vision, sft_model.tokens, batch, SAMPLED, spans, SEEDS, intervention=intervention()
    )
    hook.remove()
    assert sizes[0] == 48 and MIN_ROWS <= sizes[-1] < 24 and len(set(sizes)) > 3, "rows leave more than once"
    expected = reference_decode(sft_model, vision, batch, SAMPLED, spans, SEEDS, intervention=intervention())
    assert_same(result, expected)
    assert len(result.latents) > 50


@pytest.mark.parametrize(
    ("n_rows", "done", "expected"),
    [
        (64, [], list(range(64))),
        (64, range(7), list(range(64))),  # too few
        (64, range(8), list(range(8, 64))),
        (64, range(60), [*range(12), 60, 61, 62, 63]),  # done ones fill the least batch
        (16, range(9), list(range(16))),
        (20, range(1, 20), [*range(16)]),
        (64, range(64), []),
        (3, range(3), []),
    ],
)
def test_rows_leave_when_enough_are_done(n_rows: int, done: Any, expected: list[int]) -> None:
    assert rows_left([row in done for row in range(n_rows)]) == expected
