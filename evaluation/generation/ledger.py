"""The ledger of answers: each is written as it arrives, and none is generated twice.

One append-only file holds the answers that one model gave under one way of sampling; a line is identified by the key of
its prompt (a hash of its id and content, or the id) and the number of the answer.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.generation.requests import Answer
from training.data.prompts import ANSWERS, PROMPT_TOKENS
from training.storage.files import AppendLog
from training.storage.hashing import file_digest

LATENTS = "latents"
"""A column that answers have where a job keeps latents: float16, little-endian, row-major [sum(spans), hidden]."""
OPTIONAL: dict[str, Any] = {PROMPT_TOKENS: pl.Int64, LATENTS: pl.Binary}
KEY_DIGITS = 32

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Stored(BaseModel):
    """The fields that a line must have; a disk, a hand or an odd server may have left anything."""

    model_config = ConfigDict(strict=True)

    sample: Count
    text: str
    tokens: list[Count]
    text_tokens: Count
    latent_tokens: Count
    control_tokens: Count
    spans: list[Count]
    finished: bool
    prefill_seconds: float
    decode_seconds: float


class Ledger:
    """The answers to some prompts: those that the file holds already, and those that are added."""

    def __init__(
        self, path: Path, prompts: Mapping[str, str], keep_latents: bool = False, served: bool = False
    ) -> None:
        """`prompts`: ids by key.  With `keep_latents`, an answer that was stored without its latents is passed over; so
        is a `served` model's without text, which is a server's fault and no answer."""
        self._log = AppendLog(path)
        self._keys = {prompt_id: key for key, prompt_id in prompts.items()}
        self._answers: dict[tuple[str, int], Answer] = {}
        needed = {*ANSWERS, LATENTS} if keep_latents else set(ANSWERS)
        for record in self._log.records():
            prompt_id = prompts.get(str(record.get("key")))
            if prompt_id is not None and needed <= set(record) and _is_answer(record, served):
                answer = {**record, "prompt_id": prompt_id} | _latents(record, base64.b64decode)
                self._answers.setdefault((prompt_id, record["sample"]), answer)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def __len__(self) -> int:
        return len(self._answers)

    def any(self) -> str | None:
        """The id of some prompt that has an answer."""
        return next((prompt_id for prompt_id, _ in self._answers), None)

    def add(self, answer: Answer) -> None:
        """Writes a new answer.

        Raises ValueError for one that is there already: it was paid for twice.
        """
        place = (answer["prompt_id"], answer["sample"])
        if place in self._answers:
            raise ValueError(f"answer {place[1]} of {place[0]!r} was generated twice")
        self._answers[place] = answer
        stored = answer | _latents(answer, lambda data: base64.b64encode(data).decode())
        self._log.append({"key": self._keys[answer["prompt_id"]], **stored})

    def missing(self, prompt_id: str, samples: Iterable[int]) -> tuple[int, ...]:
        """Those of the answers' numbers that are not in the ledger."""
        return tuple(sample for sample in samples if (prompt_id, sample) not in self._answers)

    def answers(self, prompt_id: str, samples: int) -> list[Answer]:
        """The answers to a prompt whose number is below `samples`, by their numbers."""
        answers = (self._answers.get((prompt_id, sample)) for sample in range(samples))
        return [answer for answer in answers if answer is not None]

    def table(self, samples: int) -> pl.DataFrame:
        """All of them whose number is below `samples`, as a table of answers ordered by prompt and number.

        It has an optional column if any of the answers does.
        """
        chosen = [self._answers[place] for place in sorted(self._answers) if place[1] < samples]
        optional = {name: kind for name, kind in OPTIONAL.items() if any(name in answer for answer in chosen)}
        if samples > 1:
            optional.pop(PROMPT_TOKENS, None)
        schema = ANSWERS | optional
        return pl.DataFrame([{name: answer.get(name) for name in schema} for answer in chosen], schema=schema)


def _is_answer(record: Mapping[str, Any], served: bool) -> bool:
    try:
        text = _Stored.model_validate(record).text
    except ValidationError:
        return False
    return not served or bool(text.strip())


def keyed(prompts: pl.DataFrame) -> pl.DataFrame:
    """The prompt table with its column `key`: a hash of each prompt's id and of its whole content, options among it.

    A clip counts by what is in the file, wherever it lies; each is read once.  Raises OSError where one is gone.
    """
    content_of = cache(lambda path: file_digest(Path(path)))
    options = prompts["options"].to_list() if "options" in prompts.columns else [None] * prompts.height
    rows = zip(prompts["prompt_id"].to_list(), prompts["content"].to_list(), options, strict=True)
    keys = [
        _hash(
            [name, [part | {"path": content_of(part["path"])} if part["path"] else part for part in content], choices]
        )
        for name, content, choices in rows
    ]
    return prompts.with_columns(pl.Series("key", keys, pl.String))


def _hash(value: Any) -> str:
    plain = json.dumps(value, sort_keys=True, default=lambda data: hashlib.sha256(data).hexdigest())
    return hashlib.sha256(plain.encode()).hexdigest()[:KEY_DIGITS]


def _latents(answer: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """The answer's latents changed, where it has the field."""
    return {LATENTS: change(answer[LATENTS]) if answer[LATENTS] else None} if LATENTS in answer else {}
