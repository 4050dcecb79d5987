"""A file in the layout of the public Future-L1-50K (reference/paper.md 4.1)."""

from pathlib import Path

from datasets import Dataset, Features, List, Value

INTEGERS, TEXT = List(Value("int64")), Value("string")
FEATURES = Features(
    {
        "video": TEXT,
        "conversations": List({"from": TEXT, "value": TEXT}),
        "image": INTEGERS,
        "reasoning_image": INTEGERS,
        "meta_data": dict.fromkeys(("Process", "Summary", "classification", "start", "end"), TEXT),
        "gain": Value("int64"),
        "correct_in_8_base": Value("int64"),
        "correct_in_8_hint": Value("int64"),
    }
)
ROW = {
    "video": "-0AAhXT99Zw-0:04:09.165-0:04:57.213.mp4",
    "conversations": [
        {"from": "human", "value": "frame_1\n<image>\nWhat happens next?"},
        {"from": "gpt", "value": "THOUGHT 1: It tips. <image>"},
    ],
    "image": [1],
    "reasoning_image": [4],
    "meta_data": {"Process": "A cup tips.", "Summary": "It falls.", "classification": "Predictive",
                  "start": "0:04:09.165", "end": "0:04:57.213"},
    "gain": 7,
    "correct_in_8_base": 1,
    "correct_in_8_hint": 8,
}  # fmt: skip


def write_release(path: Path, rows: int) -> Dataset:
    """Writes so many rows as parquet, as `datasets` does for a hub."""
    release = Dataset.from_list([ROW] * rows, features=FEATURES)
    release.to_parquet(path)
    return release
