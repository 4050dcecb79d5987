"""The program `training.sft`: it teaches, it can be killed at any step, and it says what it did."""

import copy
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import Trainer
from trl import SFTTrainer

from tests.toy import sft_recipe, toy_rows, write_rows
from tests.training.killed import Interrupting, kill_at
from training.model.checkpoint import load
from training.model.placement import learn_in_fp32
from training.recipes import SftRecipe
from training.runtime.callbacks import last_checkpoint
from training.runtime.model_card import CardFields, model_card
from training.runtime.programs import Reporter, read_metrics, read_progress
from training.sft.__main__ import SftConfig, freeze_vision, main
from training.sft.trainer import LatentSFTTrainer
from training.storage.hashing import file_digest
from training.tiny import BASE

ROOT = Path(__file__).parents[3]
MIXED = sft_recipe(
    max_steps=20,
    latent_keep_prob=(0.7, 0.7, 0.7),
    scheduled_sampling=(0.2, 0.6),
    save_steps=3,
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup_ratio=0.2,
    lr_scheduler_type="cosine_with_min_lr",
)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def config(out: Path, data: Path, recipe: SftRecipe = MIXED) -> SftConfig:
    out.mkdir(parents=True, exist_ok=True)
    return SftConfig(out=out, device="cpu", recipe=recipe, data=data, base=BASE)


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    (out / "result.json").write_text(json.dumps(main(config(out, data), Reporter(out))))
    return out


def test_it_says_what_it_did_and_what_the_saved_folder_does(uninterrupted: Path, rows: list[dict[str, Any]]) -> None:
    result = json.loads((uninterrupted / "result.json").read_text())
    facts = result.pop("verified")
    assert result == {"steps": 20, "rows": 24, "recipe": "test", "resumed_from": None, "skipped": 0}
    assert (facts["plain_class"], facts["plain_processor"]) == ("Qwen3VLForConditionalGeneration", "Qwen3VLProcessor")
    assert facts["weights_missing"] == facts["weights_unknown"] == []
    assert facts["row_id"] == rows[0]["row_id"]
    assert facts["decoded_tokens"] >= 1
    assert facts["teacher_forced_spans"] == [4]
    assert facts["latents_finite"] and facts["states_finite"]


def test_a_checkpoint_says_where_it_comes_from(uninterrupted: Path, data: Path) -> None:
    provenance = json.loads((uninterrupted / "checkpoint" / "provenance.json").read_text())
    assert provenance["data"] == {"file": data.name, "sha256": file_digest(data), "version": None, "rows": 24}
    assert provenance["base"]["files"] == {
        name: file_digest(BASE / name) for name in ("config.json", "model.safetensors")
    }
    assert SftRecipe(**provenance["recipe"]) == MIXED
    assert provenance["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert None not in provenance["packages"].values()
    last = {name: value for line in read_metrics(uninterrupted) for name, value in line.items()}
    assert provenance["metrics"].keys() == {"loss", "ce", "latent_mse", "latent_skill", "mean_token_accuracy"}
    assert provenance["metrics"].items() <= last.items()
    card = ModelCard.load(uninterrupted / "checkpoint" / "README.md")
    assert card.content == model_card(provenance, MIXED.latent_config.model_dump(mode="json"), CardFields())
    assert (provenance["program"], provenance["steps"], provenance["processes"], provenance["dtype"]) == (
        "training.sft",
        20,
        1,
        "float32",
    )


def test_it_leaves_a_checkpoint_that_differs_from_its_base(uninterrupted: Path) -> None:
    before, after = load(BASE).model.state_dict(), load(uninterrupted / "checkpoint").model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert any("language_model" in name for name in changed)
    assert not any(".visual." in name for name in changed)
    assert all(torch.isfinite(weight).all() for weight in after.values())


def test_it_tells_how_it_goes(uninterrupted: Path) -> None:
    assert read_progress(uninterrupted) == (20, 20, "SFT")
    figures = read_metrics(uninterrupted)
    assert [line["step"] for line in figures] == list(range(1, 21)), "a short run reports every step"
    assert {"ce", "latent_mse", "latent_mse/copy_last_frame", "latent_mse/training_mean", "latent_skill"} <= set(
        figures[0]
    )


def test_killed_at_any_step_it_goes_on_to_the_same_weights(uninterrupted: Path, data: Path, tmp_path: Path) -> None:
    run_config = config(tmp_path / "out", data)
    kill_at("training.sft", run_config, 5)
    resumed_from = main(run_config, Reporter(run_config.out, quiet=True))["resumed_from"]
    assert resumed_from is not None and 3 <= int(resumed_from.removeprefix("checkpoint-")) < 20
    assert len(list((run_config.out / "steps").glob("checkpoint-*"))) == 2, "older ones are removed"
    whole, resumed = weights(uninterrupted), weights(run_config.out)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-6, rtol=0)


