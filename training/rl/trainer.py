"""GRPOTrainer with latent spans in its rollouts.

TRL samples prompts in groups, buffers a generation batch over several optimiser steps, and runs accelerate and
checkpoints.  Three methods are overridden: `_generate_and_score_completions` (batched latent decoding, dynamic
sampling), `_prepare_inputs` (TRL's without its shuffle, which is each process's own) and `_compute_loss` (replay with
the sampled latents).  TRL's own versions handle neither latents nor videos; tests/training/rl compares the signatures
with the calls of trl 1.16.

All processes sample one batch of prompts, choose groups together, and share out the chosen answers: prompts, answers
and the composition of each optimiser step are those of a single process.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import broadcast, gather_object
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from training.adapters import adapters_off
from training.model.checkpoint import FutureL1
from training.model.placement import shard_frozen, whole_weights
from training.model.randomness import derived_seed
from training.model.rows import Rows
from training.model.sampling import Sampling
from training.model.splice import inputs_of, spliced_forward, unwrapped
from training.model.token_budget import TokenBudget
from training.model.vision import FrozenVision
from training.recipes import RlRecipe
from training.rl.grading import RolloutGrader
from training.rl.groups import Group, assign_answers, exchange, gather_groups, rollout_from
from training.rl.losses import Clip, gaussian_log_ratio, k3, policy_loss
from training.rl.metrics import Stopwatch, completion_metrics, reward_metrics
from training.rl.rewards import group_advantages, mixed_groups, rollout_rewards
from training.rl.rollouts import Replay, Rollout, token_log_probs, unpack
from training.rl.surplus import SurplusGroups

MIN_MIXED_SHARE = 0.25
"""The least share of fresh prompts' groups that is expected to be mixed, however few were so far."""


def shuffled(answers: int) -> torch.Tensor:
    """The order in which the answers of a rollout batch are dealt to its optimiser steps."""
    return torch.randperm(answers)


