"""Resuming a large shard: time and memory of stored answers and a judge's stored replies, in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.performance.conftest import Table
from training.grading.judge import VERDICT_PROMPT, VERDICTS, Judge, JudgeItem, JudgeSettings, prompt_hash
from training.runtime.project import PROJECT
from training.storage.keyed_log import KeyedLog

SIZES = (100_000, 500_000)
SAMPLES, TOKENS = 16, 96
"""Answers of a prompt, and tokens of an answer: a third of the paper's (table 7)."""
BATCH = 20_000
"""Answers that are graded at a time, as evaluation.generation.grader does."""
MEASURED = """
import sys, time
from pathlib import Path
path, n = Path(sys.argv[1]), int(sys.argv[2])
def peak():  # getrusage's begins with that of the process that started this one
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
{imports}
before, started = peak(), time.process_time()
{work}
print(time.process_time() - started, (peak() - before) / n)
"""
ANSWERS = MEASURED.format(
    imports=f"""
from evaluation.generation.ledger import Ledger
prompts = {{f"key{{i}}": f"row{{i}}" for i in range(n // {SAMPLES})}}
""",
    work=f"""
ledger = Ledger(path, prompts, samples={SAMPLES})
assert len(ledger) == n
ledger.write_table(path.with_suffix(".parquet"))
""",
)
REPLIES = MEASURED.format(
    imports="""
from training.grading.judge import Judge, JudgeItem, JudgeSettings
items = [JudgeItem("What happens next?", "it falls", f"it rises {i}") for i in range(n)]
""",
    work=f"""
judge = Judge(JudgeSettings(base_url="http://127.0.0.1:9/v1", model="judge", cache=path))
for first in range(0, n, {BATCH}):
    assert set(judge.verdicts(items[first : first + {BATCH}])) == {{"incorrect"}}
assert judge.counts["requests"] == 0
""",
)


def write_answers(path: Path, numbers: range) -> None:
    """More answers of usual length, as a program leaves them."""
    text = f"<reason>{'It rolls on and on. ' * 17}</reason>\n<answer>it falls</answer>"
    counts = {"text_tokens": TOKENS, "latent_tokens": 0, "control_tokens": 0, "spans": [], "finished": True}
    answer = {"tokens": list(range(1000, 1000 + TOKENS)), "text": text, "prefill_seconds": 0.1, "decode_seconds": 0.4}
    rest = json.dumps(answer | counts)[1:]
    with path.open("a") as file:
        for number in numbers:
            row, sample = divmod(number, SAMPLES)
            file.write(f'{{"key": "key{row}", "prompt_id": "row{row}", "sample": {sample}, {rest}\n')


def write_replies(path: Path, numbers: range) -> None:
    """More replies of a judge, as it stores them."""
    judge, log = Judge(JudgeSettings(base_url="http://127.0.0.1:9/v1", model="judge")), KeyedLog(path)
    record = {"model": "judge", "prompt": prompt_hash(VERDICT_PROMPT), "prompt_tokens": 350, "completion_tokens": 10}
    for number in numbers:
        payload = judge.verdict_payload(JudgeItem("What happens next?", "it falls", f"it rises {number}"))
        log.append({**record, "reply": {"verdict": "incorrect"}}, key=VERDICTS.key("judge", payload))
    log.close()


@pytest.mark.parametrize(
    ("what", "write", "program"), [("answers", write_answers, ANSWERS), ("a judge's replies", write_replies, REPLIES)]
)
def test_resuming(what: str, write: Callable[[Path, range], None], program: str, tmp_path: Path, table: Table) -> None:
    lines, path = [], tmp_path / "log.jsonl"
    for stored, n in pairwise((0, *SIZES)):
        write(path, range(stored, n))
        command = [sys.executable, "-c", program, str(path), str(n)]
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout
        seconds, grown = map(float, out.split())
        lines.append(
            [f"{n:,}", f"{path.stat().st_size / n:.0f}", f"{seconds:.1f}", f"{1e6 * seconds / n:.1f}", f"{grown:.0f}"]
        )
    table(f"resuming {what}", ["stored", "bytes each", "CPU s", "us each", "peak bytes each in memory"], lines)
