"""Models that are measured, and their prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig as TrlConfig

from tests.footage import CLIPS, FOOTAGE
from tests.toy import sft_recipe
from training.data.dialogue import Slot, assistant_pieces, user_pieces
from training.data.video import read_frames
from training.model.checkpoint import FutureL1
from training.model.encoding import Encoded, Encoder
from training.model.latent_config import LatentConfig
from training.model.rows import SKIPPED, Row, RowReader, Rows
from training.sft.__main__ import freeze_vision
from training.sft.trainer import Collator, LatentSFTTrainer

QUESTION = "What does the rider do next?"
THOUGHT = "The rider leans into the bend."
CLIP = "bikes.mp4"


@dataclass(frozen=True)
class Subject:
    """A model, its encoder and rows that suit it."""

    name: str
    model: FutureL1
    encoder: Encoder
    rows: list[Row]

    @property
    def latent_config(self) -> LatentConfig:
        """Spans end where the model ends them, as in the paper."""
        assert self.model.latent_config is not None
        return self.model.latent_config.model_copy(update={"span_end": "model"})


def footage_rows() -> list[dict[str, Any]]:
    """Eight rows of real clips of three shapes: four observed frames, and one, two, three future ones in turn."""
    rows = []
    for number in range(8):
        clip = list(CLIPS)[number % len(CLIPS)]
        depth = 1 + number % 3
        rows.append(
            {
                "row_id": f"{number:016x}",
                "question": "".join(f"frame_{k}\n<image>\n" for k in range(1, 5)) + QUESTION,
                "reasoning": [*[THOUGHT] * depth, ""],
                "answer": f"it goes on {number}",
                "observed": [1, 2, 3, 4],
                "future": [5, 6, 7][:depth],
                "path": str(FOOTAGE / clip),
                "frame_count": CLIPS[clip],
                "reader": "sequential",
            }
        )
    return rows


def prompt(encoder: Encoder, first: int, frames: int) -> Encoded:
    """A question about so many frames of a clip, from its `first` on."""
    user = user_pieces("<image>" * frames + QUESTION, frames)
    images = _frames(first, frames)
    low, high = encoder.limits.observed
    return encoder.prompt([encoder.patch(images[p.index], low, high) if isinstance(p, Slot) else p for p in user])


def dialogue(encoder: Encoder, first: int, frames: int, spans: int) -> Encoded:
    """The same with an answer: as many thoughts whatever the spans, five at most of them followed by a frame."""
    user = user_pieces("<image>" * frames + QUESTION, frames)
    assistant = assistant_pieces([*[THOUGHT] * spans, " ".join([THOUGHT] * (5 - spans))], "it goes on")
    images = _frames(first, frames + spans)
    slots = [p for p in (*user, *assistant) if isinstance(p, Slot)]
    return encoder.dialogue(
        user, assistant, {s: images[s.index + (frames if s.kind == "future" else 0)] for s in slots}
    )


def _frames(first: int, count: int) -> list[Any]:
    return read_frames(FOOTAGE / CLIP, [first + 10 * k for k in range(count)], "sequential")


def trainer_of(subject: Subject, folder: Path, keep: bool) -> LatentSFTTrainer:
    """The real trainer, rows weighted alike as in the release; with `keep`, dialogues and features stay in memory."""
    freeze_vision(subject.model.model)
    arguments = TrlConfig(
        output_dir=str(folder), max_steps=1, use_cpu=True, bf16=False, report_to=[], max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True}, activation_checkpointing=False,
    )  # fmt: skip
    encoder = subject.model.encoder(subject.latent_config)
    return LatentSFTTrainer(
        model=subject.model.model,
        args=arguments,
        train_dataset=Dataset.from_list([{"row": 0, "spans": True, "counts": True}]),
        data_collator=Collator(Rows(subject.rows, RowReader(encoder, keep), folder / SKIPPED)),
        processing_class=subject.model.processor.tokenizer,
        bundle=subject.model,
        recipe=sft_recipe(latent_config=subject.latent_config, latent_weight=0.1, loss_reduction="sample"),
        vision=subject.model.vision(2**28 if keep else 0),
    )
