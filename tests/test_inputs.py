"""docs/inputs.md is true: its examples are read, and a required field is required, an optional one is not."""

import copy
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from assets.curation.v1_33k import choices
from assets.trajectories.validate import read_shard
from evaluation.benchmarks.registry import make_benchmark
from evaluation.score import score_file
from tests.evaluation.benchmarks.test_futurebench import clip
from tests.served import served
from training.chat.completion import ChatCompletion
from training.data.records import load_records, read_prompt, read_record
from training.data.training_set import read_training_set
from training.grading.judge import Judge, JudgeItem, JudgeSettings
from training.grading.replies import VerdictReply, last_object, read_mark, read_scores
from training.recipes import paper_rl
from training.rl.inspection import inspect_rewards
from training.runtime.programs import TrainingConfig
from training.runtime.project import PROJECT

PAGE = (PROJECT / "docs" / "inputs.md").read_text()
TYPES = {
    "string": pa.string(), "int64": pa.int64(), "list<int64>": pa.list_(pa.int64()),
    "list<string>": pa.list_(pa.string()),
    "list<struct<from: string, value: string>>": pa.list_(pa.struct({"from": pa.string(), "value": pa.string()})),
    "list<struct<bytes: binary, path: string>>": pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    "struct<Process: string, Summary: string, classification: string, start: string, end: string>": pa.struct(
        dict.fromkeys(("Process", "Summary", "classification", "start", "end"), pa.string())
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """An example of the page: the record, and of its fields, some of them together, the need and the parquet type."""

    name: str
    record: dict[str, Any]
    fields: list[tuple[tuple[str, ...], str, str | None]]

    def schema(self) -> pa.Schema:
        return pa.schema({name: TYPES[str(kind)] for names, _, kind in self.fields for name in names})

    def without(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The record without these fields, whose names are paths."""
        record = copy.deepcopy(self.record)
        for name in names:
            *path, last = name.split(".")
            holder: Any = record
            for step in path:
                holder = holder[int(step)] if step.isdigit() else holder[step]
            del holder[last]
        return record


def examples() -> Iterator[Example]:
    blocks = list(re.finditer(r"^```json ([\w-]+)\n(.*?)^```\n", PAGE, re.MULTILINE | re.DOTALL))
    for block in blocks:
        following = re.split(r"^(?:#|```)", PAGE[block.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        rows = re.findall(r"^\| (`.*) \|$", following, re.MULTILINE)
        cells = [re.split(r" \| ", row) for row in rows]
        fields = [
            (tuple(re.findall(r"`([\w.]+)`", first)), need, others[0].strip("`") if len(others) == 2 else None)
            for first, need, *others in cells
        ]
        yield Example(block[1], json.loads(block[2]), fields)


EXAMPLES = {example.name: example for example in examples()}
TABLES = [name for name, example in EXAMPLES.items() if example.fields]
PARQUET = [name for name in TABLES if EXAMPLES[name].fields[0][2]]
SAME_ROW = ("twiff", "twiff-plain", "twiff-jsonl", "future-l1-50k")


def png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(data, "PNG")
    return data.getvalue()


def with_bytes(value: Any) -> Any:
    """The record with bytes for `<PNG>`."""
    if isinstance(value, dict):
        return {name: with_bytes(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_bytes(item) for item in value]
    return png() if value == "<PNG>" else value


def put(folder: Path, *names: str) -> None:
    """A clip, or an image, at each place."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png() if name.endswith(".png") else clip(20))


def as_parquet(example: Example, record: Mapping[str, Any], path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(record)], schema=example.schema()), path)
    return path


# ---- readers: what a record becomes; an exception, or nothing, where it is rejected


def curated(record: dict[str, Any], folder: Path) -> Any:
    (folder / "rows.jsonl").write_text(json.dumps(record) + "\n")
    return curated_file(folder / "rows.jsonl")


def curated_file(path: Path) -> Any:
    return [row for rows, _ in read_shard(path, "shard") for row in rows.iter_rows(named=True)]


def trained(record: dict[str, Any], folder: Path) -> Any:
    (folder / "rows.jsonl").write_text(json.dumps(record) + "\n")
    return trained_file(folder / "rows.jsonl")


def trained_file(path: Path) -> Any:
    put(path.parent, "cup.mp4", "AAAAAAAAAAA_12.mp4")
    return read_training_set(path, None).rows


def multiple_choice(record: dict[str, Any], folder: Path) -> Any:
    put(folder, "videos/part/AAAAAAAAAAA.mp4")
    (folder / "rows.json").write_text(json.dumps([record]))
    nothing = pl.DataFrame(schema={"video": pl.String, "question": pl.String})
    return choices([folder / "rows.json"], [folder / "videos"], 1, 0, nothing).rows.to_dicts()


def benchmark(name: str, folder: Path) -> Any:
    items = make_benchmark(name, {}).items(folder)
    return items.filter(pl.col("problem").is_null()).to_dicts()


def futurebench(record: dict[str, Any], folder: Path) -> Any:
    put(folder, "first_part_video/part/AAAAAAAAAAA.mp4")
    (folder / "futurebench.json").write_text(json.dumps([record]))
    return benchmark("futurebench", folder)


def twiffbench(record: dict[str, Any], folder: Path) -> Any:
    as_parquet(EXAMPLES["twiffbench"], with_bytes(record), folder / "test-00000.parquet")
    return benchmark("twiffbench", folder)


def seedbench(record: dict[str, Any], folder: Path) -> Any:
    put(folder, "images/EpicKitchens/now.png", "videos/EpicKitchens/clip.mp4")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "validation_L1.jsonl").write_text(json.dumps(record) + "\n")
    return benchmark("seedbench", folder)


