"""A request's options about its latents, as they come from a client that nobody trusts."""

import base64

import pytest
import torch

from training.engines.latent_model import LatentModel
from training.engines.options import (
    MAX_SCRIPT,
    MAX_SPANS,
    PREFIX,
    LatentOptions,
    decode_span,
    encode_span,
    latent_options,
    returned,
)
from training.model.modes import Spans
from training.model.tokens import Tokens

LATENT, START, END, IMAGE, VIDEO, TEXT = range(6)
TOKENS = Tokens(LATENT, START, END, IMAGE, VIDEO, end_of_turn=6, pad=7)


def test_fields_of_other_plugins_are_left_alone() -> None:
    assert latent_options(None) == latent_options({"kv_role": "both"}) == LatentOptions()
    assert latent_options({f"{PREFIX}latents": "noise", f"{PREFIX}noise_seed": 3}).noise_seed == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent": "zeros"}, "future_l1_latent: Extra inputs are not permitted"),
        ({"latents": "ones"}, "future_l1_latents: Input should be 'own'"),
        ({"max_latents": -1}, "future_l1_max_latents: Input should be greater"),
        ({"max_latents": 2**63}, "future_l1_max_latents: Input should be less"),
        ({"latents": "vectors"}, "`vectors` are for latents"),
        ({"vectors": ["AAA="]}, "`vectors` are for latents"),
        ({"latents": "vectors", "vectors": ["AAA="] * (MAX_SPANS + 1)}, "future_l1_vectors: Tuple should have at most"),
        ({"script": [1] * (MAX_SCRIPT + 1)}, "future_l1_script: Tuple should have at most"),
        ({"script": [-1]}, "future_l1_script: Input should be greater"),
        ({"script": [2**63]}, "future_l1_script: Input should be less"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^vllm_xargs: .*{message}"):
        latent_options({f"{PREFIX}{name}": value for name, value in fields.items()})


def test_latents_travel_as_they_are() -> None:
    latents = torch.randn(3, 4) * 1e6
    assert torch.equal(decode_span(encode_span(latents), 4), latents)
    assert torch.equal(decode_span(encode_span(latents.bfloat16()), 4), latents.bfloat16().float())
    with pytest.raises(ValueError, match="not finite: the model has diverged"):
        encode_span(torch.tensor([[torch.nan, 0.0]]))


@pytest.mark.parametrize(
    "span",
    ["", "?", base64.b64encode(b"abc").decode(), encode_span(torch.ones(1, 3)),
     base64.b64encode(b"\x00\x00\xc0\x7f" * 4).decode()],
    ids=["empty", "no base64", "half a number", "another width", "not a number"],
)  # fmt: skip
def test_a_span_that_is_none_is_refused(span: str) -> None:
    with pytest.raises(ValueError, match="a span of latents"):
        decode_span(span, 4)


def test_latents_that_are_no_numbers_are_a_sentence() -> None:
    assert returned([torch.ones(2), torch.ones(2)], [2, 0]) == {"latents": [encode_span(torch.ones(2, 2)), ""]}
    assert returned([torch.full((2,), torch.inf)], [1]) == {
        "latents_error": "latents are not finite: the model has diverged"
    }


def test_an_empty_span_may_be_sent_back_and_feeds_zeros() -> None:
    options = LatentOptions(latents="vectors", vectors=("", encode_span(torch.ones(1, 2))))
    intervention = options.intervention(2, 0, torch.device("cpu"))
    assert intervention is not None
    fed = intervention(torch.full((2, 2), 5.0), torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long), torch.arange(2))
    assert fed.tolist() == [[0.0, 0.0], [1.0, 1.0]]


MODEL_ENDS, FIXED = (LatentModel(TOKENS, Spans(2, end), 2, 8) for end in ("model", "fixed"))


@pytest.mark.parametrize(
    ("model", "script"),
    [
        (MODEL_ENDS, [TEXT, START, END, TEXT, START, LATENT, END, START, LATENT, LATENT, END, START]),
        (FIXED, [START, LATENT, LATENT, END, TEXT, START, LATENT, END, START, LATENT]),
    ],
)
def test_a_script_may_hold_the_spans_that_the_checkpoint_has(model: LatentModel, script: list[int]) -> None:
    LatentOptions(script=tuple(script)).check_script(model)


@pytest.mark.parametrize(
    ("model", "script", "at"),
    [
        (FIXED, [TEXT, LATENT], 1),
        (FIXED, [IMAGE], 0),
        (FIXED, [TEXT, 8], 1),
        (FIXED, [START, LATENT, LATENT, LATENT], 3),
        (FIXED, [START, LATENT, TEXT], 2),
        (MODEL_ENDS, [START, LATENT, LATENT, TEXT], 3),
        (MODEL_ENDS, [START, START], 1),
    ],
)
def test_a_script_that_no_answer_begins_with_is_refused(model: LatentModel, script: list[int], at: int) -> None:
    with pytest.raises(ValueError, match=f"future_l1_script: token {script[at]} cannot stand at {at}: ids are below 8"):
        LatentOptions(script=tuple(script)).check_script(model)


def test_the_spans_of_a_script_are_of_the_budget_of_its_request() -> None:
    LatentOptions(script=(START, *[LATENT] * 3, END), max_latents=3).check_script(FIXED)
    with pytest.raises(ValueError, match="which have at most 1 of them"):
        LatentOptions(script=(START, LATENT, LATENT, END), max_latents=1).check_script(FIXED)
