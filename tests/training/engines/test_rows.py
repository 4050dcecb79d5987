"""The V1 runner's rows: whatever happens to a request, its answer is that of our own decoder."""

from dataclasses import replace

import pytest
import torch

from tests.training.engines.simulated import (
    ALLOWED,
    BY_MODEL,
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
from training.engines.kept import PARKED
from training.engines.options import PREFIX, decode_span
from training.engines.rows import Rows
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoded
from training.model.modes import Spans
from training.model.sampling import Sampling, pick


class V1:
    """A batch of vLLM's V1 runner around our rows."""

    def __init__(self, bundle: FutureL1, spans: Spans, max_rows: int = 4) -> None:
        self.bundle, self.batch = bundle, list[Running]()
        self.rows = Rows(latent_model(bundle, spans), max_rows)

    def add(self, request: Running) -> None:
        self.rows.add(len(self.batch), request.params, request.prompt.ids, request.output)
        self.batch.append(request)

    def preempt(self, row: int) -> Running:
        """Takes a request out; the last one takes its place, and vLLM reports that alone."""
        request, last = self.batch[row], len(self.batch) - 1
        if row < last:
            self.rows.move(last, row, False)
            self.batch[row] = self.batch[last]
        else:
            self.rows.remove(row)
        self.batch.pop()
        return request

    def swap(self, first: int, second: int) -> None:
        self.rows.move(first, second, True)
        self.batch[first], self.batch[second] = self.batch[second], self.batch[first]

    def step(self) -> None:
        latents = torch.cat([self._latents(row) for row in range(len(self.batch))])
        logits, hidden = forward(self.bundle, self.batch, latents)
        reported = self.rows.constrain(logits, hidden)
        log_probs = reported.log_softmax(-1)
        forced = self.rows.force(reported)
        for row, request in enumerate(self.batch):
            sampling = Sampling(1, request.params.temperature, request.params.top_p)
            seeds = torch.tensor([request.params.seed or 0])
            picked, _ = pick(forced[row : row + 1], sampling, seeds, len(request.output))
            request.log_probs.append(float(log_probs[row, int(picked)]))
            request.output.append(int(picked))

    def _latents(self, row: int) -> torch.Tensor:
        """The latents of a row, fed in two chunks as after a preemption."""
        ids, width = self.batch[row].ids, self.rows.model.width
        cut, fed = len(ids) - 2, []
        for begin, end in ((0, cut), (cut, len(ids))):
            starts, lengths = [0] * (row + 1) + [end - begin], [0] * row + [end]
            chunk = torch.tensor(ids[begin:end])
            embedded = self.rows.feed(chunk, torch.full((len(chunk), width), torch.nan), starts, lengths)
            fed.append(embedded[chunk == self.bundle.tokens.latent])
        return torch.cat(fed)

    def run(self) -> None:
        """Steps until all requests are done.  Before each, rows change places, and a request is preempted and comes
        back at the end."""
        number = 0
        while self.batch:
            if len(self.batch) > 1:
                self.swap(0, len(self.batch) - 1)
            self.add(self.preempt(number % len(self.batch)))
            self.step()
            number += 1
            for row in reversed(range(len(self.batch))):
                if self.batch[row].is_done(self.bundle):
                    self.preempt(row)


@DRAWS
def test_answers_are_those_of_our_decoder(
    sft_model: FutureL1, prompts: list[Encoded], temperature: float, top_p: float, spans: Spans
) -> None:
    runner, running = V1(sft_model, spans), requests(prompts, temperature=temperature, top_p=top_p)
    for request in running:
        runner.add(request)
    runner.run()
    sampling = Sampling(40, temperature, top_p)
    answers = ours(sft_model, prompts, sampling, spans, list(range(len(prompts))))
    assert sum(len(answer.latents) for answer in answers) > 4
    for answer, request in zip(answers, running, strict=True):
        assert [token for token in request.output if token != sft_model.tokens.pad] == answer.ids
        if temperature <= 1:
            wanted = answer.log_probs.tolist()
            assert request.log_probs[: len(wanted)] == pytest.approx(wanted, abs=1e-4)


def test_the_end_that_the_model_chooses_has_its_log_probability(sft_model: FutureL1) -> None:
    t = sft_model.tokens
    rows = Rows(replace(latent_model(sft_model, BY_MODEL), width=2), 4)
    output = [5, t.latent_start]
    rows.add(0, Params(), [1, 2], output)
    logits = torch.zeros(1, len(sft_model.processor.tokenizer))
    logits[0, t.latent_end] = 3.0
    wanted = logits.clone()
    wanted[0, [t.image, t.video]] = -1e9
    reported = rows.constrain(logits, torch.ones(1, 2)).log_softmax(-1)[0]
    chosen = wanted.log_softmax(-1)[0, t.latent_end]
    assert reported[t.latent_end].item() == pytest.approx(chosen.item(), abs=1e-5)
    assert int(rows.force(logits)[0].argmax()) == t.latent_end
    output += [t.latent] * 3  # the budget is spent: the end is nobody's choice
    reported = rows.constrain(torch.zeros_like(logits), torch.ones(1, 2)).log_softmax(-1)[0]
    assert reported[t.latent_end].item() == 0.0


@INTERVENTIONS
def test_interventions_are_those_of_our_decoder(sft_model: FutureL1, prompts: list[Encoded], name: str) -> None:
    arguments, wanted = intervention(name, sft_model.model.config.text_config.hidden_size)
    runner = V1(sft_model, FIXED)
    running = requests(prompts, extra_args=arguments)
    for request in running:
        runner.add(request)
    runner.run()
    answers = ours(sft_model, prompts, Sampling(40), FIXED, [0] * 4, intervention=wanted)
    assert [request.output for request in running] == [answer.ids for answer in answers]
    plain = ours(sft_model, prompts, Sampling(40), FIXED, [0] * 4)
    assert [a.latents.tolist() for a in answers] != [a.latents.tolist() for a in plain]


def test_spans_may_be_shorter_or_forbidden(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    for options, spans in (
        ({"max_latents": 0}, Spans(0, "fixed", may_open=True)),
        ({"max_latents": 2}, Spans(2, "fixed")),
        ({"may_open": 0}, Spans(0, "fixed")),
    ):
        runner = V1(sft_model, FIXED)
        running = requests(prompts, extra_args={f"{PREFIX}{field}": value for field, value in options.items()})
        for request in running:
            runner.add(request)
        runner.run()
        answers = ours(sft_model, prompts, Sampling(40), spans, [0] * 4)
        assert [request.output for request in running] == [answer.ids for answer in answers]


def test_scripts_are_those_of_our_decoder(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    forced = scripts(sft_model)
    for may_open, spans in ((True, FIXED), (False, replace(FIXED, may_open=False))):
        runner, running = V1(sft_model, FIXED), requests(prompts)
        for request, script in zip(running, forced, strict=True):
            request.params.extra_args = {f"{PREFIX}script": script, f"{PREFIX}may_open": may_open}
            runner.add(request)
        runner.run()
        answers = ours(sft_model, prompts, Sampling(40), spans, [0] * 4, scripts=forced)
        assert [request.output for request in running] == [answer.ids for answer in answers]
        for answer, request in zip(answers, running, strict=True):
            assert request.log_probs == pytest.approx(answer.log_probs.tolist(), abs=1e-4)


def test_latents_are_taken_once_by_answer_and_span(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    runner, width = V1(sft_model, FIXED), sft_model.model.config.text_config.hidden_size
    arguments = {f"{PREFIX}return_key": "a", f"{PREFIX}first_seed": 5}
    running = [Running(prompts[2], Params(temperature=1.0, seed=5 + n, extra_args=arguments)) for n in range(3)]
    for request in running:
        runner.add(request)
    runner.run()
    taken = runner.rows.take("a")
    assert set(taken) == {0, 1, 2} and runner.rows.take("a") == {}
    answers = ours(sft_model, [prompts[2]] * 3, Sampling(40, 1.0), FIXED, [5, 6, 7])
    assert any(len(answer.latents) for answer in answers)
    for number, answer in enumerate(answers):
        spans = [decode_span(span, width) for span in taken[number]["latents"]]
        assert [len(span) for span in spans] == sft_model.tokens.span_sizes(answer.ids)
        torch.testing.assert_close(torch.cat([torch.empty(0, width), *spans]), answer.latents, atol=1e-4, rtol=0)


BAD_OPTIONS = ({f"{PREFIX}latents": "ones"}, {f"{PREFIX}latents": "vectors", f"{PREFIX}vectors": ["AAAAAA=="]})


def test_a_refused_request_has_an_empty_answer_and_ends_no_other(
    sft_model: FutureL1, prompts: list[Encoded], caplog: pytest.LogCaptureFixture
) -> None:
    t, runner = sft_model.tokens, V1(sft_model, FIXED)
    latent = replace(prompts[0], ids=[*prompts[0].ids[:-1], t.latent])
    arguments = {f"{PREFIX}return_key": "a"}
    refused = [Running(latent, Params(extra_args=arguments)), *(Running(prompts[1], Params(extra_args=o))
                                                                for o in BAD_OPTIONS)]  # fmt: skip
    (other,) = requests(prompts[2:3])
    for request in (*refused, other):
        runner.add(request)
    embeddings = torch.ones(len(latent.ids), runner.rows.model.width)
    ids = torch.tensor(latent.ids)
    assert torch.equal(runner.rows.feed(ids, embeddings, [0, len(ids)], [len(ids)]), embeddings)
    logits = torch.zeros(4, len(sft_model.processor.tokenizer))
    forced = runner.rows.force(runner.rows.constrain(logits, torch.zeros(4, runner.rows.model.width)))
    assert forced[:3].argmax(-1).tolist() == [t.end_of_turn] * 3 and int(forced[3].argmax()) != t.end_of_turn
    assert runner.rows.take("a") == {0: {"latents": []}}
    assert "whose vectors are gone: leave out the spans" in caplog.text
    assert "future_l1_latents: Input should be" in caplog.text and "numbers; found 1 numbers" in caplog.text


@ALLOWED
def test_a_turn_ends_where_all_that_is_allowed_is_banned(sft_model: FutureL1, name: str, may_open: bool) -> None:
    t, rows = sft_model.tokens, Rows(replace(latent_model(sft_model, FIXED), width=2), 1)
    rows.add(0, Params(extra_args={f"{PREFIX}may_open": may_open}), [1], [])
    logits = rows.constrain(torch.zeros(1, len(sft_model.processor.tokenizer)), torch.zeros(1, 2))
    allowed = logits[0, getattr(t, name)].clone()
    logits[:] = -torch.inf  # as vLLM does for `allowed_token_ids`
    logits[0, getattr(t, name)] = allowed
    assert int(rows.force(logits)[0].argmax()) == t.end_of_turn


def test_seeds_that_vllm_counts_on_beyond_a_tensors_numbers(sft_model: FutureL1) -> None:
    Rows(replace(latent_model(sft_model, FIXED), width=2), 1).add(0, Params(seed=2**63), [1], [])


def test_latents_that_were_dropped_are_missed(sft_model: FutureL1) -> None:
    t, rows = sft_model.tokens, Rows(replace(latent_model(sft_model, FIXED), width=2), 1)
    outputs = [[t.latent_start, t.latent] for _ in range(PARKED + 2)]
    for output in outputs:
        tokens = output.copy()
        output.clear()
        rows.add(0, Params(), [1], output)
        output += tokens
    with pytest.raises(RuntimeError, match="latents were dropped: let fewer requests run at once"):
        rows.add(0, Params(), [1], outputs[0])
    rows.add(0, Params(), [1], outputs[-1])
