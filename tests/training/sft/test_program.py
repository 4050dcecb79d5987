"""The program `training.sft`: it teaches, it can be killed at any step, and it says what it did."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from trl import SFTTrainer

from tests.toy import sft_recipe, toy_rows, write_rows
from training.callbacks import last_checkpoint
from training.model.checkpoint import load
from training.programs import Reporter, read_metrics, read_progress
from training.recipes import Optimiser, SftRecipe
from training.sft.__main__ import SftConfig, main
from training.sft.trainer import LatentSFTTrainer
from training.tiny import BASE

MIXED = sft_recipe(
    steps=6,
    span_share=(0.7, 0.7, 0.7),
    own_state=(0.2, 0.6),
    save_every=2,
    optimiser=Optimiser(rate=1e-3, weight_decay=0.01, warmup=0.2, schedule="cosine"),
)


class Killed(Exception):  # noqa: N818 - an event, not an error
    """Stands for a SIGKILL: nothing of the program runs after it."""


class KilledAt(Reporter):
    """A reporter under which the program dies at a step."""

    def __init__(self, out: Path, step: int) -> None:
        super().__init__(out, quiet=True)
        self.step = step

    def progress(self, done: int, total: int, what: str) -> None:
        if done == self.step:
            raise Killed


def config(out: Path, data: Path, recipe: SftRecipe = MIXED) -> SftConfig:
    out.mkdir(parents=True, exist_ok=True)
    return SftConfig(out=out, device="cpu", recipe=recipe, data=data, base=BASE)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    result = main(config(out, data), Reporter(out))
    assert result == {"steps": 6, "rows": 24, "recipe": "test", "resumed_from": None}
    return out


def test_it_leaves_a_checkpoint_that_differs_from_its_base(uninterrupted: Path) -> None:
    before, after = load(BASE).model.state_dict(), load(uninterrupted / "checkpoint").model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert any("language_model" in name for name in changed)
    assert not any(".visual." in name for name in changed)
    assert all(torch.isfinite(weight).all() for weight in after.values())


def test_it_tells_how_it_goes(uninterrupted: Path) -> None:
    assert read_progress(uninterrupted) == (6, 6, "SFT")
    figures = read_metrics(uninterrupted)
    assert figures[-1]["step"] == 6


@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_run_goes_on_to_the_same_weights(uninterrupted: Path, data: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        main(config(tmp_path, data), KilledAt(tmp_path, step))
    assert not (tmp_path / "checkpoint").exists()
    result = main(config(tmp_path, data), Reporter(tmp_path, quiet=True))
    assert result["resumed_from"] == (None if step == 1 else "checkpoint-4")
    whole, resumed = load(uninterrupted / "checkpoint").model, load(tmp_path / "checkpoint").model
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"epoch": 1.'), (14, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_micro_batches_add_up_to_a_batch(tmp_path: Path) -> None:
    # rows of one shape, all with spans, since the loss is a mean of means
    single = write_rows(toy_rows(tmp_path / "clips", [2] * 8, seed=9), tmp_path / "rows.parquet")
    weights = []
    for batch, accumulation in ((4, 1), (2, 2)):
        out = tmp_path / f"{batch}"
        recipe = sft_recipe(steps=2, batch=batch, accumulation=accumulation)
        main(config(out, single, recipe), Reporter(out, quiet=True))
        weights.append(load(out / "checkpoint").model.state_dict())
    for name, weight in weights[0].items():
        # Adam turns rounding of near-zero gradients into steps of up to the rate, 1e-3; a lost micro-batch moves all
        torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=0)


def test_epochs_decide_where_no_steps_are_given(data: Path, tmp_path: Path) -> None:
    recipe = sft_recipe(steps=None, epochs=1, batch=12)
    assert main(config(tmp_path, data, recipe), Reporter(tmp_path, quiet=True))["steps"] == 2


def test_no_rows_is_a_users_mistake(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    import polars as pl

    empty = tmp_path / "rows.parquet"
    pl.DataFrame(rows).clear().write_parquet(empty)
    with pytest.raises(ValueError, match="holds no rows: curate first"):
        main(config(tmp_path / "out", empty), Reporter(tmp_path, quiet=True))


@pytest.mark.parametrize("name", ["compute_loss", "_get_train_sampler", "_get_eval_sampler"])
def test_what_is_overridden_is_still_what_trl_calls(name: str) -> None:
    theirs = inspect.signature(getattr(SFTTrainer, name)).parameters
    ours = inspect.signature(getattr(LatentSFTTrainer, name)).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in ours.values())
    assert takes_any or list(ours) == list(theirs)


def test_the_trainers_private_parts_are_still_there() -> None:
    """Names that trl 1.16 and transformers do not promise."""
    assert "self._metrics = {" in inspect.getsource(SFTTrainer.__init__)
    assert "model_accepts_loss_kwargs" in inspect.getsource(Trainer.training_step)
    assert list(inspect.signature(Trainer._get_eval_sampler).parameters) == ["self", "eval_dataset"]
