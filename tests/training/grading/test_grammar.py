"""A response is (reason span?)+ answer; every loophole of the release's format reward is closed."""

from typing import Any

import pytest

from training.grading import form
from training.model.checkpoint import FutureL1
from training.rl.rollouts import runs_of

L = "<|latent_start|><|latent|><|latent|><|latent_end|>"
R = "<reason>It rolls on.</reason>"
A = "<answer>red</answer>"


@pytest.fixture
def runs(base: FutureL1) -> Any:
    """The runs of a response whose tokens are those of a text."""

    def tokenised(text: str) -> form.Runs:
        ids = base.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return runs_of(ids, base.tokens, base.processor.tokenizer)

    return tokenised


@pytest.mark.parametrize(
    ("text", "spans"),
    [(R + A, 0), (R + L + A, 1), (R + L + R + A, 1), (f"{R}\n{L}\n{R}\n{L}\n{A}", 2), (R + R + A, 0)],
)
def test_a_response_of_reasons_spans_and_one_answer_is_well_formed(runs: Any, text: str, spans: int) -> None:
    assert form.well_formed(runs(text), spans)
    assert not form.well_formed(runs(text), spans + 1)


LOOPHOLES = {
    "two answers": R + L + A + A,
    "empty reason": "<reason> </reason>" + L + A,
    "empty answer": R + L + "<answer> </answer>",
    "empty span": R + "<|latent_start|><|latent_end|>" + A,
    "text inside a span": R + "<|latent_start|><|latent|>red<|latent_end|>" + A,
    "stray closing reason": R + "</reason>" + L + A,
    "answer inside a reason": f"<reason>x {A}</reason>" + L + A,
    "span inside a reason": f"<reason>x {L}</reason>" + A,
    "span inside the answer": R + f"<answer>{L}red</answer>",
    "nothing but a span": L + A,
    "span first": L + R + A,
    "two spans in a row": R + L + L + A,
    "no answer": R + L,
    "prose before": "Well. " + R + L + A,
    "prose after": R + L + A + " done",
    "an end of turn inside": R + "<|im_end|>" + L + A,
    "unfinished span": R + "<|latent_start|><|latent|>",
    "unfinished answer": R + "<answer>red",
    "other special token": R + "<|vision_start|>" + A,
    "other case": "<REASON>x</REASON>" + A,
    "nothing": "",
}


@pytest.mark.parametrize("name", LOOPHOLES)
def test_a_loophole_is_malformed(runs: Any, name: str) -> None:
    assert not form.well_formed(runs(LOOPHOLES[name]), 0)


def test_a_span_that_is_spelled_is_none(base: FutureL1, runs: Any) -> None:
    """The same text, by other tokens: the model imagined nothing."""
    spelled: list[int] = []
    for letter in L:
        spelled += base.processor.tokenizer(letter, add_special_tokens=False)["input_ids"]
    before, after = (base.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (R, A))
    ids = [*before, *spelled, *after]
    assert base.processor.tokenizer.decode(ids, skip_special_tokens=False) == R + L + A
    assert form.well_formed(runs(R + L + A), 1)
    assert not form.well_formed(runs_of(ids, base.tokens, base.processor.tokenizer), 0)


def test_blocks_name_the_parts_in_order(runs: Any) -> None:
    assert form.blocks(runs(R + L + R + A)) == "RSRA"
    assert form.blocks(["prose"]) is None
