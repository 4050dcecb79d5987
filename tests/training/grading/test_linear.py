"""Nothing that reads the text of rows, models and judges takes more than linear time: a child reads 1 MB of each."""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from assets.curation import disjoint, previews, v1_33k
from evaluation.benchmarks import judge_messages, seedbench
from evaluation.generation.segments import segments
from training.data.clip_names import clip_interval
from training.data.trajectory import RejectedRow, parse_row, split_answer
from training.grading import form, grade, parsers, replies, strict
from training.runtime.printable import printable
from training.runtime.project import PROJECT

CHARACTERS = 1_000_000
HANGS = 60
"""Seconds for a text that takes one; what is quadratic takes an hour."""
UNITS = (
    " ", "\n", "<answer>", "</answer>", "<answer ", "<ans>", "<ans></ans>", "<reason>", "<reason></reason>", "<|a",
    "<|latent_start|>", "A. ", "A. x\n", "A. x ", "(A", "C,", "\\boxed{", "*", "'", "(", "the answer is ", "answer ",
    "not ", "选", "- ", "\ufdfa", "\u0301\u0327", "\ud800", "frame_1 ", "1", "0:", "observation ", "[1,",
)  # fmt: skip
BEGINNINGS, MIDDLES, ENDS = ("A. x", "answer"), (" ", "not "), ("y", "\nB. z")
TEXTS = [unit * (CHARACTERS // len(unit)) for unit in UNITS] + [
    f"{begin}{middle * (CHARACTERS // len(middle))}{end}" for begin in BEGINNINGS for middle in MIDDLES for end in ENDS
]
OPTIONS = {"A": "x", "B": "y"}
QUESTION = "Q\nA. x\nB. y"


def in_a_row(text: str) -> None:
    images = {"question_images_index": [1], "reasoning_images_index": [2]}
    begun = {"video": "x.mp4", "question": "frame_1\n<image> Why?", "answer": "<ans>b</ans>", **images}
    meta = {"start": text, "end": text, "classification": text}
    for fields in ({"question": text}, {"answer": text}, {"answer": f"{text}<ans>x</ans>"}, {"meta_data": meta}):
        with suppress(RejectedRow):
            parse_row(begun | fields, "shard", 1)
    clip_interval(text, text, text)


def in_a_choice(text: str) -> None:
    for item in ({"question": text, "answer": text}, {"question": "Q", "options": [text, text], "answer": text},
                 {"question": "Q", "options": text, "hop": text}):  # fmt: skip
        with suppress(RejectedRow):
            v1_33k._row(item, {"video_path": text, "hop": 1}, "file")
    disjoint.question_words(text)


READERS: dict[str, Callable[[str], object]] = {
    "strict": lambda text: parsers.strict(f"<answer>{text}</answer>", OPTIONS),
    "release": lambda text: (parsers.release(text), parsers.release_direct(text)),
    "tag": lambda text: (parsers.answer_text(text), split_answer(text)),
    "options": lambda text: (parsers.options_of(text), strict.normalised(text)),
    "rule": lambda text: grade.grade_by_rule(QUESTION, "x", f"<answer>{text}</answer>"),
    "grade": lambda text: grade.grade([grade.GradingItem(text, text, text)], "strict", None),
    "judge": lambda text: (replies.read_scores(text), replies.release_scores(text)),
    "grammar": lambda text: form.well_formed([text], 0),
    "repetition": form.repetition,
    "cleanup": judge_messages.split_response,
    "page": lambda text: (segments(text), previews._question(text), printable(text)),
    "row": in_a_row,
    "choice": in_a_choice,
    "lead-in": seedbench._without_lead_in,
}


def read_all(reader: str) -> None:
    """Ends the process with SIGALRM where a text takes too long: no pattern that runs away lets Python do it."""
    for text in TEXTS:
        signal.alarm(HANGS)
        READERS[reader](text)


@pytest.mark.parametrize("reader", READERS)
def test_a_megabyte_of_anything_is_read(reader: str) -> None:
    code = f"from tests.training.grading.test_linear import read_all\nread_all({reader!r})"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
