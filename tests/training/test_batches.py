"""The number of processes is no hyperparameter: it never changes the rows of an optimiser step."""

from pathlib import Path
from typing import Any

import pytest

from tests.toy import rl_recipe, sft_recipe
from training.recipes import RlRecipe, SftRecipe, demo_sft, micro_batches, paper_rl, paper_sft
from training.rl.__main__ import RlConfig
from training.rl.__main__ import main as rl
from training.runtime.errors import PermanentError
from training.runtime.programs import Reporter
from training.sft.__main__ import SftConfig
from training.sft.__main__ import main as sft

PAPER = {"sft": paper_sft("future_l1"), "rl": paper_rl("la_dapo")}


@pytest.mark.parametrize(("stage", "rows"), [("sft", 128), ("rl", 256)])
@pytest.mark.parametrize("processes", range(1, 129))
def test_a_step_of_the_paper_has_the_same_rows_on_any_number_of_processes(
    stage: str, rows: int, processes: int
) -> None:
    recipe: Any = PAPER[stage]
    if rows % processes:
        with pytest.raises(PermanentError, match=f"the {rows} rows of an optimiser step do not divide"):
            micro_batches(recipe, processes)
    else:
        micro_batch, accumulation = micro_batches(recipe, processes)
        assert micro_batch * accumulation * processes == rows
        assert micro_batch <= recipe.per_device_train_batch_size


@pytest.mark.parametrize(("processes", "nearest"), [(3, "2 or 4"), (6, "4 or 8"), (48, "32 or 64"), (300, "256")])
def test_the_nearest_numbers_of_processes_are_named(processes: int, nearest: str) -> None:
    sentence = rf"recipe la_dapo: .* into {processes} processes: start {nearest} \(launch.num_processes\)"
    with pytest.raises(PermanentError, match=sentence):
        micro_batches(PAPER["rl"], processes)


@pytest.mark.parametrize(
    ("recipe", "processes", "expected"),
    [
        (demo_sft("future_l1"), 1, (32, 1)),
        (demo_sft("future_l1"), 4, (8, 1)),
        (sft_recipe(global_batch_size=12, per_device_train_batch_size=5), 1, (4, 3)),
        (sft_recipe(global_batch_size=12, per_device_train_batch_size=6), 3, (2, 2)),  # half a batch of one shape
        (sft_recipe(global_batch_size=7, per_device_train_batch_size=5), 1, (1, 7)),
        (PAPER["rl"], 8, (4, 8)),
        (PAPER["rl"], 64, (4, 1)),
    ],
)
def test_a_device_takes_no_more_rows_at_once_than_it_may(
    recipe: SftRecipe | RlRecipe, processes: int, expected: tuple[int, int]
) -> None:
    assert micro_batches(recipe, processes) == expected


@pytest.mark.parametrize("program", ["sft", "rl"])
def test_three_processes_are_refused_before_anything_is_read(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    nowhere = tmp_path / "nowhere"
    settings: dict[str, Any] = {"out": tmp_path, "device": "cpu", "data": nowhere}
    with pytest.raises(PermanentError, match="do not divide into 3 processes: start 2 or 4"):
        if program == "sft":
            sft(SftConfig(recipe=sft_recipe(), base=nowhere, **settings), Reporter(tmp_path, quiet=True))
        else:
            rl(RlConfig(recipe=rl_recipe(), sft=nowhere, **settings), Reporter(tmp_path, quiet=True))
    assert list(tmp_path.iterdir()) == []
