"""The choice of the next token: sampling, and the tokens that may not be chosen.

Names: B rows, V vocabulary.
"""

from dataclasses import dataclass

import torch

from training.model.randomness import TOKENS, uniform
from training.model.tokens import Tokens

BANNED_LOGIT = -1e9


@dataclass(frozen=True)
class Sampling:
    """Sampling of tokens and latents; temperature 0 is greedy.  `latent_std`: sigma of the Gaussian around the
    hidden state.

    Raises ValueError for values out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    latent_std: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.latent_std < 0:
            wanted = "max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1 and latent_std >= 0"
            raise ValueError(f"sampling needs {wanted}; found {self}")


def pick(logits: torch.Tensor, sampling: Sampling, seeds: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token [B] and its log-probability under the tempered distribution (before the top-p cut).

    Sampled by inverting the distribution over the vocabulary in its own order (sorted by probability, rounding could
    exchange two tokens), in whole steps of 2**-40, whose sums are exact: a token of probability 0 is never met.
    """
    if sampling.temperature == 0:
        log_probs = logits.log_softmax(-1)
        picked = logits.argmax(-1)
    else:
        log_probs = (logits / sampling.temperature).log_softmax(-1)
        probs = log_probs.exp()
        if sampling.top_p < 1:
            ordered, index = probs.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the first token is always kept
            probs = torch.zeros_like(probs).scatter(-1, index, ordered.masked_fill(beyond, 0.0))
        reached = (probs * 2.0**40).long().cumsum(-1)
        threshold = (uniform(seeds, TOKENS, step, 1) * reached[:, -1:]).long()
        picked = torch.searchsorted(reached, threshold, right=True)[:, 0]
    return picked, log_probs.gather(-1, picked.unsqueeze(-1))[:, 0]


def banned(logits: torch.Tensor, tokens: Tokens, in_span: torch.Tensor, spans: bool = True) -> torch.Tensor:
    """Logits [n,V] after the decoder's bans: no placeholders, except `<|latent|>` inside a span (in_span [n]).

    Without `spans` the markers of spans are banned, too.
    """
    latent = logits[:, tokens.latent].where(in_span, BANNED_LOGIT)
    logits = logits.clone()
    markers = () if spans else (tokens.latent_start, tokens.latent_end)
    for token in (*tokens.placeholders, *markers):
        logits[:, token].fill_(BANNED_LOGIT)  # a list of ids as an index would be copied to the device each time
    logits[:, tokens.latent] = latent
    return logits


def is_banned(
    picked: torch.Tensor, tokens: Tokens, in_span: torch.Tensor, spans: torch.Tensor
) -> torch.Tensor:
    """Which of these tokens [n] are banned, although the likeliest where an engine allows no other; in_span, spans [n]
    as in `banned`."""
    is_placeholder, is_marker = torch.zeros_like(in_span), torch.zeros_like(in_span)
    for token in tokens.placeholders:
        is_placeholder |= (picked == token) & ~(in_span & (token == tokens.latent))
    for token in (tokens.latent_start, tokens.latent_end):
        is_marker |= (picked == token) & ~in_span
    return is_placeholder | (is_marker & ~spans)
