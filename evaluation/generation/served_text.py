"""What a served model's choice says: its answer, or why there is none.

Servers with a reasoning parser set apart what a model thinks aloud, and some parsers take too much.
"""

import re

from training.chat.completion import Choice, one_line
from training.grading.parsers import answer_text

BROKEN_OFF = ("abort", "error", "content_filter")
"""Finish reasons of replies that the server, not the model, ended."""
_TAGS = re.compile(r"</?(?:answer|ans|reason)>")


def served_text(choice: Choice) -> str | None:
    """An answer's text; None where the server gave none.

    Reasoning that was set apart stands first, as one reason block without tags of its own: the answer is what was said
    after it, so a draft in it is never read in its place.  Where nothing was said after it, it is the whole text if it
    has a complete answer tag and was not cut off.
    """
    said, thoughts = choice.message.text, choice.message.thoughts
    if choice.finish_reason in BROKEN_OFF:
        return None
    if said.strip():
        return f"<reason>{_TAGS.sub('', thoughts).strip()}</reason>\n{said}" if thoughts else said
    whole = choice.finish_reason != "length" and answer_text(thoughts) is not None
    return thoughts if whole else None


def why_no_text(choice: Choice) -> str:
    """What a choice without an answer holds in its place, in one line."""
    said = [f"finish_reason {one_line(str(choice.finish_reason))!r}"]
    for name, text in (("text", choice.message.text), ("reasoning", choice.message.thoughts)):
        said.append(f"{name} that ends with {one_line(text[-200:])!r}" if text.strip() else f"no {name}")
    return ", ".join(said)
