"""SFTTrainer with the latent loss.

Differs from TRL's in three places only: rows come as drawn (no sampler of its own), frames and latents enter through
the frozen vision features and the splice, and the loss adds lambda * MSE between the state one position before each
latent and the features of the true future frame (paper Eq. 1-3; both terms are means, as in the release).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import SequentialSampler
from trl import SFTTrainer

from training.model.encoding import IGNORE, Batch, collate
from training.model.forward import last_hidden_state
from training.model.rows import Row, RowReader
from training.model.tokens import Tokens
from training.model.vision import FrozenVision


@dataclass
class Collator:
    """Draws {"row", "spans"} to what the trainer moves to its device; positions and frames travel beside as `batch`."""

    rows: Sequence[Row]
    reader: RowReader

    def __call__(self, draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
        encoded = [self.reader.dialogue(self.rows[draw["row"]], draw["spans"]) for draw in draws]
        batch = collate(encoded, self.reader.encoder.tokens.pad)
        return {"input_ids": batch.ids, "attention_mask": batch.mask, "labels": batch.labels, "batch": batch}


class LatentSFTTrainer(SFTTrainer):
    """Trains on a dataset of draws, in their order."""

    def __init__(
        self,
        *args: Any,
        vision: FrozenVision,
        tokens: Tokens,
        latent_weight: float,
        own_state: tuple[float, float] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.vision, self.tokens, self.latent_weight, self.own_state = vision, tokens, latent_weight, own_state
        self.model_accepts_loss_kwargs = False  # means of means: the Trainer divides by the micro-batches itself
        self._draw = torch.Generator()

    def _get_train_sampler(self, *_args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """CE + lambda * MSE of one micro-batch; a batch without latents has CE alone."""
        batch: Batch = inputs["batch"]
        ids, labels = inputs["input_ids"], inputs["labels"]
        forward = {
            "input_ids": ids,
            "attention_mask": inputs["attention_mask"],
            "position_ids": batch.positions.to(ids.device),
            "mm_encoder_outputs": self.vision.encoder_outputs(batch.observed),
        }
        latent = ids == self.tokens.latent
        before = latent.roll(-1, 1)  # the states that predict the latents
        targets = torch.cat([f for f, _ in self.vision.features(batch.future)]) if batch.future else None
        fed = targets if targets is not None else self.model.get_input_embeddings().weight[:0]
        if targets is not None and self._feeds_own_states():
            with torch.no_grad():
                fed = last_hidden_state(model, forward, latent, targets)[before]
        states = last_hidden_state(model, forward, latent, fed)
        labelled = labels[:, 1:] != IGNORE
        logits = self.accelerator.unwrap_model(model).lm_head(states[:, :-1][labelled]).float()
        ce = F.cross_entropy(logits, labels[:, 1:][labelled])
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["ce"].append(ce.item())
        metrics["token_accuracy"].append((logits.argmax(-1) == labels[:, 1:][labelled]).float().mean().item())
        if targets is None:
            return ce
        mse = (states[before].float() - targets.float()).pow(2).mean()
        spread = (targets.float() - targets.float().mean(0)).pow(2).mean()
        metrics["latent_mse"].append(mse.item())
        metrics["latent_skill"].append((1 - mse / spread).item())  # 1: perfect; 0: no better than the batch's mean
        return ce + self.latent_weight * mse

    def _feeds_own_states(self) -> bool:
        """Whether this step's latent inputs are the model's own predictions (from the true frames before them)."""
        if self.own_state is None or not self.model.training:
            return False
        begin, full = self.own_state
        share = (self.state.global_step / self.state.max_steps - begin) / (full - begin)
        self._draw.manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        return float(torch.rand((), generator=self._draw)) < share
