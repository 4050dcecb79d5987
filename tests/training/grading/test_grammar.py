"""A response is (reason span?)+ answer; every loophole of the release's format reward is closed."""

import pytest

from training.grading.grammar import blocks, well_formed

L = "<|latent_start|><|latent|><|latent|><|latent_end|>"
R = "<reason>It rolls on.</reason>"
A = "<answer>red</answer>"


@pytest.mark.parametrize(
    ("text", "spans"),
    [(R + A, 0), (R + L + A, 1), (R + L + R + A, 1), (f"{R}\n{L}\n{R}\n{L}\n{A}<|im_end|>", 2), (R + R + A, 0)],
)
def test_a_response_of_reasons_spans_and_one_answer_is_well_formed(text: str, spans: int) -> None:
    assert well_formed(text, spans)
    assert not well_formed(text, spans + 1)


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
    "doubled end of turn": R + L + A + "<|im_end|><|im_end|>",
    "unfinished span": R + "<|latent_start|><|latent|>",
    "unfinished answer": R + "<answer>red",
    "other special token": R + "<|vision_start|>" + A,
    "other case": "<REASON>x</REASON>" + A,
    "nothing": "",
}


@pytest.mark.parametrize("name", LOOPHOLES)
def test_a_loophole_is_malformed(name: str) -> None:
    assert not well_formed(LOOPHOLES[name], 0)


def test_blocks_name_the_parts_in_order() -> None:
    assert blocks(R + L + R + A) == "RSRA"
    assert blocks("prose") is None
