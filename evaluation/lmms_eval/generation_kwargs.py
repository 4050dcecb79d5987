"""A task's `generation_kwargs`, as our decoder takes them."""

from collections.abc import Mapping
from typing import Any

from training.model.sampling import Sampling

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "no_repeat_ngram_size": (None, 0),
}
"""Settings of transformers and of servers that would change the answers, and that the decoder does not have: values
that change nothing."""
DEFAULT_STOP = "\n\n"
"""The harness's own stop for tasks that name none.  No chat model of the harness stops there: reasoning has
paragraphs."""


def sampling(kwargs: Mapping[str, Any], max_new_tokens: int) -> Sampling:
    """Tokens, temperature and top-p; `max_new_tokens` where the task names none.  Greedy where it does not sample.

    Raises ValueError for a setting that would change the answers, and that the decoder does not have.
    """
    for name, values in NEUTRAL.items():
        if kwargs.get(name) not in values:
            raise ValueError(f"generation_kwargs: {name}={kwargs[name]} is not decoded with latents; leave it out")
    temperature = float(kwargs.get("temperature") or 0.0)
    if not kwargs.get("do_sample", temperature > 0):
        temperature = 0.0
    return Sampling(int(kwargs.get("max_new_tokens") or max_new_tokens), temperature, float(kwargs.get("top_p") or 1.0))


def until(kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts at which an answer ends."""
    stops = kwargs.get("until") or ()
    return tuple(stop for stop in ([stops] if isinstance(stops, str) else stops) if stop and stop != DEFAULT_STOP)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first of the stops."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
