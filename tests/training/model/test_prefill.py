"""Prompts that begin alike: what they share is processed once, and nothing else comes out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor, Qwen3VLForConditionalGeneration

from training.model import prefill as prefilling
from training.model.checkpoint import FutureL1
from training.model.decode import decode
from training.model.encoding import Encoded, Encoder
from training.model.latent_config import LatentConfig
from training.model.modes import Spans
from training.model.prefill import Prefilled, plan_prefixes, prefill
from training.model.sampling import Sampling
from training.model.tokens import add_latent_tokens
from training.model.vision import FrozenVision, Patches
from training.tiny import BASE

LATENT_CONFIG = LatentConfig(
    image_tokens=(4, 64), max_latents=4, span_end="fixed", system_prompt="Watch closely and think ahead."
)


@pytest.fixture(scope="module")
def stacked() -> FutureL1:
    """An untrained model with DeepStack after both layers of its tower, as the real ones have it."""
    config = AutoConfig.from_pretrained(BASE)
    config.vision_config.deepstack_visual_indexes = [0, 1]
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).eval()
    processor = AutoProcessor.from_pretrained(BASE)
    return FutureL1(model, processor, add_latent_tokens(model, processor.tokenizer), LATENT_CONFIG)


@pytest.fixture(scope="module")
def encoder(stacked: FutureL1) -> Encoder:
    return stacked.encoder(LATENT_CONFIG)


@pytest.fixture(scope="module")
def pads(stacked: FutureL1) -> tuple[int, int]:
    return stacked.tokens.image, stacked.tokens.video


def noise_image(encoder: Encoder, number: int, size: tuple[int, int] = (64, 64), most: int = 64) -> Patches:
    """An image of noise, always the same for a number."""
    frame = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
    return encoder.patch(frame, 4, most)


def row(encoder: Encoder, number: int, observed: int, future: int, question: str) -> tuple[Encoded, Encoded]:
    """The plain and the hinted prompt of one row, each with its own copies of the observed frames."""

    def prompt(hints: list[Patches]) -> Encoded:
        pieces: list[str | Patches] = []
        for k in range(observed):
            pieces += [f"frame_{k + 1}", noise_image(encoder, 100 * number + k, (64, 64 + 16 * (number % 3)))]
        return encoder.prompt([*pieces, *hints, question])

    return prompt([]), prompt([noise_image(encoder, 100 * number + 50 + k, most=4) for k in range(future)])


@pytest.fixture(scope="module")
def grouped_prompts(encoder: Encoder) -> tuple[list[Encoded], list[str]]:
    """Three rows whose prompts share beginnings of different lengths, and prompts of others that share nothing."""
    rows = [
        row(encoder, 0, 1, 1, "Which colour is next?"),
        row(encoder, 1, 3, 2, "What will the marble do after it has passed the white tile?"),
        row(encoder, 2, 2, 3, "And then?"),
    ]
    pair = encoder.patch_video([np.full((64, 64, 3), 9, np.uint8)] * 2, [0, 5], 10.0, 4, 16)
    alone = [encoder.prompt(["Say something."]), encoder.prompt([*pair, noise_image(encoder, 7), "What is this?"])]
    prompts = [rows[0][1], alone[0], rows[1][0], rows[2][1], rows[0][0], rows[1][1], alone[1], rows[2][0]]
    return prompts, ["a", "alone", "b", "c", "a", "b", "other", "c"]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second pass costs nothing."""
    monkeypatch.setattr(prefilling, "SECOND_PASS", 0)


@contextmanager
def spans_now_and_then(stacked: FutureL1) -> Iterator[None]:
    """Within the context the untrained model opens a span wherever some other token's logit is positive."""

    def lift(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., stacked.tokens.latent_start] = logits.amax(-1) + 3 * logits[..., 40]
        return logits

    hook = stacked.model.lm_head.register_forward_hook(lift)
    try:
        yield
    finally:
        hook.remove()


def begin(stacked: FutureL1, prompts: list[Encoded], groups: Any = None) -> Prefilled:
    with torch.no_grad():
        return prefill(stacked.model, FrozenVision(stacked.model), stacked.tokens, prompts, groups)


# ---- nothing else comes out


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("chosen", [range(8), [2, 5], [4, 0, 1], [3, 7, 3, 7], [6, 0, 4]])
def test_a_shared_beginning_changes_no_state(
    stacked: FutureL1, grouped_prompts: tuple[list[Encoded], list[str]], pads: tuple[int, int], chosen: list[int]
) -> None:
    prompts, groups = [grouped_prompts[0][i] for i in chosen], [grouped_prompts[1][i] for i in chosen]
    assert plan_prefixes(prompts, groups, pads) is not None
    shared, separate = begin(stacked, prompts, groups), begin(stacked, prompts)
    torch.testing.assert_close(shared.hidden, separate.hidden, atol=1e-4, rtol=0)
    assert torch.equal(shared.position, separate.position)
    assert shared.mask is not None
    assert shared.mask.sum(1).tolist() == [len(p.ids) for p in prompts]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("sampling", [Sampling(24), Sampling(24, temperature=1.2, top_p=0.9, latent_std=0.1)])
