"""The SFT loss against straight-line code that shares nothing with it, and what gradients may touch."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from trl import SFTConfig as TrlConfig

from tests.toy import LATENT_CONFIG, sft_recipe
from training.data.keyframes import key_frame_number
from training.data.video import read_frames
from training.model.checkpoint import FutureL1, load
from training.model.rows import RowReader, Rows
from training.sft import trainer as trainer_module
from training.sft.__main__ import freeze_vision
from training.sft.trainer import Collator, LatentSFTTrainer
from training.tiny import BASE

Draw = tuple[int, bool]
BATCHES: dict[str, list[Draw]] = {
    "one future frame": [(0, True)],
    "two future frames": [(1, True)],
    "three future frames": [(2, True)],
    "no latents": [(0, False), (1, False)],
    "all kinds at once": [(0, True), (1, False), (2, True), (4, True), (3, False)],
}


@pytest.fixture(scope="module")
def student() -> FutureL1:
    bundle = load(BASE)
    freeze_vision(bundle.model)
    return bundle


@pytest.fixture(scope="module")
def trainer(
    student: FutureL1, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> LatentSFTTrainer:
    folder = tmp_path_factory.mktemp("trainer")
    arguments = TrlConfig(
        output_dir=str(folder), max_steps=100, use_cpu=True, bf16=False, report_to=[],
        dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, remove_unused_columns=False,
        activation_checkpointing=False,
    )  # fmt: skip
    return LatentSFTTrainer(
        model=student.model,
        args=arguments,
        train_dataset=Dataset.from_list([{"row": 0, "spans": True}]),
        data_collator=Collator(
            Rows(rows, RowReader(student.encoder(LATENT_CONFIG), keep=True), folder / "skipped.jsonl")
        ),
        processing_class=student.processor.tokenizer,
        bundle=student,
        recipe=sft_recipe(latent_weight=0.3, loss_reduction="token"),
        vision=student.vision(2**24),
    )


def collated(trainer: LatentSFTTrainer, draws: list[Draw]) -> dict[str, Any]:
    return trainer.data_collator([{"row": row, "spans": spans, "counts": True} for row, spans in draws])


def naive_loss(bundle: FutureL1, rows: list[dict[str, Any]], draws: list[Draw], weight: float) -> torch.Tensor:
    """CE + weight * MSE, one row after the other, logits everywhere, everything by hand."""
    model, tokenizer = bundle.model, bundle.processor.tokenizer
    cross_entropies: list[torch.Tensor] = []
    squares: list[torch.Tensor] = []

    def features(row: dict[str, Any], key_frame: int, side: int) -> torch.Tensor:
        (frame,) = read_frames(row["path"], [key_frame_number(row["frame_count"], key_frame)], "sequential")
        image = Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)
        pixels = bundle.processor.image_processor(image, do_resize=False, return_tensors="pt")
        with torch.no_grad():
            return model.model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"]).pooler_output[0]

    for number, spans in draws:
        row = rows[number]
        question = row["question"].replace("frame_1\n<image>\n", "")
        frame = "<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"
        prompt = f"<|im_start|>user\nframe_1{frame}{question}<|im_end|>\n<|im_start|>assistant"
        answer = "\n"
        for thought in row["reasoning"][:-1]:
            answer += f"<reason>{thought}</reason>\n"
            if spans:
                answer += "<|latent_start|>" + "<|latent|>" * 4 + "<|latent_end|>\n"
        answer += f"<answer>{row['answer']}</answer><|im_end|>\n"
        ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])

        embeddings = list(model.get_input_embeddings()(torch.tensor(ids)))
        image = iter(features(row, row["observed"][0], 64))
        future = [f for key_frame in row["future"] for f in features(row, key_frame, 32)] if spans else []
        latents = iter(future)
        for t, token in enumerate(ids):
            if token == bundle.tokens.image:
                embeddings[t] = next(image)
            if token == bundle.tokens.latent:
                embeddings[t] = next(latents)
        positions, _ = model.model.get_rope_index(
            torch.tensor([ids]),
            torch.tensor([[int(token == bundle.tokens.image) for token in ids]]),
            image_grid_thw=torch.tensor([[1, 8, 8]]),
        )
        states = model.model.language_model(
            inputs_embeds=torch.stack(embeddings)[None], position_ids=positions, use_cache=False
        ).last_hidden_state[0]
        log_probs = model.lm_head(states).log_softmax(-1)
        latents = iter(future)
        for t in range(1, len(ids)):
            if t >= begin and ids[t] not in (bundle.tokens.latent, bundle.tokens.latent_end):
                cross_entropies.append(-log_probs[t - 1, ids[t]])
            if ids[t] == bundle.tokens.latent:
                squares.append((states[t - 1] - next(latents)).pow(2).mean())
    loss = torch.stack(cross_entropies).mean()
    return loss + weight * torch.stack(squares).mean() if squares else loss


@pytest.mark.parametrize("draws", BATCHES.values(), ids=BATCHES)
def test_the_loss_is_the_papers(
    trainer: LatentSFTTrainer, student: FutureL1, rows: list[dict[str, Any]], draws: list[Draw]
) -> None:
    with torch.no_grad():
        actual = trainer.compute_loss(student.model, collated(trainer, draws))
        expected = naive_loss(student, rows, draws, 0.3)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_gradients_reach_the_language_model_and_nothing_that_sees(trainer: LatentSFTTrainer, student: FutureL1) -> None:
    student.model.zero_grad()
    trainer.compute_loss(student.model, collated(trainer, BATCHES["all kinds at once"])).backward()
    learning = {name for name, p in student.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    student.model.zero_grad()
    assert learning
    assert not any(name.startswith("model.visual") for name in learning)
    assert any("layers.0.self_attn.q_proj" in name for name in learning)


def test_figures_are_reported(trainer: LatentSFTTrainer, student: FutureL1) -> None:
    trainer.log({})
    with torch.no_grad():
        loss = trainer.compute_loss(student.model, collated(trainer, BATCHES["one future frame"]))
    trainer.log({"loss": 1.0})
    figures = trainer.state.log_history[-1]
    assert figures["ce"] + 0.3 * figures["latent_mse"] == pytest.approx(float(loss), abs=1e-5)
    assert 0 <= figures["mean_token_accuracy"] <= 1
    assert figures["loss"] == 1.0


def test_skill_is_against_the_better_of_two_trivial_predictors(
    trainer: LatentSFTTrainer, student: FutureL1, rows: list[dict[str, Any]]
) -> None:
    reader, vision = RowReader(student.encoder(LATENT_CONFIG), keep=False), student.vision()
    dialogue = reader.dialogue(rows[1], spans=True)
    observed = {**rows[1], "future": [rows[1]["observed"][0]] * 2}
    truth, same = (vision.merged(d.future) for d in (dialogue, reader.dialogue(observed, spans=True)))
    everything = [p for row in rows for p in reader.dialogue(row, spans=True).future]
    mean = vision.merged(everything).mean(0)

    trainer.log({})
    with torch.no_grad():
        trainer.compute_loss(student.model, collated(trainer, [(1, True), (3, False)]))
    trainer.log({})
    figures = trainer.state.log_history[-1]
    assert figures["latent_mse/copy_last_frame"] == pytest.approx(float((same - truth).pow(2).mean()), rel=1e-5)
    assert figures["latent_mse/training_mean"] == pytest.approx(float((mean - truth).pow(2).mean()), rel=1e-5)
    trivial = min(figures["latent_mse/copy_last_frame"], figures["latent_mse/training_mean"])
    assert figures["latent_skill"] == pytest.approx(1 - figures["latent_mse"] / trivial)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The latents that each pass was fed."""
    batches: list[torch.Tensor] = []
    inner = trainer_module.spliced_forward

    def watched(model: Any, inputs: dict[str, Any], latent: torch.Tensor, latents: torch.Tensor, *rest: Any) -> Any:
        batches.append(latents)
        return inner(model, inputs, latent, latents, *rest)

    monkeypatch.setattr(trainer_module, "spliced_forward", watched)
    return batches


