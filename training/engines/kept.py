"""What the requests of both runners have in common; those that left the batch but may come back, and those whose
latents somebody will take.

vLLM's runners say of a finished request what they say of a preempted one: that it leaves.
"""

import logging
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from training.engines.latent_model import LatentModel
from training.engines.options import LatentOptions, latent_options
from training.model.interventions import Intervention
from training.model.tokens import LATENT

LATENTS_IN_PROMPT = f"a prompt holds {LATENT}, whose vectors are gone: leave out the spans of earlier answers"
PARKED = 2
"""Requests that left are kept until this many times as many as the batch holds have left after them: vLLM resumes
preempted ones before it admits others.  So latents of those that are finished take no more memory than two batches."""
MAX_RETURNS = 1024
"""Keys whose latents nobody takes; then the oldest are dropped, but none of a request that may be in the batch."""
_LOGGER = logging.getLogger(__name__)


class SamplingParams(Protocol):
    """What is read of vLLM's."""

    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int
    extra_args: dict[str, Any] | None


class LatentRequest:
    """What a request of either runner asks for.

    is_refused: its prompt holds latents, or its options are none.  It gets an empty answer, and the log the reason: an
    error in a worker would end the engine, and a client can get past the server's own checks (a placeholder that the
    chat template puts together from parts).
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], model: LatentModel, device: torch.device
    ) -> None:
        self.options, self.number, self.is_refused = LatentOptions(), 0, False
        self.intervention: Intervention | None = None
        try:
            self.options = latent_options(params.extra_args)
            self.number = self.options.answer_number(params.seed)
            self.intervention = self.options.intervention(model.width, self.number, device)
            self.options.check_script(model)
            if model.tokens.latent in prompt:
                raise ValueError(LATENTS_IN_PROMPT)
        except ValueError as error:
            self.is_refused = True
            _LOGGER.warning("a request gets an empty answer: %s", error)


RequestType = TypeVar("RequestType", bound=LatentRequest)


class KeptRequests(Generic[RequestType]):
    """Requests that are not in the batch, by what identifies them as long as they live."""

    def __init__(self, max_rows: int) -> None:
        self._limit = PARKED * max_rows
        self._parked: OrderedDict[Hashable, RequestType] = OrderedDict()
        self._returns: OrderedDict[str, list[RequestType]] = OrderedDict()

    def park(self, name: Hashable, request: RequestType) -> None:
        """A request leaves the batch."""
        self._parked[name] = request
        if len(self._parked) > self._limit:
            self._parked.popitem(last=False)

    def resume(self, name: Hashable) -> RequestType | None:
        """A request comes (back) into the batch; None for a new one."""
        return self._parked.pop(name, None)

    def expect(self, request: RequestType) -> RequestType:
        """A new request, whose latents may be taken later."""
        if key := request.options.return_key:
            self._returns.setdefault(key, []).append(request)
            if len(self._returns) > max(MAX_RETURNS, self._limit):
                self._returns.popitem(last=False)
        return request

    def take(self, key: str) -> list[RequestType]:
        """The requests whose latents are to be returned under a key; a second time none."""
        return self._returns.pop(key, [])


def check_new(latent: int, output: Sequence[int]) -> None:
    """Raises RuntimeError for a request that is not new: its latents were dropped."""
    if latent in output:
        raise RuntimeError("a request comes back whose latents were dropped: let fewer requests run at once, or give "
                           "the cache more memory, so that fewer are preempted")  # fmt: skip
