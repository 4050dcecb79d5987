"""TwiFF-Bench: open and chosen answers with a reasoning chain, both scored 0 to 5 by a judge.

Scores cover only what was judged: a report says how much that is, and is null rather than 0 where it is nothing.
Against the release: all reference images are shown, the short answer is the ground truth (the whole text is an option),
images travel as they are embedded, and the model's two texts are JSON strings (reference/evaluation.md 2.4).
"""

from dataclasses import dataclass

import dataframely as dy

from evaluation.benchmarks import judged
from evaluation.benchmarks.judge_messages import Marks
from evaluation.benchmarks.judged import AVERAGE, JudgedBenchmark
from evaluation.benchmarks.twiffbench_items import TwiffBenchItems, TwiffBenchSettings
from training.grading.judge import SCORE_PROMPT
from training.grading.parsers import ParserName
from training.grading.replies import read_scores, release_scores

MARK_LABELS = {"cot": "CoT", "answer": "Answer", AVERAGE: "Average"}
MARKS = tuple(MARK_LABELS)


class ItemTable(dy.Schema):
    """One benchmark item; `problem` says why it is unusable."""

    id = dy.String(primary_key=True, description="number of the row over all shards")
    video = dy.String(nullable=True, description="clip that the item is about")
    start = dy.String(nullable=True, description="start of the clip in its source video")
    end = dy.String(nullable=True, description="end of the clip in its source video")
    category = dy.String(nullable=True, description="kind of question")
    question = dy.String(nullable=True, description="question, with a marker for each observed image")
    reasoning = dy.List(dy.String(), nullable=True, description="text of the reference around its images")
    answer = dy.String(nullable=True, description="reference answer, short")
    whole_answer = dy.String(nullable=True, description="reference answer as in the source")
    question_images = dy.List(dy.Binary(), nullable=True, description="observed frames, encoded")
    reasoning_images = dy.List(dy.Binary(), nullable=True, description="future frames of the reference, encoded")
    problem = dy.String(nullable=True, description="reason why the item is unusable")


class ScoreTable(dy.Schema):
    """One answered item; its marks are means over `*_marks`, the judgements in order, and null where there is none."""

    id = dy.String(primary_key=True, description="number of the row over all shards")
    category = dy.String(description="kind of question")
    cot = judged.mark_column("reasoning")
    cot_marks = judged.marks_column("reasoning")
    answer = judged.mark_column("answer")
    answer_marks = judged.marks_column("answer")


@dataclass(frozen=True)
class TwiffBench(TwiffBenchItems, JudgedBenchmark):
    settings: TwiffBenchSettings
    item_table = ItemTable
    judge_prompt = SCORE_PROMPT
    score_table = ScoreTable
    reference_column = "answer"

    def read_reply(self, reply: str, parser: ParserName) -> Marks | None:
        return release_scores(reply) if parser == "release" else read_scores(reply)
