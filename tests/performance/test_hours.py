"""Hours of decoding at the paper's size, simulated: the scheduler's own rule, made lengths, a fixed time a step.

Nothing is decoded.  Lengths of answers are exponential, cut at the most new tokens; a step takes STEP however many rows
it has, as a GPU's does while it waits for its launches.  Before: parts of a fixed number of answers, each as long as
its longest.
"""

import random
import statistics
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tests.performance.conftest import Table
from training.model.scheduler import Scheduler
from training.model.token_budget import FREE_SHARE

STEP = 0.03  # seconds
LOOK_EVERY = 16
TOKEN_BYTES = 147_456  # keys and values of Qwen3-VL-8B, bf16
GIB = 2**30
GPU, WEIGHTS, TRAINING = 74.5 * GIB, 16.3 * GIB, 14.7 * GIB  # 80 GB; bf16; policy, reference and Adam on 8 GPUs
BATCHES = 20_000 // 64  # of RL's prompts
ROUNDS = 2  # of rollouts to fill a batch


def lengths(n: int, mean: int, most: int, numbers: random.Random) -> list[int]:
    return [max(1, min(most, int(numbers.expovariate(1 / mean)))) for _ in range(n)]


def steps_in_parts(answers: Sequence[int], size: int) -> int:
    return sum(max(answers[begin : begin + size]) for begin in range(0, len(answers), size))


def steps_as_scheduled(answers: Sequence[int], of_prompt: int, prompt_tokens: int, most: int, free: float) -> int:
    prompts: Any = [SimpleNamespace(ids=range(prompt_tokens))] * (len(answers) // of_prompt)
    scheduler = Scheduler(prompts, [[0] * of_prompt] * len(prompts), None, most, FREE_SHARE * free / TOKEN_BYTES)
    ends: dict[int, int] = {}
    step = 0
    while ends or scheduler.waiting:
        ends = {answer: end for answer, end in ends.items() if end > step}
        for prompt in scheduler.admit([answer // of_prompt for answer in ends]):
            ends |= {answer: step + answers[answer] for answer in scheduler.answers[prompt]}
        step += LOOK_EVERY
    return step


def test_hours_of_rollouts(table: Table) -> None:
    numbers, rows = random.Random(0), []
    for mean in (300, 500):
        before, after, spread = [], [], []
        for _ in range(20):
            batch = [lengths(64, mean, 2048, numbers) for _ in range(8)]  # a round on 8 GPUs
            before.append(max(steps_in_parts(of_gpu, 32) for of_gpu in batch))
            free = GPU - TRAINING - WEIGHTS
            after.append(max(steps_as_scheduled(of_gpu, 8, 3_620, 2048, free) for of_gpu in batch))
            spread.append(max(max(of_gpu) for of_gpu in batch))  # eight answers a GPU: one part, before as now
        assert statistics.mean(after) < statistics.mean(before)
        hours = [BATCHES * ROUNDS * STEP / 3600 * statistics.mean(steps) for steps in (before, after, spread)]
        rows.append([mean, *(f"{one:.1f}" for one in hours)])
    table("Rollouts of 20,000 rows, hours", ["mean length", "8 GPUs, before", "8 GPUs", "64 GPUs, both"], rows)


def test_tokens_a_step_of_curation(table: Table) -> None:
    numbers, rows = random.Random(0), []
    for size in (512, 2048):
        answers = lengths(size, 289, 1024, numbers)
        parts = sum(answers) / steps_in_parts(answers, 128)
        scheduled = sum(answers) / steps_as_scheduled(answers, 4, 2_230, 1024, GPU - WEIGHTS)
        assert scheduled > parts
        rows.append([size, f"{parts:.0f}", f"{scheduled:.0f}"])
    table("Tokens a step of curation", ["answers read at a time", "parts of 128", "as scheduled"], rows)
