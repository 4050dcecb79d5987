"""The options of an SFT recipe: loss_reduction, supervise_span_length, LoRA, the optimiser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.utils.data import DataLoader
from trl import SFTConfig as TrlConfig

from tests.toy import LATENT_CONFIG, sft_recipe, toy_rows
from training.adapters import add_adapters
from training.arguments import Preparation, trainer_arguments
from training.model.checkpoint import load
from training.model.encoding import IGNORE, Encoded, collate
from training.model.rows import RowReader, Rows
from training.model.splice import inputs_of, spliced_forward
from training.recipes import LoraSettings, SftRecipe
from training.runtime.programs import TrainingConfig
from training.sft.__main__ import freeze_vision
from training.sft.trainer import Collator, LatentSFTTrainer
from training.tiny import BASE

Build = Callable[..., LatentSFTTrainer]
WIDE = LATENT_CONFIG.model_copy(update={"span_end": "model"})


@pytest.fixture
def build(rows: list[dict[str, Any]], tmp_path: Path) -> Build:
    """A trainer of a fresh base, on the first rows or on others."""

    def built(recipe: SftRecipe, rows: list[dict[str, Any]] = rows[:8], freeze: bool = True) -> LatentSFTTrainer:
        bundle = load(BASE)
        if freeze:
            freeze_vision(bundle.model)
        encoder = bundle.encoder(recipe.latent_config, supervise_span_length=recipe.supervise_span_length)
        config = TrainingConfig(out=tmp_path, data=tmp_path)
        alone = Preparation(BASE, rows, torch.device("cpu"), torch.float32, recipe.global_batch_size, 1, provenance={})
        total = (recipe.max_steps or 1) * recipe.global_batch_size
        draws = [{"row": i % len(rows), "spans": True, "counts": True} for i in range(total)]
        return LatentSFTTrainer(
            model=add_adapters(bundle, recipe.lora, seed=0) if recipe.lora else bundle.model,
            args=TrlConfig(
                **{**trainer_arguments(config, recipe, recipe.max_steps or 1, alone), "save_strategy": "no"},
                dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
            ),
            train_dataset=Dataset.from_list(draws),
            data_collator=Collator(Rows(rows, RowReader(encoder, keep=True), tmp_path / "skipped.jsonl")),
            processing_class=bundle.processor.tokenizer,
            bundle=bundle,
            recipe=recipe,
            vision=bundle.vision(2**24),
        )  # fmt: skip

    return built


def dialogues(trainer: LatentSFTTrainer, draws: list[tuple[int, bool]]) -> list[Encoded]:
    return [trainer.data_collator.rows.dialogue(row, spans) for row, spans in draws]


@torch.no_grad()
def terms(trainer: LatentSFTTrainer, dialogue: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    """Surprises and squared errors of one dialogue alone."""
    batch, vision = collate([dialogue], trainer.tokens.pad), trainer.vision
    latent, targets = batch.ids == trainer.tokens.latent, vision.merged(batch.future)
    inputs = inputs_of(batch, vision, trainer.model.device)
    everywhere = torch.ones_like(latent)
    states, logits = spliced_forward(trainer.model, inputs, latent, targets, everywhere)
    surprise = F.cross_entropy(logits[:-1], batch.labels[0, 1:], reduction="none", ignore_index=IGNORE)
    errors = (states[0, :-1][latent[0, 1:]] - targets).pow(2).mean(-1)
    return surprise[batch.labels[0, 1:] != IGNORE], errors


# ---- weighting


DRAWS = [(0, True), (1, True), (2, True), (4, False), (3, True)]


@pytest.mark.parametrize("weighting", ["sample", "token"])
def test_rows_or_tokens_weigh_the_same(build: Build, weighting: str) -> None:
    trainer = build(sft_recipe(loss_reduction=weighting, latent_weight=0.3))
    parts = [terms(trainer, dialogue) for dialogue in dialogues(trainer, DRAWS)]
    if weighting == "token":
        every, errors = (torch.cat(column) for column in zip(*parts, strict=True))
        expected = every.mean() + 0.3 * errors.mean()
    else:
        expected = torch.stack([ce.mean() + 0.3 * (mse.mean() if len(mse) else 0.0) for ce, mse in parts]).mean()
    inputs = trainer.data_collator([{"row": row, "spans": spans, "counts": True} for row, spans in DRAWS])
    with torch.no_grad():
        torch.testing.assert_close(trainer.compute_loss(trainer.model, inputs), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("weighting", ["sample", "token"])
def test_micro_batches_of_any_size_add_up_to_the_step(build: Build, weighting: str) -> None:
    trainer = build(sft_recipe(loss_reduction=weighting))
    draws = [{"row": row, "spans": spans, "counts": True} for row, spans in DRAWS]
    draws.append({"row": 5, "spans": False, "counts": False})  # fills up the last batch, and weighs nothing

    def gradient(sizes: list[int]) -> torch.Tensor:
        begins = [sum(sizes[:i]) for i in range(len(sizes))]
        window = [trainer.data_collator(draws[b : b + size]) for b, size in zip(begins, sizes, strict=True)]
        counts = trainer._get_num_items_in_batch(window, torch.device("cpu"))
        trainer.model.zero_grad()
        for inputs in window:
            trainer.compute_loss(trainer.model, inputs, num_items_in_batch=counts).backward()
        return trainer.model.model.language_model.layers[0].self_attn.q_proj.weight.grad.clone()

    whole = gradient([5])
    assert whole.abs().sum() > 0
    for sizes in ([1, 1, 1, 1, 1], [2, 3], [4, 2], [3, 2, 1]):
        torch.testing.assert_close(gradient(sizes), whole, atol=1e-6, rtol=1e-4)


# ---- how long a span is


def test_the_length_of_a_span_is_learned_only_where_it_is_supervised(build: Build) -> None:
    going_on = {}
    for supervised in (False, True):
        recipe = sft_recipe(
            latent_config=WIDE, supervise_span_length=supervised, max_steps=24, global_batch_size=4, learning_rate=3e-3
        )
        trainer = build(recipe)
        t = trainer.tokens
        (dialogue,) = dialogues(trainer, [(0, True)])
        inside = dialogue.ids.index(t.latent)
        decisions = dialogue.labels[inside : inside + 5]
        assert decisions == ([t.latent] * 4 if supervised else [IGNORE] * 4) + [t.latent_end]
        trainer.train()
        batch = collate([dialogue], t.pad)
        at = torch.zeros_like(batch.ids, dtype=torch.bool)
        at[0, inside - 1 : inside + 3] = True
        inputs = inputs_of(batch, trainer.vision, trainer.model.device)
        with torch.no_grad():
            _, logits = spliced_forward(
                trainer.model, inputs, batch.ids == t.latent, trainer.vision.merged(batch.future), at
            )
        going_on[supervised] = float(logits.softmax(-1)[:, t.latent].mean())
    assert going_on[True] > 0.5 > 0.1 > going_on[False]


# ---- what learns, and how


def test_an_unfrozen_tower_is_an_error(build: Build) -> None:
    with pytest.raises(ValueError, match=r"must be frozen; \d+ of their weights would learn, model\.visual\."):
        build(sft_recipe(), freeze=False)


def test_adapters_learn_and_the_rest_does_not(build: Build) -> None:
    trainer = build(sft_recipe(lora=LoraSettings(r=4, lora_alpha=8.0), max_steps=2))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name or "trainable_tokens" in name for name in moved)
    assert any("lora_B" in name for name in moved) and any("trainable_tokens" in name for name in moved)


def test_norms_and_biases_are_not_decayed(build: Build) -> None:
    trainer = build(sft_recipe(learning_rate=1e-3, weight_decay=0.1))
    trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups
    }
    assert set(groups) == {0.0, 0.1}
    assert all("norm" in name or name.endswith("bias") for name in groups[0.0])
    assert not any("norm" in name or name.endswith("bias") for name in groups[0.1])
    assert any("q_norm" in name for name in groups[0.0]) and any("q_proj" in name for name in groups[0.1])


def test_gradients_are_really_clipped(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(sft_recipe(max_steps=1, learning_rate=1e-3, max_grad_norm=0.01))
    norms: list[float] = []
    create = trainer.create_optimizer

    def watched(*args: Any) -> Any:
        optimiser = create(*args)
        step = optimiser.step

        def clipped(*a: Any, **kw: Any) -> Any:
            gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
            return step(*a, **kw)

        optimiser.step = clipped
        return optimiser

    monkeypatch.setattr(trainer, "create_optimizer", watched)
    trainer.train()
    assert norms == [pytest.approx(0.01, rel=1e-3)]


# ---- rows that cannot be used


def test_a_batch_with_unusable_rows_is_filled_with_others(build: Build, tmp_path: Path) -> None:
    rows = toy_rows(tmp_path / "clips", [1, 2, 3], seed=4)
    broken = [
        {**rows[0], "row_id": "a" * 16, "path": str(tmp_path / "nowhere.mp4")},
        {**rows[1], "row_id": "b" * 16, "answer": "red<|im_end|>"},
        {**rows[2], "row_id": "c" * 16, "future": [9, 3, 4]},
    ]
    trainer = build(sft_recipe(), rows=[broken[0], rows[0], broken[1], broken[2], rows[1]])
    inputs = trainer.data_collator([{"row": i, "spans": True, "counts": True} for i in range(5)])
    expected = dialogues(trainer, [(1, True), (1, True), (4, True), (4, True), (4, True)])
    assert inputs["input_ids"].tolist() == collate(expected, trainer.tokens.pad).ids.tolist()
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == 3, "once each"
    for row, reason in zip("abc", ("nowhere.mp4", r"control string <|im_end|>", "from 1 to 8; found 9"), strict=True):
        assert any(row * 16 in line and reason in line for line in lines)


def test_workers_read_as_the_process_itself(build: Build) -> None:
    trainer = build(sft_recipe(dataloader_num_workers=2))
    draws = [{"row": row, "spans": spans, "counts": True} for row, spans in DRAWS]
    loader = DataLoader(draws, batch_size=2, collate_fn=trainer.data_collator, num_workers=2)
    for inputs, begin in zip(loader, (0, 2, 4), strict=True):
        expected = trainer.data_collator(draws[begin : begin + 2])
        assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()
        features = [trainer.vision.merged(batch.future) for batch in (inputs["batch"], expected["batch"])]
        assert torch.equal(*features)


def test_no_usable_row_at_all_is_a_users_mistake(build: Build, rows: list[dict[str, Any]]) -> None:
    trainer = build(sft_recipe(), rows=[{**rows[0], "path": "/nowhere.mp4"}])
    with pytest.raises(ValueError, match=r"none of the 1 rows can be used; the first, \w+: /nowhere.mp4"):
        trainer.data_collator([{"row": 0, "spans": True, "counts": True}])
