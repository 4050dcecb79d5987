"""The requests of vLLM's V1 runner, in the order of its batch: which latents are fed, and what may come next.

The mode of a row is read off its output, which vLLM keeps: so a request that is preempted goes on where it was.  Its
latents are kept here.  Names: R rows of the batch, T tokens of a step, V vocabulary, D hidden size.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch

from training.engines.kept import KeptRequests, LatentRequest, SamplingParams, check_new
from training.engines.latent_model import LatentModel
from training.engines.options import Returned, returned
from training.model.modes import next_step
from training.model.sampling import BANNED_LOGIT, Sampling, banned, pick
from training.model.tokens import Tokens


class Request(LatentRequest):
    """A request in the batch, or preempted.  latents: a vector [D] for each placeholder of the output, as it is fed."""

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], output: list[int], model: LatentModel
    ) -> None:
        super().__init__(params, prompt, model, torch.device("cpu"))
        self.sampling = Sampling(1, params.temperature, params.top_p)
        # vLLM counts the seeds of `n` answers on beyond what a tensor holds.
        self.seed = torch.randint(2**62, (1,)) if params.seed is None else torch.tensor([params.seed % 2**63])
        self.prompt_length, self.output = len(prompt), output
        self.latents: list[torch.Tensor] = []

    @property
    def forced(self) -> int | None:
        """The next token of its script; None where the model chooses."""
        script = self.options.script
        return script[len(self.output)] if len(self.output) < len(script) else None


class Rows:
    """All requests of one worker."""

    def __init__(self, model: LatentModel, max_rows: int) -> None:
        self.model, self.tokens, self.spans = model, model.tokens, model.spans
        self._rows: dict[int, Request] = {}
        self._kept: KeptRequests[Request] = KeptRequests(max_rows)
        self._forced: dict[int, int] = {}

    # ---- who is in the batch

    def remove(self, row: int) -> None:
        """A request leaves: it is finished or preempted, which the runner does not say."""
        if request := self._rows.pop(row, None):
            self._kept.park(id(request.output), request)  # the list is the request's as long as it lives

    def add(self, row: int, params: SamplingParams, prompt: Sequence[int], output: list[int]) -> None:
        """A request comes, for the first time or again; `output` is the list to which the runner appends its tokens.

        Raises RuntimeError where the latents of a request are lost.
        """
        self.remove(row)
        request = self._kept.resume(id(output))
        if request is None:
            check_new(self.tokens.latent, output)
            request = self._kept.expect(Request(params, prompt, output, self.model))
        self._rows[row] = request

    def move(self, source: int, target: int, swap: bool) -> None:
        """A request changes its row, and whose row it was leaves; or two change places."""
        if not swap:
            self.remove(target)
        request, other = self._rows.pop(source), self._rows.pop(target, None)
        self._rows[target] = request
        if other is not None:
            self._rows[source] = other

    # ---- one step

    def feed(
        self, input_ids: torch.Tensor, embeddings: torch.Tensor, starts: Sequence[int], lengths: Sequence[int]
    ) -> torch.Tensor:
        """The inputs [T,D] of a step with latents in the place of the placeholders' embeddings.

        Row r has the tokens starts[r]:starts[r + 1], the last ones of its first lengths[r] tokens, prompt included: one
        new token, or all over again after a preemption.
        """
        latent = input_ids == self.tokens.latent
        if not bool(latent.any()):
            return embeddings
        embeddings = embeddings.clone()
        for row, (start, end) in enumerate(pairwise(starts)):
            places = start + latent[start:end].nonzero()[:, 0]
            if len(places) and not (request := self._rows[row]).is_refused:
                before = max(0, lengths[row] - (end - start) - request.prompt_length)
                first = request.output[:before].count(self.tokens.latent)
                vectors = request.latents[first : first + len(places)]
                assert len(vectors) == len(places), f"{len(vectors)} latents for {len(places)} placeholders"
                embeddings[places] = torch.stack(vectors).to(embeddings.dtype)
        return embeddings

    def constrain(self, logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [R,V] after the bans, from the hidden states [R,D] that they are of.

        Inside a span and a script the token is decided here: its row has this token alone, or, where the model has
        chosen to end the span, the end's own log-probability, so that what vLLM reports is 0 for tokens that nobody
        chose.
        """
        t, rows = self.tokens, [self._rows[row] for row in range(len(logits))]
        slots = [open_slot(request.output, t) for request in rows]
        slot = torch.tensor([max(0, s) for s in slots], device=logits.device)
        is_open = torch.tensor([s >= 0 for s in slots], device=logits.device)
        logits = banned(logits.float(), t, is_open, self.spans.opened)
        self._forced = {}
        for row, request in enumerate(rows):
            if request.is_refused:
                self._forced[row] = t.end_of_turn
                continue
            if not request.options.may_open:
                logits[row, [t.latent_start, t.latent_end]] = BANNED_LOGIT
            if slots[row] < 0 and request.forced is None:
                continue
            of_row = slice(row, row + 1)
            picked, _ = pick(logits[of_row], request.sampling, request.seed, len(request.output))
            if request.forced is not None:
                picked = torch.full_like(picked, request.forced)
            may_end = self.spans.end == "model" or request.forced == t.latent_end
            budget = request.options.budget(self.spans)
            step = next_step(t, budget, may_end, slot[of_row], is_open[of_row], picked)
            token = self._forced[row] = int(step.ids)
            if token == t.latent:
                self._keep(request, hidden[of_row], slots[row])
            is_chosen = bool(step.sampled) and request.forced is None
            log_prob = logits[row].log_softmax(-1)[t.latent_end] if is_chosen else torch.zeros(())
            logits[row] = BANNED_LOGIT
            logits[row, t.latent] = (-log_prob.exp()).log1p()
            logits[row, token] = log_prob
        return logits

    def force(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits of rows whose token is decided, with this token alone.  A row where all that a request allows is
        banned ends its turn: the likeliest of its tokens would be a banned one."""
        logits[(logits <= BANNED_LOGIT).all(-1), self.tokens.end_of_turn] = 0.0
        for row, token in self._forced.items():
            logits[row] = BANNED_LOGIT
            logits[row, token] = 0.0
        return logits

    def _keep(self, request: Request, vector: torch.Tensor, slot: int) -> None:
        """Keeps what the next placeholder is fed [1,D].

        Also called while the request is prefilled again chunk by chunk: the last call, of the last chunk, counts.
        """
        del request.latents[request.output.count(self.tokens.latent) :]
        if request.intervention is not None:
            span = request.output.count(self.tokens.latent_start) - 1
            place = (torch.tensor([value], device=vector.device) for value in (span, slot, 0))
            vector = request.intervention(vector, *place)
        request.latents.append(vector[0].clone())

    # ---- latents for the caller

    def take(self, key: str) -> dict[int, Returned]:
        """The latents kept under a key, by the number of the answer and by span (options.encode_span); they are kept no
        longer."""
        sizes = self.tokens.span_sizes
        return {r.number: returned(r.latents, sizes(r.output)) for r in self._kept.take(key)}


def open_slot(output: Sequence[int], tokens: Tokens) -> int:
    """Latents that the open span at the end of an output has; -1 where none is open."""
    at = len(output) - 1
    while at >= 0 and output[at] == tokens.latent:
        at -= 1
    return len(output) - 1 - at if at >= 0 and output[at] == tokens.latent_start else -1
