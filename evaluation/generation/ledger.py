"""The ledger of answers: each is written as it arrives, and none is generated twice.

One append-only file holds the answers that one model gave under one way of sampling; a line is identified by the key of
its prompt (a hash of its id and content, or the id) and the number of the answer.  Answers stay in the file: memory
holds the place of each, eight bytes.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evaluation.generation.requests import Answer
from training.data.prompts import (
    ANSWERS,
    ENGINE,
    LATENTS,
    PROMPT_TOKENS,
    READINGS,
    BenchmarkAnswerTable,
    ReadingTable,
    ServedAnswerTable,
)
from training.storage.files import AppendLog, atomic_write
from training.storage.hashing import file_digest
from training.storage.keyed_log import encoded, key_of

OPTIONAL: dict[str, Any] = {
    name: column.dtype
    for table in (BenchmarkAnswerTable, ReadingTable, ServedAnswerTable)
    for name, column in table.columns().items()
    if name in (PROMPT_TOKENS, LATENTS, *READINGS, ENGINE)
}
KEY_DIGITS = 32
ROW_GROUP = 2_048
"""Answers that are in memory at a time while a table is written."""

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Words(BaseModel):
    model_config = ConfigDict(strict=True)

    nearest: str
    lens: list[str]


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
    prompt_tokens: Count | None = None
    latents: str | None = None
    attention: list[list[list[list[float]]]] | None = None
    words: list[_Words] = []
    engine: str | None = None


def engines_of(answers: pl.DataFrame) -> list[str]:
    """The engines of served answers, each once; none of answers that were made here."""
    return sorted(answers[ENGINE].drop_nulls().unique()) if ENGINE in answers.columns else []


class Ledger:
    """The answers to some prompts: those that the file holds already, and those that are added."""

    def __init__(
        self, path: Path, prompts: Mapping[str, str], samples: int, columns: Collection[str] = (), served: bool = False
    ) -> None:
        """`prompts`: ids by key; `samples`: answers of a prompt, by their numbers.  An answer that was stored without
        one of the optional `columns` is passed over; so is a `served` model's without text, which is a server's fault
        and no answer."""
        self._log = AppendLog(path)
        self._keys = {prompt_id: key for key, prompt_id in prompts.items()}
        self._ids = sorted(self._keys)
        self._rows = {prompt_id: row for row, prompt_id in enumerate(self._ids)}
        self._offsets = np.full((len(self._rows), samples), -1, np.int64)  # in the file; -1: no answer yet
        self._count = 0
        self._optional: set[str] = set()  # columns that some answer has
        rows = {encoded(key): self._rows[prompt_id] for key, prompt_id in prompts.items()}
        for offset, line in self._log.lines():
            row = rows.get(key_of(line) or b"")
            if row is None or (stored := _stored(line, served)) is None:
                continue
            if not stored.model_fields_set.issuperset(columns):
                continue
            if stored.sample < samples and self._offsets[row, stored.sample] < 0:
                self._place(row, stored.sample, offset, stored.model_fields_set)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def __len__(self) -> int:
        return self._count

    def any(self) -> str | None:
        """The id of some prompt that has an answer."""
        rows = np.flatnonzero((self._offsets >= 0).any(axis=1))
        return self._ids[rows[0]] if len(rows) else None

    def add(self, answer: Answer) -> None:
        """Writes a new answer.

        Raises ValueError for one that is there already: it was paid for twice.
        """
        prompt_id, sample = answer["prompt_id"], answer["sample"]
        row = self._rows[prompt_id]
        if self._offsets[row, sample] >= 0:
            raise ValueError(f"answer {sample} of {prompt_id!r} was generated twice")
        stored = answer | _latents(answer, lambda data: base64.b64encode(data).decode())
        self._place(row, sample, self._log.append({"key": self._keys[prompt_id], **stored}), answer)

    def missing(self, prompt_id: str, samples: Iterable[int]) -> tuple[int, ...]:
        """Those of the answers' numbers that are not in the ledger."""
        offsets = self._offsets[self._rows[prompt_id]].tolist()
        return tuple(sample for sample in samples if offsets[sample] < 0)

    def texts(self, prompt_id: str, samples: Iterable[int]) -> Iterator[tuple[int, str]]:
        """The numbers and texts of those of a prompt's answers that there are."""
        places = self._offsets[self._rows[prompt_id]].tolist()
        offsets = [places[sample] for sample in samples if places[sample] >= 0]
        return ((answer["sample"], answer["text"]) for answer in self._read(offsets))

    def write_table(self, path: Path) -> None:
        """Writes them as a table of answers, ordered by prompt and number.

        It has an optional column if any of the answers does, prompt tokens only where a prompt has one answer.
        """
        import pyarrow.parquet as pq  # slow: the code location imports this module, and writes no answers

        optional = self._optional - ({PROMPT_TOKENS} if self._offsets.shape[1] > 1 else set())
        schema = ANSWERS | {name: kind for name, kind in OPTIONAL.items() if name in optional}
        there = self._offsets >= 0
        ids = (self._ids[row] for row in np.nonzero(there)[0].tolist())
        answers = zip(ids, self._read(self._offsets[there].tolist()), strict=True)
        rows = ({name: answer.get(name) for name in schema} | {"prompt_id": id_} for id_, answer in answers)
        columns = _arrow([], schema).schema
        with atomic_write(path) as fresh, pq.ParquetWriter(fresh, columns, compression="zstd") as file:
            while batch := list(islice(rows, ROW_GROUP)):
                file.write_table(_arrow(batch, schema))

    def _place(self, row: int, sample: int, offset: int, fields: Iterable[str]) -> None:
        self._offsets[row, sample] = offset
        self._count += 1
        self._optional.update(OPTIONAL.keys() & set(fields))

    def _read(self, offsets: Sequence[int]) -> Iterator[Answer]:
        for answer in self._log.read(offsets):
            assert answer is not None, self._log.path
            yield answer | _latents(answer, base64.b64decode)


def _arrow(answers: list[Answer], schema: Mapping[str, Any]) -> Any:
    return pl.DataFrame(answers, schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest())


def _stored(line: bytes, served: bool) -> _Stored | None:
    """The answer of a line; None where it holds none."""
    try:
        stored = _Stored.model_validate_json(line)
    except ValidationError:
        return None
    return None if served and not stored.text.strip() else stored


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
