"""A training before it runs: its steps, hours and memory, by its recipe and the shape of its rows; and the changes of
the recipe that make it fit a device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from training.data.images import fit_grid
from training.estimate.devices import Device, Range
from training.estimate.hours import decoding_steps, forward_flops, seconds, step_seconds, vision_flops
from training.estimate.memory import GIB, RESERVE, Layout, Parts, Phase, cache_tokens, phases, total
from training.estimate.shape import BatchShape, ModelShape
from training.model.latent_config import ImageTokens, LatentConfig
from training.recipes import LoraSettings, RlRecipe, SftRecipe, micro_batches

ROUNDS: Range = (1, 3)
"""Rounds of rollouts that fill a batch with mixed groups; a guess."""
SMALLER_IMAGES = (512, 256, 128, 64)
"""Most tokens of an image that are tried where memory does not suffice."""
MORE_GPUS = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class RowShape:
    """The rows of a set: (height, width) of frames, how many are observed and imagined, usually and at most, tokens of
    text in a prompt and, usually and at most, of an answer; and the mean of RL's answers, a guess."""

    frame: tuple[int, int]
    observed: tuple[int, int] = (1, 4)
    future: tuple[float, int] = (1.42, 3)
    text: int = 200
    answer: tuple[int, int] = (150, 500)
    rl_answer: Range = (300, 500)

    def frame_tokens(self, bounds: ImageTokens, tile: int) -> int:
        rows, columns = fit_grid(*self.frame, *bounds, tile)
        return rows * columns


