"""Many answers at a time, and many answers of one prompt."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from evaluation.futurebench import video_frame_numbers
from tests.footage import CLIPS, FOOTAGE
from tests.performance.conftest import Compare
from training.data.video import frame_rate, read_frames
from training.model.checkpoint import FutureL1
from training.model.decode import Decoded, Sampling, decode
from training.model.encoding import Encoded, Encoder
from training.model.rows import RowReader
from training.model.vision import FrozenVision

GREEDY = Sampling(max_new_tokens=44)


@dataclass
class Asker:
    """A model with its frames' features in memory: what is timed is prefill and decoding."""

    model: FutureL1
    vision: FrozenVision

    def __call__(self, prompts: list[Encoded], sampling: Sampling, repeat: int = 1) -> Decoded:
        drawn = torch.Generator().manual_seed(0)
        return decode(
            self.model.model, self.vision, self.model.tokens, prompts, sampling, self.model.spans, repeat, drawn
        )


@pytest.fixture
def ask(taught: FutureL1) -> Asker:
    return Asker(taught, taught.vision(cache_bytes=2**28))


def test_a_batch_of_answers_against_one_at_a_time(
    ask: Asker, encoder: Encoder, rows: list[dict[str, Any]], compare: Compare
) -> None:
    reader = RowReader(encoder, keep=True)
    prompts = [reader.prompt(row) for row in rows]
    together = ask(prompts, GREEDY).ids
    for number, prompt in enumerate(prompts):
        alone = ask([prompt], GREEDY).ids[0]
        assert together[number, : len(alone)].tolist() == alone.tolist()
    compare(
        "latent decoding, one answer at a time against a batch",
        lambda: [ask([prompt], GREEDY) for prompt in prompts],
        lambda: ask(prompts, GREEDY),
        len(prompts),
    )


def test_eight_answers_of_a_video_from_one_prefill_against_eight(
    ask: Asker, encoder: Encoder, compare: Compare
) -> None:
    path, count = FOOTAGE / "bikes.mp4", CLIPS["bikes.mp4"]
    numbers = video_frame_numbers(count)
    shown = encoder.patch_video(read_frames(path, numbers, "decord"), numbers, frame_rate(path), 4, 64)
    prompt = encoder.prompt([*shown, "What happens next?"])
    sampling = Sampling(max_new_tokens=8)
    assert torch.equal(ask([prompt], sampling, repeat=8).ids, ask([prompt] * 8, sampling).ids)
    compare(
        f"eight answers to {len(prompt.ids)} prompt tokens, eight prefills against one",
        lambda: ask([prompt] * 8, sampling),
        lambda: ask([prompt], sampling, repeat=8),
        8,
    )
