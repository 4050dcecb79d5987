"""Repetition, by hand: what the public release's rule says (reference/rl.md 2.3)."""

import pytest

from training.grading.form import REPETITIVE, repetition


def test_plain_reasoning_is_not_repetitive() -> None:
    text = "<reason>First it rolls on.</reason>\n<|latent_start|><|latent|><|latent|><|latent_end|>\n"
    text += "<reason>Then it rolls on.</reason>\n<reason>Then it rolls on.</reason>\n<answer>red</answer>"
    assert repetition(text) == pytest.approx(0.4)
    assert repetition(text) < REPETITIVE


def test_a_few_words_cannot_be_repetitive() -> None:
    assert repetition("red red red red") == 0
    assert repetition("<answer>" + "<|latent|>" * 90 + "</answer>") == 0, "markers are no words"


def test_four_words_over_and_over() -> None:
    assert repetition("a b c d " * 4) == pytest.approx(1 - 4 / 13)


@pytest.mark.parametrize("size", [25, 50])
def test_a_block_repeated_at_once(size: int) -> None:
    block = [f"w{i}" for i in range(size)]
    rest = [f"x{i}" for i in range(150 - 2 * size)]
    share = repetition(" ".join([*rest, *block, *block]))
    grams = 150 - 3
    again = size - 3  # 4-grams within the block, seen twice
    assert share == pytest.approx(max(2 * size / 150, again / grams))
    assert share == pytest.approx(2 * size / 150)


def test_a_block_is_looked_for_in_long_texts_only() -> None:
    block = " ".join(f"w{i}" for i in range(25))
    assert repetition(f"{block} {block}") == pytest.approx(22 / 47), "by its 4-grams alone"


def test_lines_over_and_over() -> None:
    lines = ["alpha beta gamma", "delta epsilon zeta", "alpha beta gamma"]
    assert repetition("\n".join(lines)) == pytest.approx(1 / 3)
    assert repetition("\n".join([lines[0], lines[0]])) == pytest.approx(0), "two lines may agree"
