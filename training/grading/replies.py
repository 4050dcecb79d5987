"""A judge's replies: their schemas, and how stored ones are read, as here or as the public release reads them."""

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Verdict = Literal["correct", "incorrect", "unjudged"]

LONGEST = 50_000
"""Characters at the end of the text that are searched; a verdict is far shorter."""
THOUGHTS, THOUGHTS_END = "<think>", "</think>"


class Scores(NamedTuple):
    """TwiFF-Bench's two marks, 0 to 5."""

    cot: int
    answer: int


class Reply(BaseModel):
    """A judge's reply.  The schema has no other fields; a reply with more is read all the same."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"additionalProperties": False})


class VerdictReply(Reply):
    verdict: Verdict


class ScoreReply(Reply):
    reasoning: str
    score: Annotated[list[Annotated[int, Field(ge=0, le=5)]], Field(min_length=2, max_length=2)]


class AnswerReply(Reply):
    reasoning: str
    score: Annotated[int, Field(ge=0, le=5)]


def last_object(text: str) -> str:
    """The last JSON object of a text that is in no other, verbatim; empty without one: the verdict of a judge that
    thinks or talks first.

    Text before the end of thoughts is a draft, and all text is where they do not end.  Each opening brace is read at
    most as deep as Python reads JSON, within a bounded text, so that the time is bounded for any text.
    """
    text = text.rpartition(THOUGHTS_END)[2]
    if text.lstrip().startswith(THOUGHTS):
        return ""
    text = text[-LONGEST:]
    decoder, last, at = json.JSONDecoder(), "", text.find("{")
    while at >= 0:
        try:
            end = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            end = at + 1
        else:
            last = text[at:end]
        at = text.find("{", end)
    return last


def read_scores(reply: str) -> Scores | None:
    """The marks in a stored judge reply, or None where it does not follow the schema or leaves the range."""
    try:
        return Scores(*ScoreReply.model_validate_json(last_object(reply)).score)
    except ValidationError:
        return None


def read_mark(reply: str) -> int | None:
    """The one mark in a stored judge reply, or None where it does not follow the schema or leaves the range."""
    try:
        return AnswerReply.model_validate_json(last_object(reply)).score
    except ValidationError:
        return None


def release_scores(reply: str) -> Scores | None:
    """The marks in a stored judge reply as the public release reads them (reference/evaluation.md 2.5), to score again
    what it scored: the first two numbers in the lists of `score`, rounded half to even, of any size.

    None where it finds fewer, and where it would crash.
    """
    try:
        record = json.loads(reply)
        numbers = list(itertools.islice(_numbers(record.get("score")), 2)) if isinstance(record, dict) else []
    except (ValueError, OverflowError, RecursionError):
        return None
    return Scores(*numbers) if len(numbers) == 2 else None


def _numbers(value: Any) -> Iterator[int]:
    """The numbers in nested lists, depth first; booleans and text that is no number are passed over."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, list):
            yield from _numbers(item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield round(item)
        elif isinstance(item, str):
            with suppress(ValueError):
                yield round(float(item))