@dataclass(frozen=True)
class TrainingRun:
    """A training on so many rows and GPUs, which are on so many nodes.

    sharding: what the launch config of several processes says.  latent_config: that of the SFT that RL starts from.
    """

    recipe: SftRecipe | RlRecipe
    latent_config: LatentConfig
    rows: int
    shape: RowShape
    model: ModelShape
    gpus: int
    sharding: Literal["whole", "fsdp2", "zero"]
    nodes: int = 1

    @property
    def layout(self) -> Layout:
        sharded = self.sharding == "fsdp2" and self.gpus > 1
        return Layout(self.gpus, sharded, self.has_reference, self.recipe.lora)

    @property
    def has_reference(self) -> bool:
        """Whether each step also computes what the model that RL started from would have."""
        return isinstance(self.recipe, RlRecipe) and self.recipe.has_reference

    @property
    def steps(self) -> int:
        recipe = self.recipe
        if recipe.max_steps:
            return recipe.max_steps
        if isinstance(recipe, RlRecipe):
            return self.rows // recipe.prompts_per_batch * recipe.updates_per_batch
        return -(-self.rows * recipe.num_train_epochs // recipe.global_batch_size)

    @property
    def rollouts(self) -> Range:
        """Answers that RL samples; none in SFT."""
        if isinstance(self.recipe, SftRecipe):
            return 0, 0
        low, high = (min(rounds, self.recipe.max_resample_rounds) for rounds in ROUNDS)
        answers = self.steps * self.recipe.global_batch_size
        return low * answers, high * answers

    def batch(self, rows: int, usual: bool = False) -> BatchShape:
        """Rows of the usual length, or of the greatest that is to be expected."""
        at, shape, recipe = (0 if usual else 1), self.shape, self.recipe
        bounds = recipe.image_tokens if isinstance(recipe, RlRecipe) and recipe.image_tokens else None
        vision = shape.observed[at] * shape.frame_tokens(bounds or self.latent_config.image_tokens, self.model.tile)
        if isinstance(recipe, SftRecipe):
            answer = shape.answer[at] + round(shape.future[at] * (self.latent_config.max_latents + 2))
        else:
            answer = round(shape.rl_answer[1]) if usual else recipe.max_new_tokens
        return BatchShape(rows, shape.text + vision + 2 * shape.observed[at] + answer, vision, answer)

    def memory(self) -> dict[Phase, Parts]:
        """Bytes of one device.  Raises PermanentError where the recipe's batch does not divide into the GPUs."""
        batch, recipe = self.batch(micro_batches(self.recipe, self.gpus)[0]), self.recipe
        if isinstance(recipe, SftRecipe):
            return phases(self.model, self.layout, batch, None)
        result = phases(self.model, self.layout, batch, replace(batch, rows=recipe.num_generations))
        stated = (recipe.max_batch_tokens or 0) * self.model.cache_bytes
        result["rollouts"] = {**result["rollouts"], "cache": max(stated, result["rollouts"]["cache"])}
        return result

    def hours(self, device: Device) -> Range:
        low, high = ((self._update_seconds(device, end) + self._rollout_seconds(device, end)) / 3600 for end in (0, 1))
        return low, high

    def fits(self, device: Device) -> bool:
        return peak_gib(self.memory()) <= usable_gib(device)

    def changes(self, device: Device) -> list[str]:
        """Changes of the recipe or of the GPUs, each of which makes it fit by itself; where none does, the first that
        do together, [] where nothing does."""
        images = [(f"image_tokens of at most {most}", self._with_images(most)) for most in SMALLER_IMAGES]
        ways = [[("per_device_train_batch_size = 1", self._with_recipe(per_device_train_batch_size=1))], images]
        if not self.recipe.lora:
            ways.append([("lora", self._with_recipe(lora=LoraSettings()))])
        if isinstance(self.recipe, RlRecipe) and self.recipe.max_batch_tokens:
            ways.append([("no max_batch_tokens", self._with_recipe(max_batch_tokens=None))])
        ways.append([(f"{run.gpus} GPUs", run) for run in self._on_more()])
        singles = [next((text for text, run in way if run.fits(device)), None) for way in ways]
        if any(singles):
            return [text for text in singles if text]
        text, smallest = images[-1]
        smallest = smallest._with_recipe(per_device_train_batch_size=1)
        fitting = next((run for run in (smallest, *smallest._on_more()) if run.fits(device)), None)
        if fitting is None:
            return []
        more = f" on {fitting.gpus} GPUs" if fitting.gpus > self.gpus else ""
        return [f"{text} with per_device_train_batch_size = 1{more}"]

    def _with_recipe(self, **values: object) -> "TrainingRun":
        return replace(self, recipe=self.recipe.model_copy(update=values))

    def _with_images(self, most: int) -> "TrainingRun":
        if isinstance(self.recipe, RlRecipe):
            least, bound = self.recipe.image_tokens or self.latent_config.image_tokens
            return self._with_recipe(image_tokens=(min(least, most), min(bound, most)))
        least, bound = self.latent_config.image_tokens
        smaller = self.latent_config.model_copy(update={"image_tokens": (min(least, most), min(bound, most))})
        return replace(self, latent_config=smaller)

    def _on_more(self) -> Iterator["TrainingRun"]:
        """On more GPUs, where the launch config shards and the recipe's batch divides into them."""
        for gpus in MORE_GPUS if self.sharding == "fsdp2" else ():
            if gpus > self.gpus and self.recipe.global_batch_size % gpus == 0:
                yield replace(self, gpus=gpus)

    def _update_seconds(self, device: Device, end: int) -> float:
        usual = self.batch(1, usual=True)
        # on GPUs activations are computed again in the backward pass; frozen weights have no gradients
        passes = 4 - device.is_cpu - (self.recipe.lora is not None)
        flops = (passes + self.has_reference) * forward_flops(self.model, usual) + vision_flops(self.model, usual)
        return seconds(self.steps * self.recipe.global_batch_size / self.gpus * flops, device)[end]

    def _rollout_seconds(self, device: Device, end: int) -> float:
        recipe = self.recipe
        if isinstance(recipe, SftRecipe):
            return 0.0
        prompts, group = -(-recipe.prompts_per_batch // self.gpus), self.batch(recipe.num_generations)
        usual = self.batch(prompts, usual=True)
        prompt = replace(usual, tokens=usual.tokens - usual.scored, scored=1)
        prefill = seconds(forward_flops(self.model, prompt) + vision_flops(self.model, prompt), device)[end]
        answers = at_once = prompts * recipe.num_generations
        if not device.is_cpu:
            tokens = recipe.max_batch_tokens or cache_tokens(self.model, self.layout, usable_gib(device), group)
            at_once = max(recipe.num_generations, tokens // group.tokens - 1)
        steps = decoding_steps(answers, at_once, self.gpus, self.shape.rl_answer[end], recipe.max_new_tokens)
        rounds = self.rollouts[end] / (recipe.prompts_per_batch * recipe.num_generations)
        return rounds * (prefill + steps * step_seconds(self.model, device, recipe.lora is not None)[end])


def usable_gib(device: Device) -> float:
    return (1 - RESERVE) * device.gib


def peak_gib(memory: dict[Phase, Parts]) -> float:
    return max(map(total, memory.values())) / GIB
