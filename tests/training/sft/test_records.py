"""SFT and RL train on any file of rows as on the lineage's own table of them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from assets.curation.publication import export_json
from assets.curation.selection import CuratedTable, published
from tests.toy import rl_recipe, sft_recipe, toy_rows, write_rows
from tests.training.rl.made import config as rl_config
from training.rl.__main__ import main as rl_main
from training.runtime.programs import Reporter
from training.sft.__main__ import SftConfig, main
from training.tiny import BASE

PROJECT = Path(__file__).parents[3]


def curated(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The rows as `curate` publishes them."""
    more = {"process": None, "summary": "A marble rolls.", "p_t": 0, "p_v": 8, "gain": 8}
    return published(pl.DataFrame([row | more | {"rank": rank} for rank, row in enumerate(rows, start=1)]))


def to_json(rows: list[dict[str, Any]], folder: Path) -> Path:
    export_json(curated(rows), folder / "future_l1_50k.json")
    return folder / "future_l1_50k.json"


def to_parquet(rows: list[dict[str, Any]], folder: Path) -> Path:
    curated(rows).select(CuratedTable.column_names()).write_parquet(folder / "future_l1_50k.parquet")
    return folder / "future_l1_50k.parquet"


def to_lines(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Records as somebody writes them by hand: questions without markers."""
    names = ("video", "reasoning", "answer", "observed", "future")
    lines = [{name: row[name] for name in names} | {"question": row["question"].split("\n", 2)[2]} for row in rows]
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "mine.jsonl"


def trained(
    data: Path, clips: Path | None, out: Path, workers: int = 0
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    out.mkdir()
    config = SftConfig(out=out, device="cpu", recipe=sft_recipe(dataloader_num_workers=workers), data=data, clips=clips,
                       base=BASE)  # fmt: skip
    return main(config, Reporter(out, quiet=True)), load_file(out / "checkpoint" / "model.safetensors")


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return toy_rows(tmp_path_factory.mktemp("clips"), [1, 2, 3, 1, 2, 3, 1, 2], seed=3)


@pytest.fixture(scope="module")
def weights(eight: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What SFT makes of the table whose clips were probed."""
    folder = tmp_path_factory.mktemp("table")
    return trained(write_rows(eight, folder / "rows.parquet"), None, folder / "out")[1]


@pytest.mark.parametrize(("write", "workers"), [(to_json, 0), (to_parquet, 0), (to_lines, 0), (to_lines, 2)])
def test_sft_is_the_same_from_every_file(
    write: Callable[[list[dict[str, Any]], Path], Path],
    workers: int,
    eight: list[dict[str, Any]],
    weights: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    result, same = trained(write(eight, tmp_path), Path(eight[0]["path"]).parent, tmp_path / "out", workers)
    assert (result["rows"], result["skipped"]) == (8, 0)
    assert all(torch.equal(same[name], weight) for name, weight in weights.items())


def test_what_cannot_be_used_is_listed_and_training_goes_on(eight: list[dict[str, Any]], tmp_path: Path) -> None:
    data = to_lines([{**eight[0], "future": [9]}, {**eight[1], "video": "gone.mp4"}, *eight[2:]], tmp_path)
    result, _ = trained(data, Path(eight[0]["path"]).parent, tmp_path / "out")
    assert (result["rows"], result["skipped"]) == (7, 2)
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {record["row_id"] for record in skipped} == {"0", "1"}
    assert skipped[0]["reason"] == "mine.jsonl, row 0: key frame outside 1..8: future holds 9"
    assert "gone.mp4" in skipped[1]["reason"]


def test_plain_answers_are_trained_on_where_no_row_with_future_frames_can_be_used(
    eight: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows = [{**eight[0], "video": "gone.mp4"}, *({**row, "reasoning": [""], "future": []} for row in eight[1:])]
    result, _ = trained(to_lines(rows, tmp_path), Path(eight[0]["path"]).parent, tmp_path / "out")
    assert (result["rows"], result["skipped"]) == (8, 1)
    assert result["verified"]["row_id"] == "1" and result["verified"]["states_finite"]


def test_rl_trains_on_questions_with_answers(
    eight: list[dict[str, Any]], sft_checkpoint: Path, tmp_path: Path
) -> None:
    lines = [
        {"video": row["path"], "image": row["observed"], "question": row["question"], "answer": row["answer"]}
        for row in eight
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    result = rl_main(rl_config(out, data, sft_checkpoint, rl_recipe()), Reporter(out, quiet=True))
    assert (result["steps"], result["rows"], result["skipped"]) == (2, 8, 0)
    assert result["verified"]["latents_finite"]


def test_a_file_without_use_ends_the_program_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "What next?"}\n')
    config = SftConfig(out=tmp_path / "out", recipe=sft_recipe(), data=tmp_path / "mine.jsonl", base=BASE, device="cpu")
    (tmp_path / "sft.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "training.sft", "--config", str(tmp_path / "sft.json")]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        2, f"{tmp_path}/mine.jsonl: none of 1 rows is usable; the first: mine.jsonl, row 0: empty answer: training "
        "needs one\n",
    )  # fmt: skip
