"""From a response to the letter of the option that it chose: four named parsers, and the parts they share.

`release` and `release_direct` return what the public release's parsers return on every input, oddities included
(reference/evaluation.md 1.5, 1.6); published numbers were made with them.  `option_text` is the demo's: the exact text
of one option.  `strict` is anchored and reads only the last complete answer tag.  Each says which rule fired, so that
an unparsed rate can be reported beside every accuracy.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ParserName = Literal["release", "release_direct", "option_text", "strict"]

_FIRST_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_COMPLETE_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_CAPITAL = re.compile(r"[ABCD]")
_OPTION_LINE = re.compile(r"^[ \t]*([A-Z])\.[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)

# The last two are what the release really searches for: two missing commas joined its intended prefixes.
_DIRECT_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)

_LETTER = r"\(?\s*([A-D])\s*\)?"
_STRICT_RULES = (
    ("letter", re.compile(rf"{_LETTER}[.:]?", re.IGNORECASE)),
    ("boxed", re.compile(r"\$?\\boxed\{\s*([A-D])\s*\}\$?", re.IGNORECASE)),
    (
        "phrase",
        re.compile(
            rf"(?:the\s+)?(?:(?:correct|best|final)\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*(?<![a-z]){_LETTER}[.]?",
            re.IGNORECASE,
        ),
    ),
    ("letter and text", re.compile(r"(?:\(([A-D])\)|([A-D])[.):])\s+\S.*", re.IGNORECASE | re.DOTALL)),
)


@dataclass(frozen=True)
class Parsed:
    """The chosen letter, or None when nothing was read, and the rule that decided."""

    letter: str | None
    rule: str


def normalised(text: str) -> str:
    """Text compared without case, width, spacing and closing punctuation."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'`").rstrip(".!,;:").strip()


def answer_text(text: str) -> str | None:
    """The stripped text inside the last complete `<answer>` tag, or None when there is no complete tag."""
    inner = _COMPLETE_TAG.findall(text)
    return inner[-1].strip() if inner else None


def options_of(question: str) -> dict[str, str]:
    """The lettered options that close a question (lines `A. ...`, `B. ...`); empty for an open-ended question."""
    lines = _OPTION_LINE.findall(question)
    starts = [i for i, (letter, _) in enumerate(lines) if letter == "A"]
    block = lines[starts[-1] :] if starts else []
    expected = [chr(ord("A") + i) for i in range(len(block))]
    if len(block) < 2 or [letter for letter, _ in block] != expected:
        return {}
    return dict(block)


def release(text: str) -> Parsed:
    """The release's tag parser: the first capital A-D anywhere inside the first closed answer tag."""
    tag = _FIRST_TAG.search(text.strip())
    if tag is None:
        return Parsed(None, "no answer tag")
    return _first_capital(tag.group(1).strip(), "first capital in first tag")


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
    letters = [letter for letter, option in options.items() if normalised(option) == normalised(inner)]
    if len(letters) != 1:
        return Parsed(None, "several options have this text" if letters else "not the text of an option")
    return Parsed(letters[0], "option text")


def strict(text: str) -> Parsed:
    """The letter that the last complete answer tag states in an anchored form: `C`, `(c)`, `C.`, `option C`,
    `the answer is C`, `\\boxed{C}`, `C. its text`.  A letter in the middle of a sentence is not an answer.
    """
    inner = answer_text(text)
    if inner is None:
        return Parsed(None, "no answer tag")
    for rule, pattern in _STRICT_RULES:
        match = pattern.fullmatch(inner)
        if match:
            return Parsed(next(group for group in match.groups() if group).upper(), rule)
    return Parsed(None, "no anchored letter")


def parse(parser: ParserName, text: str, options: Mapping[str, str]) -> Parsed:
    """Applies the named parser; only `option_text` looks at the options."""
    if parser == "option_text":
        return option_text(text, options)
    return {"release": release, "release_direct": release_direct, "strict": strict}[parser](text)


def _first_capital(text: str, rule: str) -> Parsed:
    match = _CAPITAL.search(text)
    return Parsed(match.group(), rule) if match else Parsed(None, "no capital A-D")
