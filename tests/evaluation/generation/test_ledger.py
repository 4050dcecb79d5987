"""What a ledger knows answers and prompts by, and the columns that only some answers have."""

import json
import shutil
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest

from evaluation.generation.ledger import Ledger, keyed
from tests.evaluation.answers import answer_table
from training.data.parts import frame, image, text
from training.data.prompts import ANSWERS, LATENTS, READINGS, prompt_frame
from training.storage.hashing import model_digest
from training.tiny import BASE

PROMPTS = {"k1": "a", "k2": "b"}


def table(ledger: Ledger) -> pl.DataFrame:
    with TemporaryDirectory() as folder:
        ledger.write_table(Path(folder) / "answers.parquet")
        return pl.read_parquet(Path(folder) / "answers.parquet")


def answer(prompt_id: str, **fields: Any) -> dict[str, Any]:
    return answer_table({prompt_id: "<answer>A</answer>"}).row(0, named=True) | fields


def test_latents_survive_in_the_ledger_and_are_a_column_only_where_they_are_kept(tmp_path: Path) -> None:
    path, latents = tmp_path / "ledger.jsonl", bytes(range(256))
    with Ledger(path, PROMPTS, 1, columns=[LATENTS]) as ledger:
        ledger.add(answer("a", latents=latents))
        ledger.add(answer("b", latents=None))
        first = table(ledger)
    again = table(Ledger(path, PROMPTS, 1, columns=[LATENTS]))
    assert again.equals(first)
    assert again["latents"].to_list() == [latents, None]
    with Ledger(tmp_path / "plain.jsonl", PROMPTS, 1) as plain:
        plain.add(answer("a"))
        assert dict(table(plain).schema) == ANSWERS


def test_an_answer_without_its_latents_is_missing_where_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, PROMPTS, 1) as ledger:
        ledger.add(answer("a", text="without"))
    with Ledger(path, PROMPTS, 1, columns=[LATENTS]) as ledger:
        assert ledger.missing("a", [0]) == (0,)
        ledger.add(answer("a", text="with", latents=b"\0\0"))
    assert table(Ledger(path, PROMPTS, 1, columns=[LATENTS]))["text"].to_list() == ["with"]
    assert table(Ledger(path, PROMPTS, 1))["text"].to_list() == ["without"]


def test_memory_holds_the_place_of_an_answer(tmp_path: Path) -> None:
    path, samples = tmp_path / "ledger.jsonl", 1_000
    with Ledger(path, PROMPTS, samples) as ledger:
        for sample in range(samples):
            ledger.add(answer("a", sample=sample, tokens=list(range(1_000, 1_300))))
    tracemalloc.start()
    again = Ledger(path, PROMPTS, samples)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again) == samples and held < 50 * samples, "an answer of 300 tokens has 10 KB as Python's numbers"


def test_readings_survive_in_the_ledger(tmp_path: Path) -> None:
    path, readings = tmp_path / "ledger.jsonl", {
        "attention": [[[[0.5, 0.25, 0.25]]]] * 2, "words": [{"nearest": " red", "lens": ["red", "\U0001f600"]}],
    }  # fmt: skip
    with Ledger(path, PROMPTS, 1, columns=READINGS) as ledger:
        ledger.add(answer("a", **readings))
        ledger.add(answer("b", attention=None, words=[]))
    rows = table(Ledger(path, PROMPTS, 1, columns=READINGS)).select(READINGS).to_dicts()
    assert rows == [readings, {"attention": None, "words": []}]
    assert Ledger(path, PROMPTS, 1, columns=[LATENTS]).missing("a", [0]) == (0,)


def test_prefill_tokens_are_a_column_of_answers_that_count_them(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl", PROMPTS, 1) as ledger:
        ledger.add(answer("a", prompt_tokens=70))
        ledger.add(answer("b"))
        assert table(ledger)["prompt_tokens"].to_list() == [70, None]
    assert dict(table(Ledger(tmp_path / "ledger.jsonl", PROMPTS, 2)).schema) == ANSWERS


def test_an_empty_text_of_a_server_is_requested_again_and_one_of_a_local_model_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, PROMPTS, 1) as before:  # as ledgers were written once
        before.add(answer("a", text=" \n"))
        before.add(answer("b"))
    assert Ledger(path, PROMPTS, 1).missing("a", [0]) == ()
    with Ledger(path, PROMPTS, 1, served=True) as ledger:
        assert (ledger.missing("a", [0]), ledger.missing("b", [0])) == ((0,), ())
        ledger.add(answer("a", text="<answer>B</answer>"))
    again = Ledger(path, PROMPTS, 1, served=True)
    assert table(again)["text"].to_list() == ["<answer>B</answer>", "<answer>A</answer>"]


@pytest.mark.parametrize(
    "damage",
    [
        {"sample": []},
        {"sample": "0"},
        {"text": None},
        {"text": ["a"]},
        {"text_tokens": 10**30},
        {"spans": "x"},
        {"tokens": [-1]},
        {"decode_seconds": "soon"},
    ],
)
def test_a_line_that_no_table_holds_is_skipped_and_stops_nothing(tmp_path: Path, damage: dict[str, Any]) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, PROMPTS, 1) as ledger:
        ledger.add(answer("a"))
        ledger.add(answer("b"))
    first, second = path.read_text().splitlines()
    path.write_text(json.dumps(json.loads(first) | damage) + "\n" + second + "\n")
    again = Ledger(path, PROMPTS, 1)
    assert table(again)["prompt_id"].to_list() == ["b"] and again.missing("a", [0]) == (0,)


def key(content: list[dict[str, Any]], name: str = "a", options: list[str] | None = None) -> str:
    table = prompt_frame([(name, content)])
    if options:
        table = table.with_columns(pl.Series("options", [options], pl.List(pl.String)))
    (only_key,) = keyed(table)["key"]
    return only_key


def test_a_key_is_of_the_content_wherever_it_lies(tmp_path: Path) -> None:
    for name, data in (("one.mp4", b"clip"), ("two.mp4", b"clip"), ("other.mp4", b"another")):
        (tmp_path / name).write_bytes(data)
    parts = [frame(tmp_path / "one.mp4", 0), text("Which?")]
    moved = [frame(tmp_path / "two.mp4", 0), text("Which?")]
    assert key(parts) == key(moved)
    different = [
        key(parts, name="b"),
        key(parts, options=["x", "y"]),
        key(parts, options=["y", "x"]),
        key([frame(tmp_path / "other.mp4", 0), text("Which?")]),
        key([frame(tmp_path / "one.mp4", 1), text("Which?")]),
        key([frame(tmp_path / "one.mp4", 0), text("Which one?")]),
        key([image(b"clip"), text("Which?")]),
        key([image(b"clap"), text("Which?")]),
    ]
    assert len({key(parts), *different}) == len(different) + 1


def test_a_model_is_known_by_what_decides_its_answers(tmp_path: Path) -> None:
    copied = tmp_path / "moved"
    shutil.copytree(BASE, copied)
    (copied / "provenance.json").write_text("{}")
    assert model_digest(copied) == model_digest(BASE)
    (copied / "chat_template.jinja").write_text("another")
    assert model_digest(copied) != model_digest(BASE)
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        model_digest(tmp_path)
