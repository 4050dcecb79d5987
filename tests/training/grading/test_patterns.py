"""What was rewritten to take linear time reads what the patterns before read."""

import re

from hypothesis import given
from hypothesis import strategies as st

from assets.curation.v1_33k import _INLINE, _OPTION
from evaluation.benchmarks import judge_messages, seedbench
from evaluation.generation import segments
from training.data.trajectory import split_answer
from training.grading.parsers import answer_text, options_of, release

PIECES = [
    "<answer>", "</answer>", "<ans>", "</ans>", "<ANSWER >", "</answer\n>", "<reason>", "</reason >",
    "<|latent_start|>", "<|latent|>", "<|latent_end|>", "A", "B.", "A. ", "(C) ", "\nA. ", "\nB. ", "x", "y", " ",
    "\t", "\n", "\r", "\x85", "observation", ",", "?",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=14).map("".join)


@given(TEXTS)
def test_tags(text: str) -> None:
    inner = re.findall(r"<answer>((?:(?!</?answer>).)*)</answer>", text, re.DOTALL)
    assert answer_text(text) == (inner[-1].strip() if inner else None)
    first = re.search(r"<answer>(.*?)</answer>", text.strip(), re.DOTALL)
    capital = re.search("[ABCD]", first[1]) if first else None
    assert release(text).letter == (capital[0] if capital else None)
    whole = re.fullmatch(r"(?s)(.*)<ans>(.*)</ans>\s*", text)
    assert split_answer(text) == ((whole[1], whole[2]) if whole else (text, None))


@given(TEXTS)
def test_clean_up(text: str) -> None:
    flags = re.IGNORECASE | re.DOTALL
    reason = re.compile(r"<reason\s*>(.*?)</reason\s*>", flags)
    pieces = (*(inner.strip() for inner in reason.findall(text)), reason.sub("", text).strip())
    assert judge_messages.merged_reasons(text) == "\n\n".join(piece for piece in pieces if piece)
    plain = re.sub(r"<(/?)ans\s*>", r"<\1answer>", re.sub(r"(?i)<\|latent(?:_start|_end)?\|>", "", text), flags=flags)
    answer = re.search(r"<answer\s*>(.*?)</answer\s*>", plain, flags)
    assert bool(judge_messages.split_response(text)[1]) == bool(answer and judge_messages._tidy(answer[1].strip()))


@given(TEXTS)
def test_options(text: str) -> None:
    lines = re.findall(r"^[ \t]*([A-Z])\.[ \t]+(\S.*?)[ \t]*$", text, re.MULTILINE)
    last = max((i for i, (letter, _) in enumerate(lines) if letter == "A"), default=len(lines))
    block = lines[last:]
    lettered = len(block) > 1 and [letter for letter, _ in block] == [chr(65 + i) for i in range(len(block))]
    assert options_of(text) == (dict(block) if lettered else {})
    before = re.fullmatch(r"\s*\(?([A-Da-d])[.):]\s*(\S.*?)\s*", text, re.DOTALL)
    now = _OPTION.fullmatch(text.strip())
    assert (before and before.groups()) == (now and now.groups())
    inline = re.findall(r"(?:^|\s)\(?([A-D])[.)]\s+(.*?)(?=\s+\(?[A-D][.)]\s|\s*\Z)", text, re.DOTALL)
    starts = list(_INLINE.finditer(text))
    ends = [*(match.start() for match in starts[1:]), len(text)]
    assert [(m[1], text[m.end() : end].rstrip()) for m, end in zip(starts, ends, strict=False)] == inline


@given(TEXTS)
def test_lead_in_and_pieces(text: str) -> None:
    assert seedbench._without_lead_in(text) == re.sub(r"(?i)^[^,?]*\bobservation\b[^,?]*,\s*", "", text)
    blocks = re.compile(
        rf"<reason>(?P<reason>.*?)</reason>|<answer>(?P<answer>.*?)</answer>|{segments._SPAN}", re.DOTALL
    )
    expected, at = [], 0
    for match in blocks.finditer(text):
        expected += segments._pieces("text", text[at : match.start()])
        kind, at = match.lastgroup if match["span"] is None else "span", match.end()
        if kind == "span":
            expected.append(segments.Segment("span", latents=match["span"].count("<|latent|>")))
        else:
            expected += segments._pieces(kind, match[kind]) or [segments.Segment(kind)]  # type: ignore[arg-type, index]
    assert segments.segments(text) == [*expected, *segments._pieces("text", text[at:])]
