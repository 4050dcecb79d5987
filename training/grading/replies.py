"""What a judge is asked for, and what is read of replies that were stored, here or by the public release."""

import itertools
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.grading.lastobject import last_object


class Scores(NamedTuple):
    """TwiFF-Bench's two marks, 0 to 5."""

    cot: int
    answer: int


class _Reply(BaseModel):
    """What is asked for has nothing else in it; a judge that adds a field all the same is understood."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"additionalProperties": False})


class VerdictReply(_Reply):
    verdict: Literal["correct", "incorrect", "unjudged"]


class ScoreReply(_Reply):
    reasoning: str
    score: Annotated[list[Annotated[int, Field(ge=0, le=5)]], Field(min_length=2, max_length=2)]


class AnswerReply(_Reply):
    reasoning: str
    score: Annotated[int, Field(ge=0, le=5)]


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
        told = json.loads(reply)
        found = list(itertools.islice(_numbers(told.get("score")), 2)) if isinstance(told, dict) else []
    except (ValueError, OverflowError, RecursionError):
        return None
    return Scores(*found) if len(found) == 2 else None


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
