"""Rows whose frames are arrays: neither a clip nor a decoder of clips is needed."""

from typing import Any

import numpy as np

from training.data.dialogue import Slot
from training.model.rows import Row, RowReader
from training.tiny import world

OBSERVED, FUTURE = 4, 2
QUESTION = "".join(f"frame_{k}\n<image>\n" for k in range(1, OBSERVED + 1)) + "Which colour comes next?"


class ArrayReader(RowReader):
    """Takes frames from the row's `images`: the observed ones, then the future ones."""

    def _frames(self, row: Row, slots: list[Slot]) -> dict[Slot, np.ndarray]:
        first = {"observed": 0, "future": len(row["observed"])}
        return {slot: row["images"][first[slot.kind] + slot.index] for slot in slots}


def random_rows(count: int, frame: tuple[int, int], seed: int = 0) -> list[dict[str, Any]]:
    """Rows with four observed and two future frames of noise, and a question with options, which the rule grades."""
    rng = np.random.default_rng(seed)
    return [
        {
            "row_id": f"{number:016x}",
            "question": QUESTION + world.options_text([0, 1, 2, 3]),
            "reasoning": ["It goes on as it began, " * 12] * FUTURE + [""],
            "answer": world.COLOURS[0],
            "observed": list(range(1, OBSERVED + 1)),
            "future": list(range(OBSERVED + 1, OBSERVED + FUTURE + 1)),
            "images": rng.integers(0, 256, (OBSERVED + FUTURE, *frame, 3), np.uint8),
        }
        for number in range(count)
    ]


def toy_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the toy world with one observed frame."""
    rng = np.random.default_rng(seed)
    questions = world.draw_questions(count, rng, "validation", hops=[1])
    frames = questions.boards.frames(0)
    return [
        {
            "row_id": f"{number:016x}",
            "question": "frame_1\n<image>\n"
            + world.question_text(world.CATEGORIES[number % 3], 1)
            + world.options_text(questions.options[number].tolist()),
            "answer": world.COLOURS[questions.answer[number]],
            "observed": [1],
            "images": frames[number : number + 1],
        }
        for number in range(count)
    ]
