"""The V2 runner's slots: whatever happens to a request, its answer is that of our own decoder."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.training.engines.simulated import (
    ALLOWED,
    DRAWS,
    FIXED,
    INTERVENTIONS,
    Params,
    Running,
    forward,
    intervention,
    latent_model,
    ours,
    requests,
    scripts,
)
from training.engines.options import PREFIX, decode_span
from training.engines.slots import Slots
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoded
from training.model.modes import Spans
from training.model.sampling import Sampling, pick


class V2:
    """vLLM's V2 runner around our slots: four of them, given out anew after each preemption, and rows in any order.

    computed: how many of a request's tokens the cache holds, by its number.
    """

    def __init__(self, bundle: FutureL1, spans: Spans, requests: list[Running]) -> None:
        self.bundle, self.requests = bundle, requests
        self.slots = Slots(latent_model(bundle, spans), len(requests), torch.float32, torch.device("cpu"))
        self.computed = dict.fromkeys(range(len(requests)), 0)
        self.place = {number: number for number in self.computed}
        for number in self.computed:
            self.start(number)

    def start(self, number: int) -> None:
        request = self.requests[number]
        self.slots.start(self.place[number], str(number), request.params, len(request.prompt.ids), request.ids)

    def preempt(self, first: int, second: int) -> None:
        """Two requests lose what the cache has of them, and come back in each other's slots."""
        self.place[first], self.place[second] = self.place[second], self.place[first]
        for number in (first, second):
            self.slots.remove(str(number))
        for number in (first, second):
            self.computed[number] = 0
            self.start(number)

    def step(self, numbers: list[int]) -> None:
        """One step of some requests: what the cache lacks of them, in two steps where that is more than one token."""
        ids = {number: self.requests[number].ids for number in numbers}
        if parts := [number for number in numbers if len(ids[number]) - self.computed[number] > 2]:
            self._advance(parts, {number: len(ids[number]) - 2 for number in parts}, is_real=False)
        self._advance(numbers, {number: len(ids[number]) for number in numbers}, is_real=True)

    def _advance(self, numbers: list[int], until: dict[int, int], is_real: bool) -> None:
        bundle, running = self.bundle, [self.requests[number] for number in numbers]
        self._feed(numbers, until)
        latents = [vector for number in numbers for vector in self.fed[number]]
        width = self.slots.fed.shape[1]
        if is_real:
            logits, hidden = forward(bundle, running, torch.stack(latents) if latents else torch.empty(0, width))
        else:  # a part of a prompt: nobody looks at what comes out
            logits = torch.zeros(len(running), len(bundle.processor.tokenizer))
            hidden = torch.zeros(len(running), width)
        slots, names = torch.tensor([self.place[n] for n in numbers]), list(map(str, numbers))
        logits = self.slots.forbid(logits, slots)
        picks = [
            pick(logits[row : row + 1], Sampling(1, r.params.temperature, r.params.top_p),
                 torch.tensor([r.params.seed]), len(r.output))
            for row, r in enumerate(running)
        ]  # fmt: skip
        picked = torch.cat([token for token, _ in picks])
        reals = torch.full((len(numbers),), is_real)
        tokens, sampled = self.slots.advance(picked, hidden, slots, reals, names)
        for row, request in enumerate(running if is_real else ()):
            request.output.append(int(tokens[row]))
            request.log_probs.append(float(picks[row][1]) if bool(sampled[row]) else 0.0)

    fed: dict[int, list[torch.Tensor]]

    def _feed(self, numbers: list[int], until: dict[int, int]) -> None:
        """Keeps what is fed at each placeholder."""
        self.fed = getattr(self, "fed", {})
        chunks = [self.requests[n].ids[self.computed[n] : until[n]] for n in numbers]
        ids = torch.tensor([token for chunk in chunks for token in chunk])
        starts = [sum(map(len, chunks[:row])) for row in range(len(chunks) + 1)]
        embedded = torch.full((len(ids), self.slots.fed.shape[1]), torch.nan)
        self.slots.feed(ids, embedded, torch.tensor([self.place[n] for n in numbers]), torch.tensor(starts[1:]) - 1,
                        list(map(str, numbers)), starts, [self.computed[n] for n in numbers])  # fmt: skip
        for row, n in enumerate(numbers):
            if self.computed[n] == 0:
                self.fed[n] = []
            places = range(starts[row], starts[row + 1])
            self.fed[n] += [embedded[place].clone() for place in places if ids[place] == self.bundle.tokens.latent]
            self.computed[n] = until[n]

    def run(self) -> None:
        number = 0
        while left := [n for n in self.computed if not self.requests[n].is_done(self.bundle)]:
            if number % 3 == 2 and len(left) > 1:
                self.preempt(left[0], left[-1])
            self.step(left[::-1] if number % 2 else left[: max(1, len(left) - 1)])
            number += 1


@DRAWS
def test_answers_are_those_of_our_decoder(
    sft_model: FutureL1, prompts: list[Encoded], temperature: float, top_p: float, spans: Spans
) -> None:
    running = requests(prompts, temperature=temperature, top_p=top_p)
    V2(sft_model, spans, running).run()
    answers = ours(sft_model, prompts, Sampling(40, temperature, top_p), spans, list(range(len(prompts))))
    assert sum(len(answer.latents) for answer in answers) > 4
    for answer, request in zip(answers, running, strict=True):
        assert [token for token in request.output if token != sft_model.tokens.pad] == answer.ids
        wanted = answer.log_probs.tolist()
        assert request.log_probs[: len(wanted)] == pytest.approx(wanted, abs=1e-4)