def test_interrupted_it_writes_a_checkpoint_and_goes_on_to_the_same_weights(
    uninterrupted: Path, data: Path, tmp_path: Path
) -> None:
    run_config = config(tmp_path / "out", data, MIXED.model_copy(update={"save_steps": 1000}))
    with pytest.raises(KeyboardInterrupt):
        main(run_config, Interrupting(run_config.out, 5))
    assert not (run_config.out / "checkpoint").exists()
    assert main(run_config, Reporter(run_config.out, quiet=True))["resumed_from"] == "checkpoint-5"
    whole, resumed = weights(uninterrupted), weights(run_config.out)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-6, rtol=0)


def test_killed_after_the_last_step_it_trains_no_further_one(uninterrupted: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out, ignore=shutil.ignore_patterns("checkpoint", "result.json"))
    assert main(config(out, data), Reporter(out, quiet=True))["resumed_from"] == "checkpoint-20"
    assert max(line["step"] for line in read_metrics(out)) == 20
    whole, resumed = weights(uninterrupted), weights(out)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"epoch": 1.'), (14, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "part_0").touch()
    assert last_checkpoint(tmp_path, needs=["part_0"]) == str(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path, needs=["part_0", "part_1"]) is None, "a kill hit the other process"
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_micro_batches_add_up_to_a_batch(tmp_path: Path) -> None:
    # nine rows of all depths in windows of four: the last window is one row
    mixed = write_rows(toy_rows(tmp_path / "clips", [1, 2, 3] * 3, seed=9), tmp_path / "rows.parquet")
    results = []
    for size in (4, 2):
        out = tmp_path / f"{size}"
        recipe = sft_recipe(max_steps=None, per_device_train_batch_size=size)
        assert main(config(out, mixed, recipe), Reporter(out))["steps"] == 3
        results.append((weights(out), [line["ce"] for line in read_metrics(out) if "ce" in line]))
    (once, once_ce), (twice, twice_ce) = results
    assert twice_ce == pytest.approx(once_ce, abs=1e-4)
    for name, weight in once.items():
        # Adam turns rounding of near-zero gradients into steps of up to the rate, 1e-3; a lost micro-batch moves all
        torch.testing.assert_close(twice[name], weight, atol=1e-4, rtol=0)


def test_an_unreadable_row_is_reported_and_stops_nothing(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    broken = {**rows[0], "path": str(tmp_path / "nowhere.mp4")}
    data = write_rows([broken, *rows[1:4]], tmp_path / "rows.parquet")
    result = main(config(tmp_path / "out", data, sft_recipe(max_steps=2)), Reporter(tmp_path / "out", quiet=True))
    assert result["skipped"] == 1
    assert result["verified"]["row_id"] == rows[1]["row_id"], "the first row that can be read"
    provenance = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {line["row_id"] for line in provenance} == {broken["row_id"]}
    assert "nowhere.mp4" in provenance[0]["reason"]


def test_what_learns_is_kept_in_fp32_and_what_is_frozen_is_not(base: Any) -> None:
    model = copy.deepcopy(base.model).to(torch.bfloat16)
    freeze_vision(model)
    learn_in_fp32(model)
    assert {p.dtype for p in model.model.visual.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_epochs_decide_without_max_steps(data: Path, tmp_path: Path) -> None:
    recipe = sft_recipe(max_steps=None, num_train_epochs=1, global_batch_size=12)
    assert main(config(tmp_path, data, recipe), Reporter(tmp_path, quiet=True))["steps"] == 2


def test_no_rows_is_a_users_mistake(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    import polars as pl

    empty = tmp_path / "rows.parquet"
    pl.DataFrame(rows).clear().write_parquet(empty)
    with pytest.raises(ValueError, match="holds no rows: curate first"):
        main(config(tmp_path / "out", empty), Reporter(tmp_path, quiet=True))


@pytest.mark.parametrize("name", ["compute_loss", "_get_train_sampler", "_get_num_items_in_batch", "log"])
def test_what_is_overridden_is_still_what_trl_calls(name: str) -> None:
    theirs = inspect.signature(getattr(SFTTrainer, name)).parameters
    ours = inspect.signature(getattr(LatentSFTTrainer, name)).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in ours.values())
    assert takes_any or list(ours) == list(theirs)


def test_the_trainer_still_asks_for_what_is_set(base: Any) -> None:
    """Names that trl 1.16, transformers and accelerate do not promise."""
    assert "self.loss_is_scaled_for_ga" in inspect.getsource(Trainer.training_step)
    assert "_get_num_items_in_batch(" in inspect.getsource(Trainer.get_batch_samples)
    assert base.model.all_tied_weights_keys == {"lm_head.weight": "model.language_model.embed_tokens.weight"}
