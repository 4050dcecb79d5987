"""What is masked in decoding is masked in its replay, in whatever batch, and nothing before it changes."""

from typing import Any

import pytest
import torch

from training.model.checkpoint import FutureL1
from training.model.completions import Decoded, joined
from training.model.decode import decode
from training.model.encoding import Encoded, Encoder, collate, continued
from training.model.masking import FRAME, SPAN, TEXT, Masking, closed_spans, replay_mask, slot_labels
from training.model.modes import Spans
from training.model.rows import RowReader
from training.model.sampling import Sampling
from training.model.splice import inputs_of, spliced_forward
from training.model.token_budget import TokenBudget

SAMPLED, SPANS = Sampling(40, temperature=1.0), Spans(4, "fixed")
SEEDS = [[1, 2], [3], [4, 5, 6], [7], [8, 9]]
MASKINGS = [Masking("frames"), Masking("frames", after=0), Masking("spans"), Masking("spans", after=2)]


@pytest.fixture(scope="module")
def prompts(encoder: Encoder, rows: list[dict[str, Any]]) -> list[Encoded]:
    """Prompts of unlike lengths; the last two begin alike."""
    reader = RowReader(encoder, keep=True)
    questions = [row["question"] + " Then what?" * number for number, row in enumerate(rows[:4])]
    items = [{**row, "row_id": str(n), "question": q} for n, (row, q) in enumerate(zip(rows, questions, strict=False))]
    return [reader.prompt(row) for row in [*items, {**items[3], "row_id": "last", "question": questions[3] + " And?"}]]


def decoded(bundle: FutureL1, prompts: list[Encoded], masking: Masking | None, tokens: int | None = None) -> Decoded:
    """Every answer begins with a span, every other one with two, so that there is something to mask."""
    start, latent, end = bundle.tokens.latent_start, bundle.tokens.latent, bundle.tokens.latent_end
    span = [start, *[latent] * 4, end]
    scripts = [(span * 2)[: 1 + len(span) * (number % 2)] for number in range(sum(map(len, SEEDS)))]
    parts = dict(TokenBudget(tokens).decode(
        bundle.model, bundle.vision(), bundle.tokens, prompts, SAMPLED, SPANS, SEEDS, [0, 1, 2, 3, 3], None, scripts,
        masking,
    ))  # fmt: skip
    return joined([parts[number] for number in range(len(prompts))], bundle.tokens.pad)


@pytest.mark.parametrize("masking", MASKINGS, ids=str)
def test_masked_decoding_is_its_replay(sft_model: FutureL1, prompts: list[Encoded], masking: Masking) -> None:
    tokens = sft_model.tokens
    completions = list(decoded(sft_model, prompts, masking).completions(tokens))
    owners = [prompt for prompt, seeds in zip(prompts, SEEDS, strict=True) for _ in seeds]
    dialogues = [continued(prompt, answer.ids) for prompt, answer in zip(owners, completions, strict=True)]
    inputs = inputs_of(collate(dialogues, tokens.pad), sft_model.vision(), sft_model.model.device)
    latent, latents = inputs["input_ids"] == tokens.latent, torch.cat([answer.latents for answer in completions])
    lengths = [len(prompt.ids) for prompt in owners]
    mask = replay_mask(dialogues, lengths, tokens, masking, torch.float32)
    states = {}
    with torch.no_grad():
        for name, bias in (("masked", mask), ("plain", inputs["attention_mask"])):
            states[name], _ = spliced_forward(
                sft_model.model, inputs | {"attention_mask": bias}, latent, latents, torch.zeros_like(latent)
            )
    torch.testing.assert_close(states["masked"][latent.roll(-1, 1)], latents, atol=1e-4, rtol=0)
    for row, (dialogue, length) in enumerate(zip(dialogues, lengths, strict=True)):
        touched = closed_spans(dialogue.ids, length, tokens) >= masking.after
        same = (states["masked"][row] - states["plain"][row]).abs().amax(-1)[: len(dialogue.ids)] < 1e-4
        assert same[~touched].all() and not same[touched].any(), "nothing changes before"


def test_other_batches_give_the_same_answers(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    """Rows join and leave, and the first slots of the cache are dropped."""
    for masking in MASKINGS[::2]:
        whole = decoded(sft_model, prompts, masking)
        longest = max(len(prompt.ids) for prompt in prompts)
        small = decoded(sft_model, prompts, masking, tokens=5 * (longest + SAMPLED.max_new_tokens))
        assert torch.equal(whole.ids, small.ids)
        torch.testing.assert_close(whole.latents, small.latents, atol=1e-4, rtol=0)
        plain = decoded(sft_model, prompts, None)
        assert (whole.log_probs.sum() - plain.log_probs.sum()).abs() > 0.01, "something is masked"


def test_labels_are_of_the_answers_spans_alone(sft_model: FutureL1) -> None:
    t = sft_model.tokens
    prompt = [5, t.image, t.video, t.latent_start, t.latent, t.latent_end]  # a system prompt may name the tags
    answer = [6, t.latent_start, t.latent, t.latent, t.latent_end, t.latent_end, t.latent_start, t.latent]
    assert slot_labels(prompt + answer, len(prompt), t).tolist() == [
        TEXT, FRAME, FRAME, TEXT, TEXT, TEXT, TEXT, TEXT, SPAN, SPAN, TEXT, TEXT, TEXT, SPAN + 1,
    ]  # fmt: skip
    assert closed_spans(prompt + answer, len(prompt), t).tolist() == [-1] * 6 + [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("masking", "hidden"),
    [
        (Masking("frames"), [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]),
        (Masking("frames", after=2), [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]),
        (Masking("spans"), [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]),
        (Masking("spans", after=2), [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]),
    ],
)
def test_a_span_is_hidden_once_it_has_closed(masking: Masking, hidden: list[list[int]]) -> None:
    labels, closed = torch.tensor([[FRAME, TEXT, SPAN, SPAN + 1]]), torch.tensor([[0, 1, 2]])
    assert masking.hidden(labels, closed)[0].long().tolist() == hidden


def test_decode_takes_a_masking(sft_model: FutureL1, prompts: list[Encoded]) -> None:
    scripts = [[sft_model.tokens.latent_start]] * 2
    run = [decode(sft_model.model, sft_model.vision(), sft_model.tokens, prompts[:2], Sampling(20), SPANS, [[0]] * 2,
                  scripts=scripts, masking=masking) for masking in (None, Masking("frames"))]  # fmt: skip
    assert torch.equal(run[0].ids[:, :6], run[1].ids[:, :6])
