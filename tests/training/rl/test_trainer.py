"""LA-DAPO on TRL's trainer: what it may rely on, its first step, its loss, and its groups."""

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch.distributions import Normal
from trl import GRPOTrainer

from tests.toy import rl_recipe
from tests.training.rl.made import config
from training.data.video import UnreadableVideo
from training.grading.form import REPETITIVE, repetition
from training.grading.parsers import answer_text, normalised
from training.model.checkpoint import FutureL1, load
from training.recipes import LoraSettings, RlRecipe
from training.rl import trainer as trainer_module
from training.rl.__main__ import main
from training.rl.groups import record_of
from training.rl.rollouts import Rollout, replayed
from training.rl.surplus import read, write
from training.rl.trainer import LatentGRPOTrainer
from training.runtime.programs import Reporter


@pytest.fixture
def built(
    monkeypatch: pytest.MonkeyPatch, data: Path, sft_checkpoint: Path, tmp_path: Path
) -> Callable[..., LatentGRPOTrainer]:
    """The trainer that the program would train, ready for its first rollout batch."""

    def build(**changes: Any) -> LatentGRPOTrainer:
        actual: list[LatentGRPOTrainer] = []
        monkeypatch.setattr(LatentGRPOTrainer, "train", lambda self, **_: actual.append(self))
        main(config(tmp_path, data, sft_checkpoint, rl_recipe(**changes)), Reporter(tmp_path, quiet=True))
        trainer = actual[0]
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        monkeypatch.setattr(trainer_module, "shuffled", torch.arange)  # answers in the order of their prompts
        return trainer

    return build


def roll_out(trainer: LatentGRPOTrainer, prompts: int = 4) -> dict[str, torch.Tensor]:
    inputs = [{"prompt": "", "row": row} for row in range(prompts) for _ in range(trainer.num_generations)]
    return trainer._generate_and_score_completions(inputs)


# ---- what trl 1.16 calls


def test_the_seams_are_those_of_trl() -> None:
    assert trl.__version__.startswith("1.16.")
    for name in ("_generate_and_score_completions", "_prepare_inputs", "_compute_loss"):
        ours, theirs = (inspect.signature(getattr(c, name)).parameters for c in (LatentGRPOTrainer, GRPOTrainer))
        assert list(ours) == list(theirs), name


def test_trl_still_buffers_and_calls_as_we_rely_on() -> None:
    prepare = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._generate_and_score_completions(generation_batch)" in prepare
    assert "shuffle_sequence_dict(generation_batch)" in prepare, "ours shuffles over all processes"
    assert "split_tensor_dict(generation_batch, self.args.steps_per_generation)" in prepare
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in prepare
    assert "return self._compute_loss(model, inputs)" in inspect.getsource(GRPOTrainer.compute_loss)
    assert "RepeatSampler" in inspect.getsource(GRPOTrainer._get_train_sampler)
    assert "self._metrics = {" in inspect.getsource(GRPOTrainer.__init__)


# ---- the first step


