"""GRPOTrainer whose rollouts imagine.

TRL keeps what it does well: sampling prompts in groups, buffering a generation batch over several optimiser steps,
rewards across processes, accelerate, checkpoints.  Two seams are ours: `_generate_and_score_completions` (batched
latent decoding, dynamic sampling) and `_compute_loss` (replay with the sampled latents).  TRL's own versions know
neither latents nor videos; tests/training/rl holds both signatures to what trl 1.16 calls.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from training.model.checkpoint import FutureL1
from training.model.decode import Sampling, decode
from training.model.randomness import derived_seed
from training.model.rows import Rows
from training.model.saving import whole_weights
from training.model.splice import inputs_of, spliced_forward
from training.model.vision import FrozenVision
from training.recipes import RlRecipe
from training.rl.grading import RolloutGrader
from training.rl.losses import Clip, gaussian_log_ratio, k3, policy_loss
from training.rl.metrics import Stopwatch, rollout_figures
from training.rl.rewards import group_advantages, mixed_groups
from training.rl.rollouts import Replay, Rollout, token_log_probs, unpack
from training.rl.surplus import Carried, Group

LEAST_SHARE = 0.25
"""Of fresh prompts' groups are taken to be mixed, however few were so far."""


class LatentGRPOTrainer(GRPOTrainer):
    """Trains on a dataset of {"prompt", "row"}; reward functions get the `rollout` of each answer."""

    def __init__(
        self,
        *args: Any,
        recipe: RlRecipe,
        bundle: FutureL1,
        reference: Any,
        rows: Rows,
        vision: FrozenVision,
        grader: RolloutGrader,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        local = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if local % self.num_generations:
            raise ValueError(f"{local} answers a device do not hold whole groups of {self.num_generations}")
        self.recipe, self.bundle, self.reference = recipe, bundle, reference
        self.rows, self.vision, self.grader = rows, vision, grader
        self.carried = Carried(bundle, rows, self.accelerator.process_index)
        self.add_callback(self.carried)
        self._rollouts: list[Rollout] = []
        self._stopwatch, self._logged = Stopwatch(self.accelerator.device), 0

    # ---- rollouts

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Groups with both right and wrong answers, as many as `inputs` asks for where the rounds suffice.

        Places that stay empty are filled with unmixed groups, which count for nothing, and are reported.
        """
        recipe, group = self.recipe, self.num_generations
        prompts = [int(one["row"]) for one in inputs[::group]]
        mixed, others = self._draw_groups(prompts)
        self._note({"groups/filled_up": max(0, len(prompts) - len(mixed)) / len(prompts)})
        chosen = (mixed + others)[: len(prompts)]
        if recipe.dynamic_rounds > 1:
            self.carried.groups = mixed[len(prompts) :]
        self._rollouts = [rollout for rollouts, _ in chosen for rollout in rollouts]
        rewards = torch.cat([r for _, r in chosen])
        weights = torch.tensor(recipe.weights, device=rewards.device)
        advantages = group_advantages((rewards * weights).sum(1), group)
        if recipe.dynamic_rounds > 1:
            advantages[len(mixed) * group :] = 0.0  # normalisation would blow up an unmixed group's tiny differences
        self._note(rollout_figures(self._rollouts, rewards, self.reward_func_names, group, self.bundle.tokens))
        if recipe.overlong == "mask":
            finished = torch.tensor([r.finished for r in self._rollouts], device=advantages.device)
            advantages = advantages * finished
            self._rollouts = [replace(r, sampled=r.sampled & r.finished) for r in self._rollouts]
        counts = [[int(r.sampled.sum()), len(r.latents)] for r in self._rollouts]
        tokens, latents = self.accelerator.reduce(torch.tensor(counts, device=self.accelerator.device).sum(0), "sum")
        return {
            "rollout": torch.arange(len(self._rollouts), device=self.accelerator.device),
            "advantages": advantages,
            "num_items_in_batch": tokens,
            "num_latents_in_batch": latents,
        }

    def _draw_groups(self, prompts: list[int]) -> tuple[list[Group], list[Group]]:
        """Groups of mixed verdicts, and the others (dynamic sampling): what the last batch had too many of, then rounds
        of fresh prompts until there are enough.

        All processes go the same rounds with as many prompts.  One round means no dynamic sampling.
        """
        recipe, group, wanted = self.recipe, self.num_generations, len(prompts)
        kept, self.carried.groups = self.carried.groups, []
        spare: list[Group] = []
        seen = found = 0
        for turn in range(recipe.dynamic_rounds):
            share = max(found / seen, LEAST_SHARE) if turn else 1.0
            asked = self._most(min(wanted, math.ceil((wanted - len(kept)) / share)))
            if asked <= 0:
                break
            with self._stopwatch.part("rollout"):
                rollouts = self._roll_out(prompts[:asked], turn)
            with self._stopwatch.part("rewards"):
                rewards = self._rewards(rollouts)
            mixed = mixed_groups(rewards[:, 0].clamp(min=0), group, recipe.keep_between).tolist()
            for i, is_mixed in enumerate(mixed):
                at = slice(i * group, (i + 1) * group)
                (kept if is_mixed else spare).append((rollouts[at], rewards[at]))
            seen, found = seen + len(mixed), found + sum(mixed)
            if turn == 0:  # before anything was chosen: what the policy is worth
                self._note({"accuracy/drawn": rewards[:, 0].nanmean().item()})
            prompts = self._more_prompts(wanted, turn)
        if seen:
            self._note({"groups/mixed_share": found / seen})
        return kept, spare

    def _roll_out(self, asked: Sequence[int], turn: int) -> list[Rollout]:
        recipe, model = self.recipe, self.accelerator.unwrap_model(self.model)
        rows, prompts = zip(*(self.rows.prompt(i) for i in asked), strict=True)
        seeds = self._seeds(len(asked), turn)
        sampling = Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p, recipe.latent_std)
        was_training = model.training
        model.eval()
        tokens, size = self.bundle.tokens, recipe.decode_prompts or len(asked)
        rollouts: list[Rollout] = []
        with self.accelerator.autocast(), whole_weights(model):  # what the replay computes with
            for begin in range(0, len(asked), size):
                part = slice(begin, begin + size)
                decoded = decode(model, self.vision, tokens, prompts[part], sampling, self.bundle.spans, seeds[part])
                answers = unpack(rows[part], prompts[part], seeds[part], decoded, tokens, self.processing_class)
                self.grader.begin(answers)  # beside the next part's decoding
                rollouts += answers
        model.train(was_training)
        return rollouts

    def _seeds(self, prompts: int, turn: int) -> list[list[int]]:
        """Seeds of each prompt's answers, by its place among all processes' prompts: a resumed run draws the same."""
        stream = (self.args.seed, self.state.global_step, turn)
        first = self.accelerator.process_index * prompts
        places = range(first, first + prompts)
        return [[derived_seed(*stream, place, sibling) for sibling in range(self.num_generations)] for place in places]

    def _rewards(self, rollouts: Sequence[Rollout]) -> torch.Tensor:
        """Rewards [n, functions] of this process's rollouts; NaN where a function could not judge."""
        inputs = [{"rollout": rollout} for rollout in rollouts]
        prompts, texts = [r.row["question"] for r in rollouts], [r.text for r in rollouts]
        gathered = self._calculate_rewards(inputs, prompts, texts, [r.ids for r in rollouts])
        first = self.accelerator.process_index * len(rollouts)
        return gathered[first : first + len(rollouts)]

    def _more_prompts(self, wanted: int, turn: int) -> list[int]:
        """This process's part of what all of them draw, no row twice."""
        stream = derived_seed("prompts", self.args.seed, self.state.global_step, turn)
        generator = torch.Generator().manual_seed(stream)
        drawn = torch.randperm(len(self.rows), generator=generator)
        return drawn[self.accelerator.process_index * wanted :][:wanted].tolist()

    def _most(self, prompts: int) -> int:
        """What the process with most to ask for asks for."""
        return int(self.accelerator.gather(torch.tensor(prompts, device=self.accelerator.device)).max())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Figures of all processes since the last time, and what a step's parts took.  All processes log at once."""
        steps, self._logged = self.state.global_step - self._logged, self.state.global_step
        if steps:
            self._note(self._stopwatch.told(steps))
        gathered = gather_object([dict(self._metrics["train"])])
        for name in {name for figures in gathered for name in figures}:
            self._metrics["train"][name] = [value for figures in gathered for value in figures.get(name, [])]
        super().log(logs, start_time)

    def _note(self, figures: Mapping[str, float]) -> None:
        """Figures to be logged, NaN where this process has nothing to tell."""
        for name, value in figures.items():
            self._metrics["train"][name].append(value)

    # ---- loss

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with self._stopwatch.part("replay"):
            return self._replay_loss(model, inputs)

    def _replay_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The policy loss of one micro-batch on replayed rollouts, with the anchor and the KL where the recipe asks."""
        recipe, tokens = self.recipe, self.bundle.tokens
        again = Replay.of([self._rollouts[i] for i in inputs["rollout"].tolist()], tokens, self.accelerator.device)
        drawn, latent, latents = again.ids[again.sampled], again.ids == tokens.latent, again.latents
        in_span, advantages = again.in_span[again.sampled], inputs["advantages"].unsqueeze(1).expand_as(again.ids)
        before_drawn, before_latent = again.sampled.roll(-1, 1), latent.roll(-1, 1)
        forward = inputs_of(again, self.vision, self.accelerator.device)
        states, logits = spliced_forward(model, forward, latent, latents, before_drawn)
        log_probs = token_log_probs(logits, drawn, in_span, tokens, recipe.temperature)
        log_ratio = log_probs - again.log_probs
        clip = Clip(recipe.clip_low, recipe.clip_high, recipe.dual_clip)
        terms = policy_loss(log_ratio, advantages[again.sampled], clip)
        if recipe.anchor > 0 or recipe.kl > 0:
            with torch.no_grad():
                reference, logits = spliced_forward(self.reference, forward, latent, latents, before_drawn)
            known = token_log_probs(logits, drawn, in_span, tokens, recipe.temperature)
            divergence = k3(log_probs, known)
            terms = terms + recipe.kl * divergence
            self._note({"kl": divergence.mean().item()})
        actions = self._share(inputs["num_items_in_batch"])
        loss = terms.sum() / actions
        if len(latents) and recipe.latent_std > 0:
            ratio = gaussian_log_ratio(latents, states[before_latent], again.noise, recipe.latent_std)
            bounds = Clip(recipe.latent_clip, recipe.latent_clip, recipe.dual_clip)
            loss = loss + policy_loss(ratio, advantages[latent], bounds).sum() / actions
            self._watch("latent_ratio", ratio.detach())
        if len(latents) and recipe.anchor > 0:
            drift = (states[before_latent].float() - reference[before_latent].float()).pow(2).mean(-1)
            loss = loss + recipe.anchor * drift.sum() / self._share(inputs["num_latents_in_batch"])
            self._note({"anchor": drift.mean().item()})
        self._watch("ratio", log_ratio.detach())
        return loss

    def _share(self, counted: torch.Tensor) -> torch.Tensor:
        """What of a rollout batch's tokens or latents falls to one optimiser step of one process, over which gradients
        are averaged: the loss is a mean over the whole batch (DAPO)."""
        share = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return counted.clamp(min=1) * share / self.accelerator.num_processes

    def _watch(self, name: str, log_ratio: torch.Tensor) -> None:
        """How far the policy has moved from the one that drew: the ratio's outer percentiles."""
        if not len(log_ratio):
            return
        low, high = log_ratio.exp().quantile(torch.tensor([0.05, 0.95], device=log_ratio.device)).tolist()
        self._note({f"{name}/p05": low, f"{name}/p95": high})
