"""An SFT step of the real trainer against the public release's way (tests/performance/release.py)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from tests.performance.conftest import Compare
from tests.performance.release import prepared, step_loss
from tests.performance.subject import Subject, dialogue, trainer_of
from training.model.encoding import IGNORE, collate
from training.model.splice import spliced_forward
from training.sft.trainer import LatentSFTTrainer

WEIGHT = 0.1
ROWS = {"tiny": 12, "mid-size": 2}


def step(trainer: LatentSFTTrainer, rows: int, together: bool) -> float:
    """The loss of a step over the first rows, in one micro-batch or a row at a time; gradients stay on the weights."""
    draws = [{"row": row, "spans": True, "counts": True} for row in range(rows)]
    batches = [trainer.data_collator(part) for part in ([draws] if together else [[draw] for draw in draws])]
    counts = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    total = 0.0
    for inputs in batches:
        loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=counts)
        loss.backward()
        total += float(loss.detach())
    return total


def test_an_sft_step_against_the_releases_way(subject: Subject, compare: Compare, tmp_path: Path) -> None:
    """Loss and gradients are the same; tests/performance/release.py describes the release's way.

    Ours reads a row and resizes its frames once, encodes each frame once (without keeping anything where rows are new),
    and applies the head to labelled positions alone, be it to a batch or to one row at a time.
    """
    model, n = subject.model.model, ROWS[subject.name]
    fresh, cached = (trainer_of(subject, tmp_path / str(keep), keep) for keep in (False, True))
    learning = [p for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)

    def taken(way: Callable[[], float]) -> tuple[float, list[torch.Tensor | None]]:
        """Loss and gradients, which do not stay: a run begins with none."""
        loss, gradients = way(), [p.grad for p in learning]
        model.zero_grad(set_to_none=True)
        return loss, gradients

    def release() -> tuple[float, list[torch.Tensor | None]]:
        return taken(lambda: step_loss(subject.model, subject.latent_config, subject.rows[:n], WEIGHT))

    def ours(trainer: LatentSFTTrainer, together: bool) -> tuple[float, list[torch.Tensor | None]]:
        return taken(lambda: step(trainer, n, together))

    what = f"{subject.name}, an SFT step, the release's way"
    for name, trainer, together in (
        ("one row at a time", fresh, False),
        ("a batch", fresh, True),
        ("a batch of cached rows", cached, True),
    ):
        way = partial(ours, trainer, together)
        theirs, our = compare(f"{what} against {name}", release, way, n, memory=(release, way))
        torch.testing.assert_close(our, theirs, rtol=1e-3, atol=1e-5)
    draws = [{"row": row, "spans": True, "counts": True} for row in range(n)]
    compare(
        "  the preparing of rows alone",
        lambda: [prepared(subject.model, subject.latent_config, row) for row in subject.rows[:n]],
        lambda: fresh.data_collator(draws),
        n,
    )


def test_logits_at_labels_against_everywhere(subject: Subject, compare: Compare) -> None:
    """The same dialogue with sixteen frames, which have no labels; all else alike.

    Naive: float32 logits at every position, and a cross-entropy that ignores most of them.
    """
    encoder, tokens, model = subject.model.encoder(subject.latent_config), subject.model.tokens, subject.model.model
    model.model.visual.requires_grad_(False)
    batch = collate([dialogue(encoder, 0, 16, 3)], tokens.pad)
    vision = subject.model.vision(2**28)
    latent, labelled = batch.ids == tokens.latent, batch.labels != IGNORE

    def cross_entropy(everywhere: bool) -> tuple[float, torch.Tensor | None]:
        inputs = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "position_ids": batch.positions,
            "mm_encoder_outputs": vision.encoder_outputs(batch.observed),
        }
        at = torch.ones_like(latent) if everywhere else labelled.roll(-1, 1)
        _, logits = spliced_forward(model, inputs, latent, vision.merged(batch.future), at)
        words = batch.labels.roll(-1, 1)[at]  # a row's first token has no label, so nothing wraps around
        loss = F.cross_entropy(logits.float(), words, ignore_index=IGNORE)
        loss.backward()
        gradient = model.get_input_embeddings().weight.grad
        model.zero_grad(set_to_none=True)
        return float(loss.detach()), gradient

    everywhere, at_labels = compare(
        f"{subject.name}, forward and backward, logits at all {labelled.numel()} positions against {labelled.sum()}",
        partial(cross_entropy, True),
        partial(cross_entropy, False),
        1,
        memory=(partial(cross_entropy, True), partial(cross_entropy, False)),
    )
    torch.testing.assert_close(at_labels, everywhere, rtol=1e-3, atol=1e-6)
