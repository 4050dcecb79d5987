"""A table of prompts as the answering program asks it: what is shown, and the seed of each answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.generation.controls import ControlName, controlled
from evaluation.generation.requests import Request
from training.data.prompts import Part
from training.storage.hashing import stable_hash
from training.storage.parquet import read_parquet


class Prompts:
    """Content, group and key by id.

    The key is what the ledger knows a prompt by (the column `key`, else its id); prompts whose ids agree before the
    slash are a group and begin alike.  Two more columns are optional: `options`, which the controls `options_k` rotate,
    and `reference`, by which interventions tell items with the same answer.
    """

    def __init__(self, path: Path, control: ControlName = "none") -> None:
        """Raises ValueError for prompts that share a key."""
        table = read_parquet(path)
        ids = table["prompt_id"].to_list()
        self.control = control
        self.content: Mapping[str, list[Part]] = dict(zip(ids, table["content"].to_list(), strict=True))
        self.by_key = dict(zip(table["key"].to_list() if "key" in table.columns else ids, ids, strict=True))
        self._options, self._references = (_optional(table, name, ids) for name in ("options", "reference"))
        if len(self.by_key) < len(ids):
            raise ValueError(f"{path}: prompts share a key, so their answers could not be told apart")

    def request(self, prompt_id: str, samples: tuple[int, ...], seed: int) -> Request:
        """A prompt as it is asked.  Raises ValueError or OSError as `evaluation.generation.controls.controlled`
        does."""
        content = controlled(self.control, self.content[prompt_id], prompt_id, seed, self._options.get(prompt_id))
        seeds = tuple(stable_hash(seed, prompt_id, sample) >> 1 for sample in samples)
        reference = self._references.get(prompt_id)
        return Request(prompt_id, content, samples, seeds, prompt_id.partition("/")[0], reference)


def _optional(table: pl.DataFrame, name: str, ids: list[str]) -> dict[str, Any]:
    return dict(zip(ids, table[name].to_list(), strict=True)) if name in table.columns else {}
