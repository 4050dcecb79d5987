"""Shards for `future-l1 curate`: toy rows with clips, and a served model that answers some of them correctly.

An answer depends only on the row and on the hint, so it is the same at any time and for any number of requests.
"""

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from assets.toyworld.clips import write_clips
from assets.toyworld.trajectories import SHARD_SCHEMA, Mix, draw_shard
from training.grading.toy_judge import reply_to
from training.tiny.world import COLOURS

KINDS = ("saturated", "hopeless", "useful")


def write_shards(folder: Path, shards: int = 2, rows: int = 40, faults: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Shards with broken rows under `folder`/twiff and clips under `folder`/clips; returns the rows."""
    rng = np.random.default_rng(seed)
    written: list[dict[str, Any]] = []
    numbers = itertools.count()
    for name in ("twiff", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        shard = draw_shard(rows, Mix(easy=0.0, ambiguous=0.0, open_ended=0.5), faults, folder / "clips", rng)
        for row in shard.rows:  # the questions of the toy world are alike: a number tells the rows apart
            if isinstance(row["question"], str) and words(row["question"]):
                row["question"] = row["question"].replace("<image>\n", f"<image>\n({seed}.{next(numbers)}) ", 1)
        shard.write(folder / "twiff" / f"part-{seed}-{number}.parquet")
        write_clips(shard.clips, lambda done, total: None)
        written += shard.rows
    return written


def as_json_lines(folder: Path, shard: str) -> None:
    """Turns a parquet shard into JSON lines, one of them broken."""
    path = folder / "twiff" / f"{shard}.parquet"
    lines = [json.dumps(row) for row in pl.read_parquet(path).to_dicts()]
    lines.insert(3, '{"video": "torn')
    (folder / "twiff" / f"{shard}.jsonl").write_text("\n".join(lines) + "\n")
    path.unlink()


def repeat_row(folder: Path, shard: str, row: dict[str, Any]) -> None:
    """Adds a row that another shard has to the end of a parquet shard."""
    path = folder / "twiff" / f"{shard}.parquet"
    pl.concat([pl.read_parquet(path), pl.DataFrame([row], schema=SHARD_SCHEMA)]).write_parquet(path)


def kind_of(question: str) -> str:
    """Which answers of a row are right, by the words of its question."""
    return KINDS[hashlib.sha256(words(question).encode()).digest()[0] % 3]


def words(question: str) -> str:
    """The question without its frame labels and markers."""
    return " ".join(re.sub(r"frame_\d+|<image>", "", question).split())


class Model:
    """The answer function of `tests.served`: right or wrong by the row's kind and the number of images shown."""

    def __init__(self, rows: list[dict[str, Any]], right: Literal["by kind", "always"] = "by kind") -> None:
        self.right = right
        self.references = {}
        for row in rows:
            match = re.search(r"<ans>(.*)</ans>", row.get("answer") or "")
            if match and isinstance(row["question"], str):
                self.references[words(row["question"])] = match[1].strip()

    def __call__(self, request: dict[str, Any], choice: int) -> str:
        content = request["messages"][-1]["content"]
        images = sum(part["type"] == "image_url" for part in content)
        text = words(" ".join(part["text"] for part in content if part["type"] == "text"))
        question = max((one for one in self.references if one in text), key=len, default=None)
        if question is None:  # a row that somebody changed
            return "<answer>no reference for this question</answer>"
        by_kind = {"saturated": True, "hopeless": False, "useful": images > 1}[kind_of(question)]
        right = self.right == "always" or by_kind
        reference = self.references[question]
        wrong = next(colour for colour in COLOURS if colour != reference)
        return f"<reason>step {choice}</reason><answer>{reference if right else wrong}</answer>"


def judge(request: dict[str, Any], choice: int) -> str:
    """A judge for `tests.served` that compares normalised answers."""
    return json.dumps(reply_to(request["messages"][-1]["content"]))
