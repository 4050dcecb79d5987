"""What is marked between two answers."""

from evaluation.explorer.difference import blocks
from evaluation.generation.segments import Segment

SPAN = Segment("span", latents=4)


def marked(segments: list[Segment], other: list[Segment]) -> list[str]:
    """The text that is marked in each block; "*" for a span that differs."""
    return [
        ("*" if block.differs else "") if block.number else "".join(text for text, differs in block.pieces if differs)
        for block in blocks(segments, other)
    ]


def test_words_that_differ_are_marked() -> None:
    before = [Segment("reason", "it rolls to the left"), SPAN, Segment("answer", "red")]
    after = [Segment("reason", "it rolls to the right"), SPAN, Segment("answer", "blue")]
    assert marked(after, before) == ["right", "", "blue"]
    assert marked(before, before) == ["", "", ""]


def test_blocks_that_are_new_are_marked_whole_and_the_others_find_their_like() -> None:
    before = [Segment("reason", "a"), SPAN, Segment("reason", "b"), SPAN, Segment("answer", "red")]
    after = [Segment("reason", "a"), SPAN, Segment("answer", "red")]
    assert marked(after, before) == ["", "", ""]
    assert marked(before, after) == ["", "", "b", "*", ""]


def test_spans_are_numbered_and_a_longer_one_differs() -> None:
    result = blocks([SPAN, Segment("text", "x"), Segment("span", latents=2)], [SPAN, Segment("text", "x"), SPAN])
    assert [(block.number, block.differs) for block in result] == [(1, False), (0, False), (2, True)]


def test_long_blocks_are_not_compared_word_by_word() -> None:
    words = " ".join(map(str, range(5000)))
    assert marked([Segment("text", words + " end")], [Segment("text", words)]) == [words + " end"]