def test_targets_of_noise_say_nothing_of_the_row(
    trainer: LatentSFTTrainer, student: FutureL1, fed: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = [trainer.vision.merged(collated(trainer, [(row, True)])["batch"].future) for row in (0, 3)]
    assert true[0].shape == true[1].shape and not torch.allclose(*true, atol=1e-2)
    monkeypatch.setattr(trainer, "recipe", trainer.recipe.model_copy(update={"latent_targets": "noise"}))
    trainer.log({})
    for row in (0, 3):
        torch.manual_seed(5)
        with torch.no_grad():
            trainer.compute_loss(student.model, collated(trainer, [(row, True)]))
    assert torch.equal(*fed)
    trainer.log({})
    figures = trainer.state.log_history[-1]
    spread = figures["latent_mse/training_mean"]  # of noise around that mean: its variance, about that of true features
    mean = trainer._training_features[0]
    assert spread == pytest.approx(float((fed[0] - mean).pow(2).mean()), rel=1e-5)
    assert 0.5 < spread / float(trainer._training_features[1].pow(2).mean()) < 2


def test_own_states_replace_the_latent_inputs_late_and_only_them(
    trainer: LatentSFTTrainer, student: FutureL1, fed: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "recipe", trainer.recipe.model_copy(update={"scheduled_sampling": (0.5, 0.8)}))
    student.model.train()
    trainer.state.max_steps = 100
    inputs = collated(trainer, BATCHES["two future frames"])
    targets = trainer.vision.merged(inputs["batch"].future)
    with torch.no_grad():
        trainer.state.global_step = 20
        early = trainer.compute_loss(student.model, inputs)
        trainer.state.global_step = 90
        late = trainer.compute_loss(student.model, inputs)
    trainer.state.global_step = 0
    student.model.eval()
    first, before, predicted = fed
    assert torch.equal(first, targets) and torch.equal(before, targets)
    assert predicted.shape == targets.shape and not torch.allclose(predicted, targets, atol=0.1)
    assert not torch.isclose(early, late)


def test_own_states_come_in_growing_shares(
    trainer: LatentSFTTrainer, student: FutureL1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "recipe", trainer.recipe.model_copy(update={"scheduled_sampling": (0.25, 0.75)}))
    student.model.train()
    trainer.state.max_steps = 2000
    feeds = []
    for step in range(2000):
        trainer.state.global_step = step
        feeds.append(trainer._feeds_predictions())
    trainer.state.global_step, trainer.state.max_steps = 0, 100
    student.model.eval()
    quarters = np.array(feeds).reshape(4, 500).mean(1)
    assert quarters[0] == 0 and quarters[3] == 1
    assert quarters[1:3] == pytest.approx([0.25, 0.75], abs=0.07)