def scored(name: str) -> Callable[[dict[str, Any], Path], Any]:
    def read(record: dict[str, Any], folder: Path) -> Any:
        (folder / "answers.jsonl").write_text(json.dumps(record) + "\n")
        return score_file(name, folder / "answers.jsonl", "strict")["rows"]

    return read


def prompted(record: dict[str, Any], folder: Path) -> Any:
    put(folder, "cup.mp4")
    (folder / "prompts.json").write_text(json.dumps(record))
    (value,) = load_records(folder / "prompts.json")
    return read_prompt(value, 0, folder)


READERS: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    **dict.fromkeys(SAME_ROW, curated),
    "v1-33k": multiple_choice,
    "record": trained,
    "question": trained,
    "futurebench": futurebench,
    "twiffbench": twiffbench,
    "seedbench": seedbench,
    "score-futurebench": scored("futurebench"),
    "score-twiffbench": scored("twiffbench"),
    "prompt": prompted,
    "rewards": lambda record, _: inspect_rewards([record], paper_rl("la_dapo")),
    "judge-verdict": lambda record, _: VerdictReply.model_validate_json(last_object(json.dumps(record))),
    "judge-scores": lambda record, _: read_scores(json.dumps(record)),
    "judge-mark": lambda record, _: read_mark(json.dumps(record)) is not None,
    "completion": lambda record, _: ChatCompletion.model_validate(record),
}


def test_every_example_has_a_reader() -> None:
    assert set(EXAMPLES) == set(READERS)
    assert len(TABLES) == 14 and len(PARQUET) == 6


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_read(name: str, tmp_path: Path) -> None:
    assert READERS[name](EXAMPLES[name].record, tmp_path)


@pytest.mark.parametrize("name", TABLES)
def test_required_fields_are_required_and_optional_ones_are_not(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    listed = {field.partition(".")[0] for names, *_ in example.fields for field in names}
    assert listed == set(example.record), "each field of the example is in its table, and the other way round"
    for number, (names, need, _) in enumerate(example.fields):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            row = READERS[name](example.without(names), folder)
        except (ValueError, ValidationError):
            row = None
        assert bool(row) == (need == "optional"), (names, need)


@pytest.mark.parametrize("name", [name for name in PARQUET if name != "twiffbench"])
def test_parquet_of_the_types_in_the_table_is_the_same_row(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    path = as_parquet(example, example.record, tmp_path / "rows.parquet")
    if READERS[name] is curated:
        (row,), (same,) = curated_file(path), curated(example.record, tmp_path)
        assert row == same
    (row,), (same,) = trained_file(path), trained(example.record, tmp_path)
    assert row == same


def test_four_layouts_are_one_row_to_curate_and_to_train_on(tmp_path: Path) -> None:
    rows = [curated(EXAMPLES[name].record, tmp_path)[0] for name in SAME_ROW]
    assert len({row["row_id"] for row in rows}) == 1
    trained_rows = [trained(EXAMPLES[name].record, tmp_path)[0] | {"answer": ""} for name in SAME_ROW]
    assert all(row == trained_rows[0] for row in trained_rows)


def test_the_records_of_the_help_and_of_the_page_on_training_can_be_trained_on(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    for text in (str(TrainingConfig.__doc__), (PROJECT / "docs" / "training.md").read_text()):
        (record,) = re.findall(r'\{"video": "a\.mp4".*?\}', text, re.DOTALL)
        assert len(trained(json.loads(record), tmp_path)) == 1


@pytest.mark.parametrize("name", [*SAME_ROW, "record", "question"])
def test_what_is_trained_on_can_be_inspected(name: str, tmp_path: Path) -> None:
    put(tmp_path, "cup.mp4", "AAAAAAAAAAA_12.mp4")
    assert read_record(EXAMPLES[name].record, 0, tmp_path).row["frame_count"] == 20


def test_the_judge_is_as_on_the_page() -> None:
    reply = json.dumps(EXAMPLES["judge-verdict"].record)
    with served(lambda request, choice: f"Let me think. {reply} That is all.") as server:
        judge = Judge(JudgeSettings(base_url=server.url, model="served"))
        assert judge.verdicts([JudgeItem("What?", "this", "that")]) == ["correct"]
    (request,) = server.requests
    assert set(request) == {"model", "messages", "temperature", "max_tokens", "response_format"}
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