class LatentGRPOTrainer(GRPOTrainer):
    """Trains on a dataset of {"prompt", "row"}.

    reference: the model that training starts from; None where nothing is compared with it, and for a policy with
    adapters, which is that model while they are off.
    """

    def __init__(
        self,
        *args: Any,
        recipe: RlRecipe,
        bundle: FutureL1,
        reference: torch.nn.Module | None,
        rows: Rows,
        vision: FrozenVision,
        grader: RolloutGrader,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, reward_funcs=[rollout_rewards], **kwargs)  # TRL wants one, and never calls it here
        if reference is not None:
            shard_frozen(reference, self.accelerator)
        self.recipe, self.bundle, self.reference = recipe, bundle, reference
        self.rows, self.vision, self.grader = rows, vision, grader
        self._process, self._processes = self.accelerator.process_index, self.accelerator.num_processes
        self._rebuild = partial(rollout_from, bundle=bundle, rows=rows)
        self.budget = TokenBudget(recipe.max_batch_tokens)
        self.surplus = SurplusGroups(self._rebuild, self._process, self._processes)
        self.add_callback(self.surplus)
        self._rollouts: list[Rollout] = []
        self._buffered_inputs: list[dict[str, torch.Tensor]] | None = None
        self._stopwatch, self._last_logged_step = Stopwatch(self.accelerator.device), 0

    # ---- rollouts

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, torch.Tensor]:
        """The next micro-batch; a new rollout batch where the last one is used up, or after a resume."""
        steps = self.args.steps_per_generation
        if self._step % steps == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(batch, steps)
        return self._buffered_inputs[self._step % steps]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """This process's share of the answers of mixed groups (correct and incorrect answers), as many groups as the
        `inputs` of all processes have prompts where the rounds suffice.

        Places that stay empty are filled with unmixed groups, which count for nothing, and are reported.
        """
        recipe, group, device = self.recipe, self.num_generations, self.accelerator.device
        prompts = gather_object([int(one["row"]) for one in inputs])[::group]
        mixed, others = self._sample_groups(prompts)
        self._track({"groups/unmixed_ratio": max(0, len(prompts) - len(mixed)) / len(prompts)})
        chosen = (mixed + others)[: len(prompts)]
        if recipe.max_resample_rounds > 1:
            self.surplus.groups = mixed[len(prompts) :]
        rewards, weights = torch.cat([g.rewards for g in chosen]), torch.tensor(recipe.reward_weights)
        advantages = group_advantages((rewards * weights).sum(1), group)
        if recipe.max_resample_rounds > 1:
            advantages[len(mixed) * group :] = 0.0  # normalisation would blow up an unmixed group's tiny differences
        share = self._take_share(chosen)
        advantages = advantages[share]
        self._track(reward_metrics(rewards, weights, group))
        self._track(completion_metrics(self._rollouts, rewards[share, 0], self.bundle.tokens))
        if recipe.mask_truncated_completions:
            advantages = advantages * torch.tensor([r.finished for r in self._rollouts])
            self._rollouts = [replace(r, sampled=r.sampled & r.finished) for r in self._rollouts]
        counts = [[int(r.sampled.sum()), len(r.latents)] for r in self._rollouts]
        tokens, latents = self.accelerator.reduce(torch.tensor(counts, device=device).sum(0), "sum")
        return {
            "rollout": torch.arange(len(self._rollouts), device=device),
            "advantages": advantages.to(device),
            "num_items_in_batch": tokens,
            "num_latents_in_batch": latents,
        }

    def _take_share(self, chosen: Sequence[Group]) -> list[int]:
        """Fills `_rollouts` with this process's share of the chosen answers, shuffled over the optimiser steps; their
        numbers."""
        local: dict[int, Rollout] = {}
        owners: list[int] = []
        for group in chosen:
            local |= dict(enumerate(group.rollouts, start=len(owners)))
            owners += [group.owner] * self.num_generations
        order = broadcast(shuffled(len(owners)).to(self.accelerator.device)).tolist()  # each process's seed is its own
        assigned = assign_answers(order, owners, self._processes, self.recipe.updates_per_batch)
        self._rollouts = exchange(local, assigned, self._process, self._rebuild)
        return assigned[self._process]

    def _sample_groups(self, prompts: list[int]) -> tuple[list[Group], list[Group]]:
        """Groups of mixed verdicts, and the others (dynamic sampling): the surplus of the last batch, then rounds of
        fresh prompts until there are enough.  One round means no dynamic sampling.
        """
        recipe, group, size = self.recipe, self.num_generations, len(prompts)
        kept, self.surplus.groups = self.surplus.groups, []
        unmixed: list[Group] = []
        n_sampled = n_mixed = 0
        for turn in range(recipe.max_resample_rounds):
            share = max(n_mixed / n_sampled, MIN_MIXED_SHARE) if turn else 1.0
            count = min(size, math.ceil((size - len(kept)) / share))
            if count <= 0:
                break
            with self._stopwatch.part("rollout"):
                rollouts = self._roll_out(prompts[:count], turn)
            with self._stopwatch.part("rewards"):
                accuracy = self.grader.accuracy(rollouts)
                rewards = rollout_rewards(rollouts, accuracy, recipe, self.bundle.tokens)
                groups = gather_groups(rollouts, rewards, group, self._process)
            accuracies = torch.cat([g.rewards[:, 0] for g in groups])
            mixed = mixed_groups(accuracies.clamp(min=0), group, recipe.dynamic_sampling_range).tolist()
            for of_group, is_mixed in zip(groups, mixed, strict=True):
                (kept if is_mixed else unmixed).append(of_group)
            del unmixed[size:]  # their frames and latents, of up to `max_resample_rounds` rounds
            n_sampled, n_mixed = n_sampled + len(mixed), n_mixed + sum(mixed)
            if turn == 0:  # before anything is chosen: the accuracy of the policy
                self._track({"accuracy/all_samples": accuracies.nanmean().item()})
            prompts = self._more_prompts(size, turn)
        if n_sampled:
            self._track({"groups/mixed_ratio": n_mixed / n_sampled})
        return kept, unmixed

    def _roll_out(self, prompts: Sequence[int], turn: int) -> list[Rollout]:
        """This process's part of the answers to a round of prompts: as many as another's, or one prompt's more."""
        recipe, model = self.recipe, unwrapped(self.model)
        first, last = (len(prompts) * p // self._processes for p in (self._process, self._process + 1))
        read = [self.rows.prompt(i) for i in prompts[first:last]]
        rows, encoded = [row for row, _ in read], [prompt for _, prompt in read]
        seeds = self._seeds(range(first, last), turn)
        sampling = Sampling(recipe.max_new_tokens, recipe.temperature, recipe.top_p, recipe.latent_std)
        was_training = model.training
        model.eval()
        tokens, spans = self.bundle.tokens, self.bundle.spans
        rollouts: dict[int, list[Rollout]] = {}
        with self.accelerator.autocast(), whole_weights(self.model):  # what the replay computes with
            for i, decoded in self.budget.decode(model, self.vision, tokens, encoded, sampling, spans, seeds):
                rollouts[i] = unpack([rows[i]], [encoded[i]], [seeds[i]], decoded, tokens, self.processing_class)
                self.grader.start(rollouts[i])  # beside the decoding of others
        model.train(was_training)
        return [rollout for i in range(len(rows)) for rollout in rollouts[i]]

    def _seeds(self, places: Sequence[int], turn: int) -> list[list[int]]:
        """Seeds of each prompt's answers, by its place among all processes' prompts: a resumed run has the same."""
        stream = (self.args.seed, self.state.global_step, turn)
        return [[derived_seed(*stream, place, sibling) for sibling in range(self.num_generations)] for place in places]

    def _more_prompts(self, size: int, turn: int) -> list[int]:
        """A fresh sample of the rows, without repetition, the same in all processes."""
        stream = derived_seed("prompts", self.args.seed, self.state.global_step, turn)
        generator = torch.Generator().manual_seed(stream)
        return torch.randperm(len(self.rows), generator=generator)[:size].tolist()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics of all processes since the last log, and the seconds of a step's parts; all processes log at once."""
        steps, self._last_logged_step = self.state.global_step - self._last_logged_step, self.state.global_step
        if steps:
            self._track(self._stopwatch.seconds(steps))
        gathered = gather_object([dict(self._metrics["train"])])
        for name in {name for metrics in gathered for name in metrics}:
            self._metrics["train"][name] = [value for metrics in gathered for value in metrics.get(name, [])]
        super().log(logs, start_time)

    def _track(self, metrics: Mapping[str, float]) -> None:
        """Metrics to be logged, NaN where this process has no value."""
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    # ---- loss

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with self._stopwatch.part("replay"):
            return self._replay_loss(model, inputs)

    def _replay_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The policy loss of one micro-batch on replayed rollouts, with the anchor and the KL where the recipe asks."""
        recipe, tokens = self.recipe, self.bundle.tokens
        replay = Replay.of([self._rollouts[i] for i in inputs["rollout"].tolist()], tokens, self.accelerator.device)
        sampled, latent, latents = replay.ids[replay.sampled], replay.ids == tokens.latent, replay.latents
        in_span, advantages = replay.in_span[replay.sampled], inputs["advantages"].unsqueeze(1).expand_as(replay.ids)
        before_sampled, before_latent = replay.sampled.roll(-1, 1), latent.roll(-1, 1)
        forward = inputs_of(replay, self.vision, self.accelerator.device)
        reduce = partial(token_log_probs, tokens=tokens, temperature=recipe.temperature)

        def replayed(policy: Any) -> tuple[torch.Tensor, torch.Tensor]:
            """The latent-producing states [m,D] and the log-probabilities of the sampled tokens [n]."""
            states, log_probs = spliced_forward(
                policy, forward, latent, latents, before_sampled, reduce, (sampled, in_span)
            )
            return states[before_latent], log_probs

        states, log_probs = replayed(model)
        log_ratio = log_probs - replay.log_probs
        clip = Clip(recipe.epsilon, recipe.epsilon_high, recipe.delta)
        terms = policy_loss(log_ratio, advantages[replay.sampled], clip)
        if recipe.has_reference:
            with torch.no_grad(), nullcontext() if self.reference else adapters_off(model):
                reference, reference_log_probs = replayed(self.reference or model)
            divergence = k3(log_probs, reference_log_probs)
            terms = terms + recipe.beta * divergence
            self._track({"kl": divergence.mean().item()})
        actions = self._share(inputs["num_items_in_batch"])
        loss = terms.sum() / actions
        if len(latents) and recipe.latent_std > 0:
            ratio = gaussian_log_ratio(latents, states, replay.noise, recipe.latent_std)
            latent_clip = Clip(recipe.latent_epsilon, recipe.latent_epsilon, recipe.delta)
            loss = loss + policy_loss(ratio, advantages[latent], latent_clip).sum() / actions
            self._track_ratio("latent_ratio", ratio.detach())
        if len(latents) and recipe.latent_anchor_coef > 0:
            drift = (states.float() - reference.float()).pow(2).mean(-1)
            loss = loss + recipe.latent_anchor_coef * drift.sum() / self._share(inputs["num_latents_in_batch"])
            self._track({"latent_anchor": drift.mean().item()})
        self._track_ratio("ratio", log_ratio.detach())
        return loss

    def _share(self, count: torch.Tensor) -> torch.Tensor:
        """The share of a rollout batch's tokens or latents in one optimiser step of one process, over which gradients
        are averaged: the loss is a mean over the whole batch (DAPO)."""
        share = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return count.clamp(min=1) * share / self.accelerator.num_processes

    def _track_ratio(self, name: str, log_ratio: torch.Tensor) -> None:
        """Logs the 5th and 95th percentile of the ratio between the policy and the one that sampled."""
        if not len(log_ratio):
            return
        low, high = log_ratio.exp().quantile(torch.tensor([0.05, 0.95], device=log_ratio.device)).tolist()
        self._track({f"{name}/p05": low, f"{name}/p95": high})
