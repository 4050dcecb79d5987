"""The RL program: what it leaves, how it starts from what a kill left, and whom it turns away."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from tests.toy import rl_recipe, toy_rows, write_rows
from tests.training.killed import Interrupting, kill_at
from tests.training.rl.made import config
from training.model.checkpoint import load
from training.rl import trainer as trainer_module
from training.rl.__main__ import main
from training.rl.trainer import LatentGRPOTrainer
from training.runtime.programs import Reporter, read_metrics
from training.tiny import BASE

KILLABLE = rl_recipe(max_steps=6, latent_anchor_coef=1.0, max_resample_rounds=2, save_steps=1)


@pytest.fixture(scope="module")
def run(data: Path, sft_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rl")
    result = main(config(out, data, sft_checkpoint, KILLABLE), Reporter(out))
    assert result.pop("verified")["latents_finite"]
    assert result == {"steps": 6, "rows": 24, "recipe": "test", "resumed_from": None, "skipped": 0}
    return out


def test_it_learns_and_tells(run: Path, sft_checkpoint: Path) -> None:
    before, after = load(sft_checkpoint), load(run / "checkpoint")
    assert after.latent_config == before.latent_config
    moved = {n for n, w in after.model.state_dict().items() if not torch.equal(w, before.model.state_dict()[n])}
    assert moved and not any("visual" in name for name in moved)
    assert all(torch.isfinite(w).all() for w in after.model.state_dict().values())
    assert read_metrics(run)[-1]["step"] == 6
    provenance = json.loads((run / "checkpoint" / "provenance.json").read_text())
    assert (provenance["program"], provenance["steps"], provenance["base"]["name"]) == (
        "training.rl",
        6,
        "test",
    )


def test_the_reference_is_sharded_as_the_policy_is(
    data: Path, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers, sharded = list[LatentGRPOTrainer](), list[torch.nn.Module]()
    monkeypatch.setattr(LatentGRPOTrainer, "train", lambda self, **_: trainers.append(self))
    monkeypatch.setattr(trainer_module, "shard_frozen", lambda model, _accelerator: sharded.append(model))
    main(config(tmp_path, data, sft_checkpoint, rl_recipe(beta=0.1)), Reporter(tmp_path, quiet=True))
    assert trainers[0].reference is not None and sharded == [trainers[0].reference]


def test_killed_at_any_step_it_goes_on_to_the_same_weights(
    run: Path, data: Path, sft_checkpoint: Path, tmp_path: Path
) -> None:
    run_config = config(tmp_path / "out", data, sft_checkpoint, KILLABLE)
    kill_at("training.rl", run_config, 3)
    resumed_from = main(run_config, Reporter(run_config.out, quiet=True))["resumed_from"]
    assert resumed_from in ("checkpoint-2", "checkpoint-4"), "checkpoints are made between rollout batches"
    whole, resumed = load(run / "checkpoint").model.state_dict(), load(run_config.out / "checkpoint").model.state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-6, rtol=0)


def test_killed_after_the_last_step_it_trains_no_further_one(
    run: Path, data: Path, sft_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("checkpoint"))
    result = main(config(out, data, sft_checkpoint, KILLABLE), Reporter(out, quiet=True))
    assert result["resumed_from"] == "checkpoint-6"
    assert max(line["step"] for line in read_metrics(out)) == 6
    whole, resumed = load(run / "checkpoint").model.state_dict(), load(out / "checkpoint").model.state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_interrupted_it_writes_a_checkpoint_between_rollout_batches(
    run: Path, data: Path, sft_checkpoint: Path, tmp_path: Path
) -> None:
    run_config = config(tmp_path / "out", data, sft_checkpoint, KILLABLE.model_copy(update={"save_steps": 1000}))
    with pytest.raises(KeyboardInterrupt):
        main(run_config, Interrupting(run_config.out, 3))
    assert main(run_config, Reporter(run_config.out, quiet=True))["resumed_from"] == "checkpoint-4"
    whole, resumed = load(run / "checkpoint").model.state_dict(), load(run_config.out / "checkpoint").model.state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-6, rtol=0)


def test_passes_of_any_size_add_up_to_a_minibatch(data: Path, sft_checkpoint: Path, tmp_path: Path) -> None:
    results = []
    for size in (8, 2):  # all the answers of an optimiser step at once, or in four passes
        out = tmp_path / str(size)
        recipe = rl_recipe(max_steps=2, latent_anchor_coef=1.0, latent_std=0.1, per_device_train_batch_size=size)
        main(config(out, data, sft_checkpoint, recipe), Reporter(out))
        results.append((read_metrics(out), load_file(out / "checkpoint" / "model.safetensors")))
    (figures, weights), (same_figures, same_weights) = results
    for line, same in zip(figures, same_figures, strict=True):
        for name in ("loss", "grad_norm"):
            assert line.get(name) == pytest.approx(same.get(name), rel=1e-4)
    for name, weight in weights.items():
        # Adam turns rounding of near-zero gradients into steps of up to the rate, 1e-3; a lost pass moves all
        torch.testing.assert_close(same_weights[name], weight, atol=2e-4, rtol=0)


def test_rl_starts_from_a_checkpoint_with_latents(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no latent configuration"):
        main(config(tmp_path, data, BASE, rl_recipe()), Reporter(tmp_path, quiet=True))


def test_no_rows_is_a_users_mistake(sft_checkpoint: Path, tmp_path: Path) -> None:
    empty = write_rows(toy_rows(tmp_path / "clips", [1]), tmp_path / "rows.parquet")
    pl.read_parquet(empty).clear().write_parquet(empty)
    with pytest.raises(ValueError, match="holds no rows: curate first"):
        main(config(tmp_path, empty, sft_checkpoint, rl_recipe()), Reporter(tmp_path, quiet=True))


def test_groups_must_be_whole_on_a_device(data: Path, sft_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not divisible by updates_per_batch, 5"):
        main(
            config(tmp_path, data, sft_checkpoint, rl_recipe(prompts_per_batch=3, updates_per_batch=5)),
            Reporter(tmp_path, quiet=True),
        )


def test_a_batch_of_more_prompts_than_rows_is_a_users_mistake(data: Path, sft_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 24 rows and a rollout batch needs 25"):
        main(config(tmp_path, data, sft_checkpoint, rl_recipe(prompts_per_batch=25)), Reporter(tmp_path, quiet=True))
