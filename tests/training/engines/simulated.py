"""vLLM's runners without vLLM: requests come, are preempted, prefilled again and go, and a step is one pass of
transformers over all that a request has."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from training.engines.latent_model import LatentModel
from training.engines.options import PREFIX, encode_span
from training.model.checkpoint import FutureL1
from training.model.completions import Completion
from training.model.decode import Intervention, decode
from training.model.encoding import Encoded, Encoder, collate
from training.model.interventions import noise, replayed, zeros
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.splice import inputs_of, spliced_forward

FIXED, BY_MODEL = Spans(4, "fixed"), Spans(3, "model")
DRAWS = pytest.mark.parametrize(
    ("temperature", "top_p", "spans"),
    [(0.0, 1.0, FIXED), (1.0, 1.0, BY_MODEL), (1.5, 0.9, BY_MODEL)],
    ids=["greedy", "sampled", "warm, with top-p"],
)
ALLOWED = pytest.mark.parametrize(
    ("name", "may_open"), [("latent", True), ("image", True), ("video", True), ("latent_start", False)]
)
INTERVENTIONS = pytest.mark.parametrize("name", ["zeros", "noise", "vectors"])


@dataclass
class Params:
    """What our code reads of vLLM's SamplingParams."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    extra_args: dict[str, Any] | None = None
    max_tokens: int = 40


@dataclass
class Running:
    """A request as the runner has it."""

    prompt: Encoded
    params: Params
    output: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.prompt.ids + self.output

    @property
    def encoded(self) -> Encoded:
        """The prompt and its output so far."""
        start, n = int(self.prompt.positions.max()) + 1, len(self.output)
        positions = torch.cat([self.prompt.positions, torch.arange(start, start + n).expand(3, -1)], 1)
        return replace(self.prompt, ids=self.ids, labels=[-100] * len(self.ids), positions=positions)

    def is_done(self, bundle: FutureL1) -> bool:
        ends = (bundle.tokens.end_of_turn, bundle.tokens.pad)
        return len(self.output) == self.params.max_tokens or (bool(self.output) and self.output[-1] in ends)


def latent_model(bundle: FutureL1, spans: Spans) -> LatentModel:
    """What the engine knows of a model."""
    text = bundle.model.config.text_config
    return LatentModel(bundle.tokens, spans, text.hidden_size, text.vocab_size)


@torch.no_grad()
def forward(
    bundle: FutureL1, running: list[Running], latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B,V] and hidden states [B,D] of the last tokens; `latents` [n,D] are fed at all placeholders."""
    batch = collate([request.encoded for request in running], bundle.tokens.pad)
    last = torch.zeros_like(batch.ids, dtype=torch.bool)
    last[torch.arange(len(running)), batch.mask.sum(1) - 1] = True
    inputs = inputs_of(batch, bundle.vision(), bundle.model.device)
    states, logits = spliced_forward(bundle.model, inputs, batch.ids == bundle.tokens.latent, latents, last)
    return logits, states[last]


def begun(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    """Prompts of different lengths, two of them in the middle of an answer, where a span is likely."""
    reader = RowReader(encoder, keep=True)
    short = {**rows[1], "question": rows[1]["question"].split("\nA.")[0]}
    prompts = [reader.prompt(row) for row in (rows[0], short, rows[2], rows[3])]
    text = encoder.tokenizer("<reason>white rolls to step 2</reason>\n", add_special_tokens=False)["input_ids"]
    return [*prompts[:2], *(Running(prompt, Params(), text).encoded for prompt in prompts[2:])]


def ours(
    bundle: FutureL1, prompts: list[Encoded], sampling: Sampling, spans: Spans, seeds: list[int], **options: Any
) -> list[Completion]:
    """The same answers by our own decoder, without padding."""
    decoded = decode(bundle.model, bundle.vision(), bundle.tokens, prompts, sampling, spans,
                     [[seed] for seed in seeds], **options)  # fmt: skip
    return list(decoded.completions(bundle.tokens))


def requests(prompts: list[Encoded], **params: Any) -> list[Running]:
    """A request for each prompt, with its number as its seed."""
    return [Running(prompt, Params(seed=seed, **params)) for seed, prompt in enumerate(prompts)]


def intervention(name: str, width: int) -> tuple[dict[str, Any], Intervention]:
    """An intervention as a request's arguments, and as our decoder has it; seeds are those of four answers."""
    spans = [torch.ones(2, width) / 4, torch.ones(1, width) / 2]
    fields: dict[str, Any] = {"noise": {"noise_seed": 7}, "vectors": {"vectors": list(map(encode_span, spans))}}
    options = {"latents": name, **fields.get(name, {})}
    wanted = {"zeros": zeros(), "noise": noise(torch.full((4,), 7)), "vectors": replayed(spans)}[name]
    return {f"{PREFIX}{field}": value for field, value in options.items()}, wanted


def scripts(bundle: FutureL1) -> list[list[int]]:
    """Forced beginnings of four answers: text, two spans of which one is shorter than FIXED's, one that the script
    leaves open, and none."""
    t = bundle.tokens
    text = bundle.processor.tokenizer("First it rolls on.", add_special_tokens=False)["input_ids"]
    full, short = ([t.latent_start, *[t.latent] * size, t.latent_end] for size in (4, 2))
    return [text, [*text, *full, *short], [t.latent_start, t.latent], []]