def test_answers_are_those_of_prompts_prefilled_apart(
    stacked: FutureL1, grouped_prompts: tuple[list[Encoded], list[str]], sampling: Sampling
) -> None:
    prompts, groups = grouped_prompts
    seeds = [list(range(10 * i, 10 * i + 1 + i % 3)) for i in range(len(prompts))]
    vision, spans = FrozenVision(stacked.model), Spans(4, "fixed")
    with spans_now_and_then(stacked):
        shared, separate = (
            decode(stacked.model, vision, stacked.tokens, prompts, sampling, spans, seeds, sharing)
            for sharing in (groups, None)
        )
    latent = shared.ids == stacked.tokens.latent
    assert (latent.any(0) & ~latent.all(0)).any(), "some step must mix text and latents"
    assert torch.equal(shared.ids, separate.ids)
    torch.testing.assert_close(shared.log_probs, separate.log_probs, atol=1e-4, rtol=0)
    torch.testing.assert_close(shared.latents, separate.latents, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("always")
def test_a_shared_beginning_is_processed_once(stacked: FutureL1, encoder: Encoder) -> None:
    plain, hinted = row(encoder, 5, 2, 2, "What next?")
    passes: list[tuple[int, int]] = []
    model = stacked.model.model.language_model
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: passes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    try:
        begin(stacked, [plain, hinted], ["row", "row"])
    finally:
        hook.remove()
    common = plain.ids.index(stacked.tokens.image) + plain.observed[0].tokens  # up to the end of the second image
    common = plain.ids.index(stacked.tokens.image, common) + plain.observed[1].tokens + 1
    assert passes == [(1, common), (2, len(hinted.ids) - common)]


# ---- what is shared


@pytest.mark.usefixtures("always")
def test_only_what_is_really_alike_is_shared(encoder: Encoder, pads: tuple[int, int]) -> None:
    first, second = noise_image(encoder, 1), noise_image(encoder, 2)
    wide, other = noise_image(encoder, 3, (64, 96)), noise_image(encoder, 4)

    def common(a: list[Any], b: list[Any]) -> tuple[int, int]:
        """Tokens that the two share, and where the second image of the first prompt begins."""
        one, two = encoder.prompt(a), encoder.prompt(b)
        starts = [begin for begin, _ in prefilling._runs(one, pads)]
        plan = plan_prefixes([one, two], ["x", "x"], pads)
        assert plan is not None and plan.groups == [0, 0]
        return plan.lengths[0], starts[1]

    question = "and a question"
    length, start = common([first, "then", second, question], [first, "then", other, question])
    assert length == start, "images of one shape are told apart by their content"
    length, start = common([first, "then", second, question], [first, "then", wide, question])
    assert length == start, "an image is never cut"
    length, start = common([first, "then", second, question], [first, "now", second, question])
    assert length < start, "the text before it differs"
    length, start = common([first, "then", second, question], [first, "then", second, question])
    assert length == len(encoder.prompt([first, "then", second, question]).ids) - 1, "the last token stays"


@pytest.mark.usefixtures("always")
def test_prompts_that_are_called_a_group_and_are_none_share_nothing(
    stacked: FutureL1, encoder: Encoder, pads: tuple[int, int]
) -> None:
    bare = stacked.encoder(LATENT_CONFIG.model_copy(update={"system_prompt": None}))
    moved = encoder.prompt([noise_image(encoder, 1), "What next?"])
    moved = replace(moved, positions=moved.positions + 3)
    others = [encoder.prompt([noise_image(encoder, 1), "What next?"]), bare.prompt(["user"]), moved]
    assert plan_prefixes([others[0], moved], ["x", "x"], pads) is None, "rope positions are part of what is cached"
    shared, separate = begin(stacked, others, ["x", "x", "x"]), begin(stacked, others)
    torch.testing.assert_close(shared.hidden, separate.hidden, atol=1e-4, rtol=0)


def test_a_second_pass_must_pay(encoder: Encoder, pads: tuple[int, int]) -> None:
    """Two passes over 8 short rows save few tokens; over 8 rows with long beginnings they save many."""

    def plan(rows: int, observed: int) -> Any:
        pairs = [row(encoder, number, observed, 1, "What next?") for number in range(rows)]
        return plan_prefixes([p for pair in pairs for p in pair], [i for i in range(rows) for _ in range(2)], pads)

    assert plan(1, 1) is None
    assert plan(8, 4) is not None
    pairs = [row(encoder, number, 4, 1, "What next?") for number in range(8)]
    assert plan_prefixes([plain for plain, _ in pairs], list(range(8)), pads) is None, "one prompt shares nothing"


@pytest.mark.usefixtures("always")
def test_the_plan_counts_padding(encoder: Encoder, pads: tuple[int, int]) -> None:
    """A long beginning that only one of many groups has would lengthen everybody's first pass."""
    pairs = [row(encoder, number, 1, 1, "What next?") for number in (0, 3, 6)] + [row(encoder, 9, 2, 0, "What next?")]
    prompts, groups = [p for pair in pairs for p in pair], [i for i in range(4) for _ in range(2)]
    plan = plan_prefixes(prompts, groups, pads)
    assert plan is not None
    assert len(set(plan.lengths)) == 1, "the fourth row's beginning is cut where those of the others end"


@pytest.mark.usefixtures("always")
def test_a_group_that_shares_little_is_taken_apart(encoder: Encoder, pads: tuple[int, int]) -> None:
    """Its short beginning would leave long rests, and everybody's second pass is as long as the longest rest."""
    pairs = [row(encoder, number, 3, 1, "What next?") for number in (0, 3, 6)]
    images = [noise_image(encoder, 800), "What next?"]
    strangers = [encoder.prompt([noise_image(encoder, 700 + k), *images]) for k in range(2)]
    prompts, groups = [*(p for pair in pairs for p in pair), *strangers], [0, 0, 1, 1, 2, 2, 3, 3]
    plan = plan_prefixes(prompts, groups, pads)
    assert plan is not None
    assert plan.groups == [0, 0, 1, 1, 2, 2, 3, 4]
    shortest = min(len(p.ids) - plan.lengths[group] for p, group in zip(strangers, plan.groups[6:], strict=True))
    assert shortest >= 1
