"""The attention that the answer pays to each span, to the frames and to the text."""

from itertools import accumulate
from typing import Any

from evaluation.explorer.probabilities import OPENING
from training.model.attention import attention_mass
from training.model.checkpoint import FutureL1
from training.model.completions import Completion
from training.model.encoding import Encoded, continued
from training.model.masking import FRAME, SPAN, TEXT, Masking
from training.model.vision import FrozenVision


def attention_shares(
    bundle: FutureL1, vision: FrozenVision, prompt: Encoded, completion: Completion, masking: Masking | None
) -> dict[str, Any] | None:
    """The shares of `spans` (by number, from 1), `frames` and `text`, which are 1 together: means over layers, heads
    and the tokens from `<answer>` on.  None where the answer has no such token.
    """
    tokens, tokenizer = bundle.tokens, bundle.processor.tokenizer
    ids = tokens.without_end(completion.ids)
    texts = accumulate(tokenizer.decode([token], skip_special_tokens=False) for token in ids)
    begin = next((place for place, text in enumerate(texts) if OPENING in text), None)
    if begin is None:
        return None
    latents = completion.latents.to(bundle.model.device)
    (masses,) = attention_mass(
        bundle.model, vision, tokens, [continued(prompt, ids)], [latents], [len(prompt.ids)], masking
    )
    shares = masses[:, :, begin:].mean((0, 1, 2)).tolist()
    spans = dict(zip(range(1, 1 + len(tokens.span_sizes(ids))), shares[SPAN:], strict=False))
    return {"spans": spans, "frames": shares[FRAME], "text": shares[TEXT]}