def test_the_replay_begins_at_the_decoders_probabilities(
    built: Any, data: Path, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the program's own path: ratio 1 on the first minibatch, of words and of latents, and no longer later."""
    ratios: dict[str, list[torch.Tensor]] = {"ratio": [], "latent_ratio": []}
    monkeypatch.setattr(LatentGRPOTrainer, "_track_ratio", lambda self, name, log_ratio: ratios[name].append(log_ratio))
    recipe = rl_recipe(max_steps=4, temperature=1.3, latent_std=0.2)
    main(config(tmp_path, data, sft_checkpoint, recipe), Reporter(tmp_path, quiet=True))
    for first, second, third, fourth in ratios.values():
        assert first.abs().max() < 1e-4
        assert second.abs().max() > 1e-3
        assert third.abs().max() < 1e-4, "a fresh rollout batch comes from the policy as it is"
        assert fourth.abs().max() > 1e-3


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["all weights", "adapters"])
def test_in_bf16_what_learns_is_fp32_and_the_replay_begins_near_the_decoders_probabilities(
    lora: LoraSettings | None, data: Path, sft_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU under the autocast of a GPU.  bf16 logits of 8 and more are 0.06 apart: rare words may differ so much,
    the others do not.  Decoding in fp32 has a mean of 3e-3."""
    ratios: dict[str, torch.Tensor] = {}

    def watch(self: LatentGRPOTrainer, name: str, log_ratio: torch.Tensor) -> None:
        ratios[name] = log_ratio
        assert {p.dtype for p in self.model.parameters() if p.requires_grad} == {torch.float32}
        frozen = [p for p in self.model.parameters() if not p.requires_grad] if lora else self.reference.parameters()
        assert {p.dtype for p in frozen} == {torch.bfloat16} == {self.vision.tower.dtype}

    monkeypatch.setattr(LatentGRPOTrainer, "_track_ratio", watch)
    monkeypatch.setattr("training.trainer.placement", lambda _: (torch.device("cpu"), torch.bfloat16))
    recipe = rl_recipe(max_steps=1, updates_per_batch=1, temperature=1.3, latent_std=0.2, beta=0.01, lora=lora)
    main(config(tmp_path, data, sft_checkpoint, recipe), Reporter(tmp_path, quiet=True))
    for log_ratio in ratios.values():
        assert 0 < log_ratio.abs().max() < 0.1
    assert ratios["ratio"].abs().mean() < 1e-3
    assert ratios["latent_ratio"].abs().mean() < 3e-3


@pytest.mark.parametrize("latent_std", [0.0, 0.2])
def test_the_first_loss_is_the_mean_advantage_of_the_sampled_actions(built: Any, latent_std: float) -> None:
    trainer = built(latent_anchor_coef=1.0, beta=0.1, latent_std=latent_std)
    batch = roll_out(trainer)
    total = int(batch["num_items_in_batch"])
    assert total == sum(int(r.sampled.sum()) for r in trainer._rollouts)
    expected, actual = 0.0, 0.0
    for rollout, advantage in zip(trainer._rollouts, batch["advantages"].tolist(), strict=True):
        actions = int(rollout.sampled.sum()) + (len(rollout.latents) if latent_std else 0)
        expected -= advantage * actions / total
    for half in (slice(0, 8), slice(8, 16)):
        part = {name: value[half] if value.ndim else value for name, value in batch.items()}
        actual += float(trainer._compute_loss(trainer.model, part).detach()) / 2
    # the policy is the SFT model still: neither anchor nor KL costs anything
    assert actual == pytest.approx(expected, abs=2e-4)
    assert trainer._metrics["train"]["latent_anchor"][-1] == pytest.approx(0, abs=1e-6)
    assert trainer._metrics["train"]["kl"][-1] == pytest.approx(0, abs=1e-6)


def naive_loss(
    trainer: LatentGRPOTrainer, bundle: FutureL1, reference: FutureL1, advantages: list[float], recipe: RlRecipe
) -> float:
    """The whole loss of a rollout batch, rollout by rollout and token by token."""
    t = bundle.tokens
    actions = sum(int(r.sampled.sum()) for r in trainer._rollouts)
    policy, latent_terms, drifts = 0.0, 0.0, []
    for rollout, advantage in zip(trainer._rollouts, advantages, strict=True):
        encoded = replayed(rollout, bundle.tokens)
        embeddings = list(bundle.model.get_input_embeddings()(torch.tensor(encoded.ids)))
        image = bundle.vision().features(encoded.observed)[0][0]
        for token, vectors in ((t.image, image), (t.latent, rollout.latents)):
            places = [i for i, actual in enumerate(encoded.ids) if actual == token]
            for place, vector in zip(places, vectors, strict=True):
                embeddings[place] = vector
        states, reference_states = (
            m.model.model.language_model(
                inputs_embeds=torch.stack(embeddings)[None], position_ids=encoded.positions[:, None], use_cache=False
            ).last_hidden_state[0]
            for m in (bundle, reference)
        )
        start, latents = len(rollout.prompt.ids), iter(zip(rollout.latents, rollout.noise, strict=True))
        for k, token in enumerate(rollout.ids):
            here = start + k - 1
            if token == t.latent:
                z, noise = next(latents)
                drifts.append((states[here] - reference_states[here]).pow(2).mean())
                old = -0.5 * float(noise)  # log density of the draw under the decoder, a constant left out
                new = float(Normal(0.0, 1.0).log_prob((z - states[here]) / recipe.latent_std).mean())
                constant = float(Normal(0.0, 1.0).log_prob(torch.zeros(())))
                ratio = torch.tensor(new - constant - old).exp()
                bounded = ratio.clamp(1 - recipe.latent_epsilon, 1 + recipe.latent_epsilon)
                latent_terms += float(-min(ratio * advantage, bounded * advantage))
            if not rollout.sampled[k]:
                continue
            banned = [t.latent, t.image, t.video] + ([] if token == t.latent_end else [t.latent_end])
            ours, theirs = (
                m.model.lm_head(s[here]).clone() for m, s in ((bundle, states), (reference, reference_states))
            )
            for logits in (ours, theirs):
                logits[banned] = -1e9
            ours, theirs = (float((x / recipe.temperature).log_softmax(-1)[token]) for x in (ours, theirs))
            ratio = torch.tensor(ours - float(rollout.log_probs[k])).exp()
            bounded = ratio.clamp(1 - recipe.epsilon, 1 + recipe.epsilon_high)
            term = float(-min(ratio * advantage, bounded * advantage))
            term = min(term, -advantage * recipe.delta) if advantage < 0 else term
            gap = torch.tensor(theirs - ours)
            policy += term + recipe.beta * float(gap.exp() - gap - 1)
    return (policy + latent_terms) / actions + recipe.latent_anchor_coef * float(torch.stack(drifts).mean())


def test_the_loss_of_a_moved_policy_is_the_papers(built: Any, sft_checkpoint: Path) -> None:
    recipe = rl_recipe(
        latent_anchor_coef=0.7, beta=0.05, latent_std=0.2, updates_per_batch=1, temperature=0.9, latent_epsilon=0.02
    )
    trainer = built(
        latent_anchor_coef=0.7, beta=0.05, latent_std=0.2, updates_per_batch=1, temperature=0.9, latent_epsilon=0.02
    )
    batch = roll_out(trainer)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "visual" not in name:
                weight += 0.01 * torch.randn(weight.shape, generator=g)
        actual = float(trainer._compute_loss(trainer.model, batch))
        expected = naive_loss(trainer, trainer.bundle, load(sft_checkpoint), batch["advantages"].tolist(), recipe)
        still = -sum(
            a * int(r.sampled.sum()) for r, a in zip(trainer._rollouts, batch["advantages"].tolist(), strict=True)
        )
    assert actual == pytest.approx(expected, abs=1e-4)
    assert abs(actual - still / int(batch["num_items_in_batch"])) > 1e-2, "the policy must have moved"


def test_observed_frames_are_of_the_recipes_size(built: Any) -> None:
    frames = {
        size: [patches.tokens for _, prompt in map(built(image_tokens=size).rows.prompt, range(4))
               for patches in prompt.observed]
        for size in (None, (1, 4))
    }  # fmt: skip
    assert max(frames[None]) > 4 >= max(frames[1, 4])


def test_gradients_leave_the_tower_and_the_reference_alone(built: Any) -> None:
    trainer = built(latent_anchor_coef=1.0)
    batch = roll_out(trainer)
    with torch.no_grad():
        trainer.model.lm_head.weight *= 1.01
    trainer._compute_loss(trainer.model, batch).backward()
    learning = {name for name, p in trainer.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("language_model" in name for name in learning)
    assert not any("visual" in name for name in learning)
    assert all(p.grad is None for p in trainer.reference.parameters())


# ---- groups


def scripted_rewards(
    trainer: LatentGRPOTrainer, monkeypatch: pytest.MonkeyPatch, rounds: list[list[list[int]]]
) -> None:
    """Accuracies of the groups of each round; format, R_ctr and R_div are 0."""
    remaining = iter(rounds)

    def rewards(*_: Any) -> torch.Tensor:
        accuracy = torch.tensor(next(remaining), dtype=torch.float).flatten()
        return torch.stack([accuracy, *[torch.zeros(len(accuracy))] * 3], 1)

    monkeypatch.setattr(trainer_module, "rollout_rewards", rewards)


def test_fresh_prompts_replace_groups_of_one_verdict(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built(max_resample_rounds=3)
    sampled_rows: list[list[int]] = []
    roll = trainer._roll_out
    monkeypatch.setattr(trainer, "_roll_out", lambda rows, turn: sampled_rows.append(list(rows)) or roll(rows, turn))
    all_right, mixed = [1, 1, 1, 1], [1, 0, 0, 0]
    scripted_rewards(trainer, monkeypatch, [[mixed, all_right, all_right, mixed], [mixed, all_right, mixed, mixed]])
    batch = roll_out(trainer)
    assert len(sampled_rows) == 2, "two rounds filled four places"
    assert sampled_rows[0] == [0, 1, 2, 3]
    rows_kept = [r.row["row_id"] for r in trainer._rollouts[::4]]
    expected = [
        trainer.rows.rows[i]["row_id"]
        for i in (sampled_rows[0][0], sampled_rows[0][3], sampled_rows[1][0], sampled_rows[1][2])
    ]
    assert rows_kept == expected
    assert trainer._metrics["train"]["accuracy/all_samples"] == [10 / 16], "of the first round, chosen or not"
    assert batch["advantages"].view(4, 4)[:, 0].min() > 1
    assert trainer._metrics["train"]["groups/unmixed_ratio"] == [0]


def test_places_that_stay_empty_are_filled_and_reported(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built(max_resample_rounds=2)
    wrong, mixed = [0, 0, 0, 0], [1, 0, 0, 0]
    scripted_rewards(trainer, monkeypatch, [[wrong, wrong, mixed, wrong], [wrong] * 4])
    batch = roll_out(trainer)
    assert len(trainer._rollouts) == 16
    assert batch["advantages"].view(4, 4).abs().sum(1).gt(0).tolist() == [True, False, False, False]
    assert trainer._metrics["train"]["groups/unmixed_ratio"] == [0.75]
    assert trainer._metrics["train"]["groups/mixed_ratio"] == [1 / 8]


def test_no_more_unmixed_groups_are_kept_than_there_are_places(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built(max_resample_rounds=3)
    scripted_rewards(trainer, monkeypatch, [[[0, 0, 0, 0]] * 4] * 3)
    mixed, others = trainer._sample_groups([0, 1, 2, 3])
    assert mixed == [] and len(others) == 4


def test_surplus_groups_begin_the_next_batch(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built(max_resample_rounds=3)
    sampled_rows: list[list[int]] = []
    roll = trainer._roll_out
    monkeypatch.setattr(trainer, "_roll_out", lambda rows, turn: sampled_rows.append(list(rows)) or roll(rows, turn))
    wrong, mixed = [0, 0, 0, 0], [1, 0, 0, 0]
    scripted_rewards(trainer, monkeypatch, [[mixed, wrong, mixed, wrong], [mixed] * 4, [mixed, wrong], [mixed] * 2])
    roll_out(trainer)
    assert [len(rows) for rows in sampled_rows] == [4, 4], (
        "two are missing, and half of the groups are mixed: four more"
    )
    surplus = [r.row["row_id"] for group in trainer.surplus.groups for r in group.rollouts[:1]]
    assert len(surplus) == 2

    path = tmp_path / "surplus.safetensors"
    write(path, [([record_of(r) for r in group.rollouts], group.rewards) for group in trainer.surplus.groups])
    again = read(path, trainer._rebuild, process=0, processes=1)
    for group, same in zip(trainer.surplus.groups, again, strict=True):
        assert torch.equal(group.rewards, same.rewards)
        for ours, theirs in zip(group.rollouts, same.rollouts, strict=True):
            for field in fields(Rollout):
                a, b = getattr(ours, field.name), getattr(theirs, field.name)
                alike = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
                assert alike or field.name == "prompt", field.name
            assert ours.prompt.ids == theirs.prompt.ids
    for process in (0, 1):
        (mine,) = [g for g in read(path, trainer._rebuild, process, processes=2) if g.rollouts]
        assert mine.owner == process and [r.ids for r in mine.rollouts] == [r.ids for r in again[process].rollouts]

    trainer.surplus.groups = again
    roll_out(trainer)
    assert [len(rows) for rows in sampled_rows[2:]] == [2, 2], "only what is missing is asked for"
    assert [r.row["row_id"] for r in trainer._rollouts[::4]][:2] == surplus


def test_processes_sample_their_parts_of_one_round(built: Any) -> None:
    trainer = built()
    (alone,) = answers_of(trainer, processes=1)
    assert [len(part) for part in answers_of(trainer, processes=5)] == [0, 4, 4, 4, 4]
    for processes in (2, 3):
        assert [answer for part in answers_of(trainer, processes) for answer in part] == alone


def answers_of(trainer: LatentGRPOTrainer, processes: int) -> list[list[tuple[str, list[int]]]]:
    """The rows and the answers that each process has of four prompts."""
    parts = []
    for process in range(processes):
        trainer._process, trainer._processes = process, processes
        parts.append([(r.row["row_id"], r.ids) for r in trainer._roll_out([5, 6, 7, 8], turn=1)])
    return parts


def test_a_surplus_group_of_another_training_is_named(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = built(max_resample_rounds=2)
    scripted_rewards(trainer, monkeypatch, [[[1, 0, 0, 0]] * 4])
    roll_out(trainer)
    write(tmp_path / "surplus.safetensors", [([record_of(r) for r in trainer._rollouts[:4]], torch.zeros(4, 4))])
    trainer.rows.rows = trainer.rows.rows[10:]
    with pytest.raises(ValueError, match=r"row 0{15}0 is not among the 14 rows of this training"):
        read(tmp_path / "surplus.safetensors", trainer._rebuild, process=0, processes=1)


def test_no_other_rows_frames_replace_those_that_a_process_cannot_read(built: Any, tmp_path: Path) -> None:
    trainer = built(cache_gib=0.0)
    roll_out(trainer)
    record = record_of(trainer._rollouts[0])
    assert trainer._rebuild(record).prompt.ids == trainer._rollouts[0].prompt.ids
    gone = {"path": str(tmp_path / "gone.mp4")}
    trainer.rows.rows = [row | gone if row["row_id"] == record.row_id else row for row in trainer.rows.rows]
    with pytest.raises((UnreadableVideo, OSError), match="gone"):
        trainer._rebuild(record)


def test_nothing_is_learned_from_masked_answers_that_were_cut(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built(mask_truncated_completions=True, beta=0.1)
    scripted_rewards(trainer, monkeypatch, [[[1, 0, 0, 1]] * 4])
    roll = trainer._roll_out

    def cut(rows: Any, turn: int) -> Any:
        return [replace(r, finished=i % 4 != 0) for i, r in enumerate(roll(rows, turn))]

    monkeypatch.setattr(trainer, "_roll_out", cut)
    batch = roll_out(trainer)
    assert batch["advantages"].view(4, 4)[:, 0].abs().sum() == 0
    assert (batch["advantages"].view(4, 4)[:, 1:].abs() > 0).all(), "they still count in their group"
    assert batch["num_items_in_batch"] == sum(int(r.sampled.sum()) for r in trainer._rollouts if r.finished)
    only_cut = {"rollout": torch.tensor([0, 4]), "advantages": batch["advantages"][[0, 4]]}
    loss = trainer._compute_loss(trainer.model, {**only_cut, "num_items_in_batch": batch["num_items_in_batch"]})
    assert loss == 0


def test_unjudged_answers_have_no_advantage(
    built: Any, sft_checkpoint: Path, tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open questions and no judge: what is neither an exact match nor repetitive is unjudged, and not wrong."""
    trainer = built()
    trainer.rows.rows = [
        {**row, "row_id": f"{i:016x}", "question": row["question"].split("\nA.")[0]} for i, row in enumerate(rows)
    ]
    batch = roll_out(trainer)
    assert torch.isfinite(batch["advantages"]).all()
    unjudged = [
        i
        for i, r in enumerate(trainer._rollouts)
        if (answer := answer_text(r.text))
        and normalised(answer) != r.row["answer"]
        and repetition(r.text) <= REPETITIVE
    ]
    assert unjudged and batch["advantages"][unjudged].abs().max() == 0
    assert torch.isfinite(trainer._compute_loss(trainer.model, batch))


def test_all_processes_figures_are_logged(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = built()
    trainer._track({"kl": 1.0, "spans": float("nan")})
    monkeypatch.setattr(trainer_module, "gather_object", lambda local: [*local, {"kl": [2.0, 6.0], "spans": [2.0]}])
    logs: dict[str, float] = {}
    trainer.log(logs)
    assert (logs["kl"], logs["spans"]) == (3.0, 2.0)
