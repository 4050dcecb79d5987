"""From a response to the letter of the option that it chose: four named parsers, and the parts they share.

`release` and `release_direct` return what the public release's parsers return on every input, oddities included
(reference/evaluation.md 1.5, 1.6); published numbers were made with them.  `option_text` is the demo's: the exact text
of one option.  `strict` reads the one letter that the last complete answer tag states.  Each says which rule fired, so
that an unparsed rate can be reported beside every accuracy.  All take linear time, whatever the text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from training.grading.strict import normalised, stated_letter

ParserName = Literal["release", "release_direct", "option_text", "strict"]

_TAG = re.compile(r"</?answer>")
_CAPITAL = re.compile(r"[ABCD]")
_OPTION_LINE = re.compile(r"^[ \t]*([A-Z])\.[ \t]+(\S.*)$", re.MULTILINE)

# The last two are what the release really searches for: two missing commas joined its intended prefixes.
_DIRECT_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


@dataclass(frozen=True)
class Parsed:
    """The chosen letter, or None when nothing was read, and the rule that decided."""

    letter: str | None
    rule: str


def answer_text(text: str) -> str | None:
    """The stripped text inside the last complete `<answer>` tag, or None when there is no complete tag."""
    inner, opened = None, None
    for tag in _TAG.finditer(text):
        if tag[0] == "<answer>":
            opened = tag.end()
        elif opened is not None:
            inner, opened = text[opened : tag.start()], None
    return None if inner is None else inner.strip()


def options_of(question: str) -> dict[str, str]:
    """The lettered options that close a question (lines `A. ...`, `B. ...`); empty for an open-ended question."""
    lines = [(letter, text.rstrip(" \t")) for letter, text in _OPTION_LINE.findall(question)]
    starts = [i for i, (letter, _) in enumerate(lines) if letter == "A"]
    block = lines[starts[-1] :] if starts else []
    expected = [chr(ord("A") + i) for i in range(len(block))]
    if len(block) < 2 or [letter for letter, _ in block] != expected:
        return {}
    return dict(block)


def release(text: str) -> Parsed:
    """The release's tag parser: the first capital A-D anywhere inside the first closed answer tag."""
    inner, closing, _ = text.partition("<answer>")[2].partition("</answer>")
    return _first_capital(inner, "first capital in first tag") if closing else Parsed(None, "no answer tag")


def release_direct(text: str) -> Parsed:
    """The release's letter parser for direct answers: the first capital A-D left after deleting stock prefixes."""
    rest = text.strip()
    for prefix in _DIRECT_PREFIXES:
        rest = rest.replace(prefix, "")
    return _first_capital(rest, "first capital")


def option_text(text: str, options: Mapping[str, str]) -> Parsed:
    """The letter of the one option whose normalised text is the whole content of the last complete answer tag."""
    inner = answer_text(text)
    if inner is None:
        return Parsed(None, "no answer tag")
    plain = normalised(inner)
    letters = [letter for letter, option in options.items() if normalised(option) == plain]
    if len(letters) != 1:
        return Parsed(None, "several options have this text" if letters else "not the text of an option")
    return Parsed(letters[0], "option text")


def strict(text: str, options: Mapping[str, str] | None = None) -> Parsed:
    """The one letter that the last complete answer tag states in option form: `C`, `(c)`, `C. its text`, `option C`,
    `the answer is C`, in markup or not (`training.grading.strict`).  None where it names several, or denies one.
    """
    inner = answer_text(text)
    return Parsed(None, "no answer tag") if inner is None else Parsed(*stated_letter(inner, options or {}))


def parse(parser: ParserName, text: str, options: Mapping[str, str]) -> Parsed:
    """Applies the named parser; the release's do not look at the options."""
    match parser:
        case "option_text":
            return option_text(text, options)
        case "strict":
            return strict(text, options)
        case "release":
            return release(text)
        case "release_direct":
            return release_direct(text)


def _first_capital(text: str, rule: str) -> Parsed:
    match = _CAPITAL.search(text)
    return Parsed(match.group(), rule) if match else Parsed(None, "no capital A-D")
