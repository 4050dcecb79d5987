"""The JSON export obeys the rules of the public release's loader, read here a second time from its description."""

import json
import re
from pathlib import Path
from typing import Any

from assets.curation.contamination import benchmark_index
from assets.curation.export import PUBLIC_COLUMNS, export_json
from assets.curation.selection import SelectionSettings, select
from tests.assets.curation.scored_rows import scored_of, trajectory, write_shards


def rendered(record: dict[str, Any]) -> tuple[list[str | int], list[str | int]]:
    """A record's user and assistant pieces by reference/sft.md 2.1 and 2.3; frames are their indices.

    The first turn of a speaker counts.  The i-th marker is the i-th frame; surplus markers and frames are dropped.
    """
    assert isinstance(record["reasoning_image"], list) and all(type(k) is int for k in record["reasoning_image"])
    assert isinstance(record["image"][0], int), "integers make it the kind of record that holds key frames"
    turns: dict[str, str] = {}
    for turn in record["conversations"]:
        turns.setdefault(turn["from"], turn["value"])
    user: list[str | int] = []
    pieces = turns["human"].split("<image>")
    for number, piece in enumerate(pieces):
        user += [piece.strip()] if piece.strip() else []
        user += [record["image"][number]] if number < min(len(pieces) - 1, len(record["image"])) else []
    assistant: list[str | int] = []
    pieces = turns["gpt"].split("<image>")
    for number, piece in enumerate(pieces):
        text = re.sub(r"THOUGHT \d+:\s*", "", piece).strip()
        assistant += [f"<reason>{text}</reason>\n"] if text else []
        frames = record["reasoning_image"]
        assistant += [frames[number], "\n"] if number < min(len(pieces) - 1, len(frames)) else []
    if record["answer"].strip():
        assistant.append(f"<answer>{record['answer'].strip()}</answer>")
    return user, assistant


def test_the_releases_loader_reads_what_was_exported(tmp_path: Path) -> None:
    rows = [
        trajectory(0, question="frame_1\n<image>\nWhat happens?", answer='it "falls"\nand é', future=[3, 5],
                   reasoning=["It tips.", "", "Then: done."], start=None, end=None),
        trajectory(1),
    ]  # fmt: skip
    files = write_shards(tmp_path, scored_of(rows, [(0, 8), (1, 5)]))
    chosen = select(files, SelectionSettings(), benchmark_index({})).rows
    chosen.sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "curated.parquet")
    assert export_json(tmp_path / "curated.parquet", tmp_path / "future_l1_50k.json") == 2
    records = json.loads((tmp_path / "future_l1_50k.json").read_text(encoding="utf-8"))
    assert isinstance(records, list) and [set(record) for record in records] == [set(PUBLIC_COLUMNS)] * 2
    assert rendered(records[0]) == (
        ["frame_1", 1, "What happens?"],
        ["<reason>It tips.</reason>\n", 3, "\n", 5, "\n", "<reason>Then: done.</reason>\n",
         '<answer>it "falls"\nand é</answer>'],
    )  # fmt: skip
    assert records[0]["meta_data"] == {"classification": "predictive", "start": None, "end": None}
    counts = [(record["gain"], record["correct_in_8_base"], record["correct_in_8_hint"]) for record in records]
    assert counts == [(8, 0, 8), (4, 1, 5)]
    text = json.dumps(records)
    assert "<rimage>" not in text and "<ans>" not in text and records[1]["video"] == rows[1]["video"]
