"""A request's options about its latents, as they come from a client that nobody trusts."""

import base64

import pytest
import torch

from training.engines.options import MAX_SPANS, PREFIX, LatentOptions, decode_span, encode_span, latent_options


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
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^vllm_xargs: .*{message}"):
        latent_options({f"{PREFIX}{name}": value for name, value in fields.items()})


def test_latents_travel_as_float16() -> None:
    latents = torch.randn(3, 4)
    assert torch.equal(decode_span(encode_span(latents), 4), latents.half().float())
    with pytest.raises(ValueError, match=r"not finite in float16: the largest is 1e\+06"):
        encode_span(torch.tensor([[1e6, 0.0]]))


@pytest.mark.parametrize(
    "span",
    ["", "?", base64.b64encode(b"abc").decode(), encode_span(torch.ones(1, 3)),
     base64.b64encode(b"\x00\x7e" * 4).decode()],
    ids=["empty", "no base64", "half a number", "another width", "not a number"],
)  # fmt: skip
def test_a_span_that_is_none_is_refused(span: str) -> None:
    with pytest.raises(ValueError, match="a span of latents"):
        decode_span(span, 4)