@INTERVENTIONS
def test_interventions_are_those_of_our_decoder(sft_model: FutureL1, prompts: list[Encoded], name: str) -> None:
    arguments, wanted = intervention(name, sft_model.model.config.text_config.hidden_size)
    running = requests(prompts, extra_args=arguments)
    V2(sft_model, FIXED, running).run()
    answers = ours(sft_model, prompts, Sampling(40), FIXED, [0] * 4, intervention=wanted)
    assert [request.output for request in running] == [answer.ids for answer in answers]


def test_spans_may_be_shorter_or_forbidden(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    of_requests: list[dict[str, Any]] = [{"max_latents": 0}, {"max_latents": 2}, {"may_open": 0}, {}]
    spans = [Spans(0, "fixed", may_open=True), Spans(2, "fixed"), Spans(0, "fixed"), FIXED]
    running = requests(prompts)
    for request, options in zip(running, of_requests, strict=True):
        request.params.extra_args = {f"{PREFIX}{field}": value for field, value in options.items()}
    V2(sft_model, FIXED, running).run()
    for request, budget in zip(running, spans, strict=True):
        (answer,) = ours(sft_model, [request.prompt], Sampling(40), budget, [0])
        assert request.output == answer.ids


def test_scripts_are_those_of_our_decoder(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    forced = scripts(sft_model)
    for may_open, spans in ((True, FIXED), (False, replace(FIXED, may_open=False))):
        running = requests(prompts)
        for request, script in zip(running, forced, strict=True):
            request.params.extra_args = {f"{PREFIX}script": script, f"{PREFIX}may_open": may_open}
        V2(sft_model, FIXED, running).run()
        answers = ours(sft_model, prompts, Sampling(40), spans, [0] * 4, scripts=forced)
        assert [request.output for request in running] == [answer.ids for answer in answers]
        for answer, request in zip(answers, running, strict=True):
            assert request.log_probs == pytest.approx(answer.log_probs.tolist(), abs=1e-4)


def two_slots(bundle: FutureL1) -> Slots:
    """For two requests, with latents of two numbers."""
    return Slots(replace(latent_model(bundle, FIXED), width=2), 2, torch.float32, torch.device("cpu"))


@ALLOWED
def test_a_turn_ends_where_all_that_is_allowed_is_banned(sft_model: FutureL1, name: str, may_open: bool) -> None:
    t, slots = sft_model.tokens, two_slots(sft_model)
    slots.start(0, "a", Params(extra_args={f"{PREFIX}may_open": may_open}), 1, [1])
    picked = torch.tensor([getattr(t, name)])
    ids, _ = slots.advance(picked, torch.ones(1, 2), torch.tensor([0]), torch.tensor([True]), ["a"])
    assert ids.tolist() == [t.end_of_turn]


def test_latents_are_taken_once_by_answer_and_span(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    width = sft_model.model.config.text_config.hidden_size
    arguments = {f"{PREFIX}return_key": "a", f"{PREFIX}first_seed": 5}
    running = [Running(prompts[2], Params(temperature=1.0, seed=5 + n, extra_args=arguments)) for n in range(3)]
    runner = V2(sft_model, FIXED, running)
    runner.run()
    runner.step([0])  # vLLM may have begun one step more
    for number in range(3):
        runner.slots.remove(str(number))
    taken = runner.slots.take("a")
    assert set(taken) == {0, 1, 2} and runner.slots.take("a") == {}
    answers = ours(sft_model, [prompts[2]] * 3, Sampling(40, 1.0), FIXED, [5, 6, 7])
    assert any(len(answer.latents) for answer in answers)
    for number, answer in enumerate(answers):
        spans = [decode_span(span, width) for span in taken[number]["latents"]]
        assert [len(span) for span in spans] == sft_model.tokens.span_sizes(answer.ids)
        torch.testing.assert_close(torch.cat([torch.empty(0, width), *spans]), answer.latents, atol=1e-4, rtol=0)


def test_a_refused_request_has_an_empty_answer_and_a_trial_run_has_no_requests(sft_model: FutureL1) -> None:
    t, slots = sft_model.tokens, two_slots(sft_model)
    for _ in range(2):  # preempted before its answer began
        slots.start(0, "a", Params(extra_args={f"{PREFIX}return_key": "k"}), 2, [1, t.latent])
        slots.start(1, "b", Params(), 1, [1])
        slots.feed(torch.tensor([1, t.latent, 1]), torch.ones(3, 2), torch.arange(2), torch.tensor([1, 2]), ["a", "b"],
                   [0, 2, 3], [0, 0])  # fmt: skip
        picked = torch.tensor([5, 5])
        ids, _ = slots.advance(picked, torch.ones(2, 2), torch.arange(2), torch.ones(2, dtype=torch.bool), ["a", "b"])
        assert ids.tolist() == [t.end_of_turn, 5]
        slots.remove("a")
    assert slots.take("k") == {0: {"latents": []}}
    assert slots.know(["b"]) and not slots.know(["b", "of a trial run"])
