"""The requests of vLLM's V2 runner, whose tokens stay on the device: each has a slot, and its rows come and go.

A step does not wait for the device: what was emitted and fed is read from it in every COLLECT_EVERY-th step, and when
somebody wants it.  Names: R slots, B rows of a step, T tokens of a step, V vocabulary, D hidden size.
"""

from bisect import bisect_left
from collections.abc import Sequence

import torch

from training.engines.kept import KeptRequests, LatentRequest, SamplingParams, check_new
from training.engines.latent_model import LatentModel
from training.engines.options import Returned, returned
from training.engines.rows import open_slot
from training.model.modes import MODEL_CHOICE, next_step
from training.model.sampling import BANNED_LOGIT, banned, is_banned
from training.model.tokens import Tokens

COLLECT_EVERY = 16


class Request(LatentRequest):
    """A request in the batch, or preempted.

    output, latents: its tokens as far as they are read, and a vector [D] for each placeholder among them, on the CPU.
    prompt: its length.  prefilled: the places of placeholders that are prefilled again, after a preemption.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], model: LatentModel, device: torch.device
    ) -> None:
        super().__init__(params, prompt, model, device)
        self.prompt, self.max_tokens = len(prompt), params.max_tokens
        self.output: list[int] = []
        self.latents: list[torch.Tensor] = []
        self.prefilled: list[int] = []

    def resume(self, ids: Sequence[int], tokens: Tokens) -> None:
        """The request is prefilled again with these tokens, all that counted until it was preempted."""
        self.output = list(ids[self.prompt :])
        latents = self.output.count(tokens.latent)
        assert latents <= len(self.latents), f"{len(self.latents)} latents for {latents} placeholders"
        del self.latents[latents:]
        self.prefilled = [self.prompt + place for place, token in enumerate(self.output) if token == tokens.latent]

    def answer(self, tokens: Tokens) -> list[int]:
        """The output as the caller gets it: vLLM may have begun a step more than it needed."""
        for at, token in enumerate(self.output):
            if token in (tokens.end_of_turn, tokens.pad):
                return self.output[:at]
        return self.output[: self.max_tokens]


class Slots:
    """All requests of one worker.

    slot, open [R]: as in ModeMachine; span [R]: starts so far, less one; fed [R,D]: what the next placeholder is fed;
    script [R,P]: the tokens that are forced, MODEL_CHOICE behind them; step [R]: tokens so far.
    """

    def __init__(self, model: LatentModel, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.model, self.tokens, self.spans, self.device = model, model.tokens, model.spans, device
        self.slot, self.step = torch.zeros(2, rows, dtype=torch.long, device=device)
        self.span, self.budget = torch.full_like(self.slot, -1), torch.full_like(self.slot, model.spans.latents)
        self.script = torch.full((rows, 1), MODEL_CHOICE, device=device)
        self.open = torch.zeros(rows, dtype=torch.bool, device=device)
        self.may_open, self.is_refused = torch.full_like(self.open, model.spans.opened), torch.zeros_like(self.open)
        self.fed = torch.zeros(rows, model.width, dtype=dtype, device=device)
        self._requests: dict[str, Request] = {}
        self._kept: KeptRequests[Request] = KeptRequests(rows)
        self._steps: list[tuple[list[Request], torch.Tensor, torch.Tensor, torch.Tensor]] = []

    # ---- who is there

    def start(self, slot: int, name: str, params: SamplingParams, prompt: int, ids: Sequence[int]) -> None:
        """A request gets a slot, for the first time or after a preemption; `ids` are all its tokens, the first `prompt`
        of them its prompt.

        Raises RuntimeError where the latents of a request are lost.
        """
        if request := self._kept.resume(name):
            self._collect()
            request.resume(ids, self.tokens)
        else:
            check_new(self.tokens.latent, ids[prompt:])
            request = self._kept.expect(Request(params, ids[:prompt], self.model, self.device))
        self._requests[name] = request
        at = open_slot(request.output, self.tokens)
        options = request.options
        self.slot[slot], self.open[slot], self.step[slot] = max(0, at), at >= 0, len(request.output)
        self.span[slot] = request.output.count(self.tokens.latent_start) - 1
        self.budget[slot] = options.budget(self.spans)
        self.may_open[slot] = self.spans.opened and options.may_open
        self._write_script(slot, options.script)
        self.is_refused[slot] = request.is_refused
        if at > 0:
            self.fed[slot] = request.latents[-1]

    def remove(self, name: str) -> None:
        """A request leaves: it is finished or preempted, which the runner does not say."""
        if request := self._requests.pop(name, None):
            self._kept.park(name, request)

    def _write_script(self, slot: int, script: Sequence[int]) -> None:
        missing = len(script) + 1 - self.script.shape[1]
        if missing > 0:
            self.script = torch.nn.functional.pad(self.script, (0, missing), value=MODEL_CHOICE)
        self.script[slot] = MODEL_CHOICE
        self.script[slot, : len(script)] = torch.tensor(script, dtype=torch.long, device=self.device)

    def know(self, names: Sequence[str]) -> bool:
        """Whether all of these are requests here."""
        return all(name in self._requests for name in names)

    # ---- one step

    def feed(
        self,
        input_ids: torch.Tensor,
        embeddings: torch.Tensor,
        slots: torch.Tensor,
        last: torch.Tensor,
        names: Sequence[str],
        starts: Sequence[int],
        computed: Sequence[int],
    ) -> None:
        """Puts latents in the place of the placeholders' embeddings [T,>=D], where they are.

        slots, last [B]: each row's slot, and the place of its last token among the T.  Row r has the tokens
        starts[r]:starts[r + 1], computed[r] of its tokens came before.
        """
        width = self.fed.shape[1]
        feeding = (input_ids[last] == self.tokens.latent) & (self.slot[slots] > 0)
        embeddings[last, :width] = torch.where(
            feeding.unsqueeze(-1), self.fed[slots].to(embeddings.dtype), embeddings[last, :width]
        )
        for row, name in enumerate(names):
            request = self._requests[name]
            begin, end = (bisect_left(request.prefilled, computed[row] + n) for n in (0, starts[row + 1] - starts[row]))
            if begin < end:
                places = [starts[row] + place - computed[row] for place in request.prefilled[begin:end]]
                embeddings[places, :width] = torch.stack(request.latents[begin:end]).to(embeddings)

    def forbid(self, logits: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Logits [B,V] after the bans; inside a span the model may continue it or end it."""
        logits = banned(logits, self.tokens, self.open[slots])
        for marker in (self.tokens.latent_start, self.tokens.latent_end):
            logits[:, marker] = logits[:, marker].where(self.may_open[slots], BANNED_LOGIT)
        return logits

    def advance(
        self,
        picked: torch.Tensor,
        hidden: torch.Tensor,
        slots: torch.Tensor,
        is_real: torch.Tensor,
        names: Sequence[str],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that are really emitted [B], and which of them were the model's own choice [B].

        hidden [B,D]: the states that `picked` [B] were chosen from; is_real [B]: whether the row has a new token at all
        (a prompt of which a part is left has none).
        """
        slot, is_open = self.slot[slots], self.open[slots]
        only_banned = is_banned(picked, self.tokens, is_open, self.may_open[slots])  # all that the request allows
        picked = picked.masked_fill(only_banned, self.tokens.end_of_turn)
        forced = self.script[slots, self.step[slots].clamp(max=self.script.shape[1] - 1)]
        picked = picked.where(forced == MODEL_CHOICE, forced)
        picked = picked.masked_fill(self.is_refused[slots], self.tokens.end_of_turn)
        may_end = (forced == self.tokens.latent_end) | (self.spans.end == "model")
        step = next_step(self.tokens, self.budget[slots], may_end, slot, is_open, picked)
        span = self.span[slots] + (step.open & (step.slot == 0)).long()
        requests = [self._requests[name] for name in names]
        vectors = hidden.to(self.fed.dtype, copy=True)
        for row, request in enumerate(requests):
            if request.intervention is not None:
                of_row = slice(row, row + 1)
                place = torch.zeros_like(slot[of_row])
                vectors[of_row] = request.intervention(vectors[of_row], span[of_row], step.slot[of_row] - 1, place)
        self.slot[slots] = step.slot.where(is_real, slot)
        self.open[slots] = step.open.where(is_real, is_open)
        self.span[slots] = span.where(is_real, self.span[slots])
        self.step[slots] += is_real
        self.fed[slots] = vectors.where(is_real.unsqueeze(-1), self.fed[slots])
        self._steps.append((requests, step.ids, is_real, vectors))
        if len(self._steps) == COLLECT_EVERY:
            self._collect()
        return step.ids, step.sampled & (forced == MODEL_CHOICE)

    # ---- latents for the caller

    def take(self, key: str) -> dict[int, Returned]:
        """The latents kept under a key, by the number of the answer and by span (options.encode_span); they are kept no
        longer."""
        self._collect()
        sizes = self.tokens.span_sizes
        return {r.number: returned(r.latents, sizes(r.answer(self.tokens))) for r in self._kept.take(key)}

    def _collect(self) -> None:
        """Reads the steps since the last time from the device, which it waits for."""
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        tokens = torch.cat([ids.where(is_real, -1) for _, ids, is_real, _ in steps]).tolist()
        fed = [vectors[(ids == self.tokens.latent) & is_real] for _, ids, is_real, vectors in steps]
        latents = iter(torch.cat(fed).cpu())  # vLLM has the device's memory for itself
        for token, request in zip(tokens, (request for requests, *_ in steps for request in requests), strict=True):
            if token < 0:
                continue
            request.output.append(token)
            if token == self.tokens.latent:
                request.latents.append(next(latents).clone())
