"""Nothing of untrusted text steers a terminal."""

import pytest

from training.runtime.printable import escaped, printable


@pytest.mark.parametrize(
    "hostile", ["\x1b[31m", "\x9b2J", "\a", "\r", "\x7f", "\0", "\u202e", "\u2028", "\ud800", "\u200b"]
)
def test_what_a_terminal_obeys_becomes_a_blank(hostile: str) -> None:
    assert printable(f"a{hostile}b\n") == f"a {hostile[1:]}b "
    assert printable(f"a{hostile}b\n", keep="\n") == f"a {hostile[1:]}b\n"
    assert printable(ValueError(hostile)) == f" {hostile[1:]}"


def test_text_of_any_language_stays() -> None:
    text = "C、green λ×σ Größe 答案：C ½ 😀"
    assert printable(text) == text


def test_text_in_markdown_is_one_line_without_markup() -> None:
    assert escaped("a\n# b | <c> [d](e) `f` \x00") == "a # b \\| \\<c\\> \\[d\\](e) \\`f\\`"
