"""SFTTrainer with the latent loss.

Differs from TRL's in three places: rows come in the order of training/sft/sampler.py, frames and latents enter through
the frozen vision features and the splice, and the loss adds lambda * MSE between the state one position before each
latent and the features of the true future frame (paper Eq. 1-3).

Both terms are means over one optimiser step, whatever its micro-batches, its processes and a partial last window:

    token    every labelled token weighs the same, and so does every latent
    sample   every row weighs the same: the mean of its tokens plus lambda times the mean of its latents, nothing for a
             row without any.  With one row a micro-batch this is the public release's mean of means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import SequentialSampler
from trl import SFTTrainer

from training.model.checkpoint import FutureL1
from training.model.encoding import IGNORE, Batch, collate
from training.model.rows import Rows
from training.model.splice import inputs_of, spliced_forward
from training.model.vision import FrozenVision
from training.recipes import SftRecipe

STATISTICS_ROWS = 32
"""The number of rows whose future frames make the mean feature, the baseline of the latent skill, and the spread."""


@dataclass
class Collator:
    """Samples {"row", "spans", "counts"} to tensors that the trainer moves to its device, and frames beside them."""

    rows: Rows

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        encoded = [self.rows.dialogue(sample["row"], sample["spans"]) for sample in samples]
        batch = collate(encoded, self.rows.reader.encoder.tokens.pad)
        labels = batch.labels.masked_fill(~torch.tensor([sample["counts"] for sample in samples])[:, None], IGNORE)
        return {"input_ids": batch.ids, "attention_mask": batch.mask, "labels": labels, "batch": batch}


class LatentSFTTrainer(SFTTrainer):
    """Trains on a dataset of samples, in their order.

    Raises ValueError where the vision tower or a merger would learn: latent targets are constants.
    """

    def __init__(self, *args: Any, bundle: FutureL1, recipe: SftRecipe, vision: FrozenVision, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        learning = [name for name, p in self.model.named_parameters() if "visual." in name and p.requires_grad]
        if learning:
            raise ValueError(f"the vision tower and its mergers must be frozen; {len(learning)} of their weights would "
                             f"learn, {learning[0]} first")  # fmt: skip
        self.tokens, self.recipe, self.vision = bundle.tokens, recipe, vision
        self.loss_is_scaled_for_ga = True  # by `_get_num_items_in_batch`
        self._generator = torch.Generator()
        self._means = _RunningMeans(self.accelerator.device)

    def _get_train_sampler(self, *_args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Labelled tokens, latents and rows [3] of one optimiser step, in all processes."""
        counts = torch.zeros(3, device=device)
        for inputs in batch_samples:
            labelled = inputs["labels"] != IGNORE
            latent = inputs["input_ids"] == self.tokens.latent
            counts += torch.stack([labelled.sum(), latent.sum(), labelled.any(1).sum()]).to(device)
        return self.accelerator.reduce(counts, "sum")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This micro-batch's share of CE + lambda * MSE over the step; times the processes, which average gradients."""
        batch: Batch = inputs["batch"]
        with self.vision.holding([*batch.observed, *batch.future, *batch.unchanged]):
            return self._share(model, inputs, batch, num_items_in_batch)

    def _share(self, model: Any, inputs: dict[str, Any], batch: Batch, num_items_in_batch: Any) -> torch.Tensor:
        ids, labels = inputs["input_ids"], inputs["labels"]
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], ids.device)
        forward = inputs_of(batch, self.vision, ids.device)
        latent, labelled = ids == self.tokens.latent, labels != IGNORE
        before_latent, before_labelled = latent.roll(-1, 1), labelled.roll(-1, 1)  # a row begins with neither
        targets = self.vision.merged(batch.future)
        if self.recipe.latent_targets == "noise" and batch.future:
            mean, spread = self._training_features
            targets = (mean + spread * torch.randn_like(targets)).to(targets)
        fed = targets
        if self._feeds_predictions() and (batch.future or self.accelerator.num_processes > 1):
            # several processes go through the same passes, or those that share weights wait for each other for ever
            with torch.no_grad():
                fed = spliced_forward(model, forward, latent, targets, torch.zeros_like(latent))[0][before_latent]
        states, scores = spliced_forward(model, forward, latent, fed, before_labelled, _scores, (labels[labelled],))
        nll, correct = scores.unbind(-1)
        errors = _errors(states[before_latent], targets)
        tokens, latents, rows = num_items_in_batch
        ce = (nll * self._weights(labelled, tokens, rows)).sum()
        mse = (errors * self._weights(latent, latents, rows)).sum()
        self._track(nll, correct, errors, batch, targets)
        return (ce + self.recipe.latent_weight * mse) * self.accelerator.num_processes

    def _weights(self, mask: torch.Tensor, items: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The weight of each item at `mask` [B,T] in the step's mean."""
        if self.recipe.loss_reduction == "token":
            return 1 / items.clamp(min=1)
        return 1 / (mask.sum(1) * rows)[mask.nonzero()[:, 0]]

    def _feeds_predictions(self) -> bool:
        """Whether this step's latent inputs are the model's own predictions (from the true frames before them)."""
        if self.recipe.scheduled_sampling is None or not self.model.training:
            return False
        start, end = self.recipe.scheduled_sampling
        probability = (self.state.global_step / self.state.max_steps - start) / (end - start)
        self._generator.manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        return float(torch.rand((), generator=self._generator)) < probability

    # ---- metrics

    @torch.no_grad()
    def _track(
        self, nll: torch.Tensor, correct: torch.Tensor, errors: torch.Tensor, batch: Batch, targets: torch.Tensor
    ) -> None:
        self._means.add("ce", nll)
        self._means.add("mean_token_accuracy", correct)
        if batch.future:
            self._means.add("latent_mse", errors)
            self._means.add("latent_mse/copy_last_frame", _errors(self.vision.merged(batch.unchanged), targets))
            self._means.add("latent_mse/training_mean", _errors(self._training_features[0], targets))

    @cached_property
    def _training_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [D] of the features of the first rows' future frames.

        They are the same for every process and after a resume, and say nothing of the row at hand.
        """
        rows: Rows = self.data_collator.rows
        first = [rows.dialogue(i, spans=True) for i in range(min(len(rows), STATISTICS_ROWS))]
        features = self.vision.merged([p for row in first for p in row.future]).float()
        return features.mean(0), features.std(0, correction=0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log, over all processes, and the latent skill.

        latent_skill = 1 - MSE / MSE of the better of two trivial predictors, the last observed frame ("nothing
        changes") and the mean of the training frames: 1 is perfect, 0 worth nothing.
        """
        means = self._means.take(self.accelerator)
        if "latent_mse" in means:
            baseline = min(means["latent_mse/copy_last_frame"], means["latent_mse/training_mean"])
            means["latent_skill"] = 1 - means["latent_mse"] / baseline
        super().log(logs | means, start_time)


def _scores(logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Of logits [n,V] and labels [n]: the negative log-likelihood, and whether the likeliest token is right [n,2]."""
    nll = F.cross_entropy(logits.float(), words, reduction="none")
    return torch.stack([nll, (logits.argmax(-1) == words).to(nll)], -1)


def _errors(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squares [n] over the hidden components, in float32 whatever the model's precision."""
    return (predicted.float() - targets.float()).pow(2).mean(-1)


class _RunningMeans:
    """Running sums on the device: nothing waits for it between two logs."""

    NAMES = ("ce", "mean_token_accuracy", "latent_mse", "latent_mse/copy_last_frame", "latent_mse/training_mean")

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(self.NAMES), 2, device=device, dtype=torch.float64)

    def add(self, name: str, values: torch.Tensor) -> None:
        sums = self._sums[self.NAMES.index(name)]
        sums[0] += values.double().sum()
        sums[1] += values.numel()

    def take(self, accelerator: Any) -> dict[str, float]:
        """Means over all processes of what was added since the last time."""
        sums = accelerator.reduce(self._sums.clone(), "sum").tolist()
        self._sums.zero_()
        return {name: total / n for name, (total, n) in zip(self.NAMES, sums, strict=True) if n}
