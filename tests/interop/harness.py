"""lmms-eval's own command line on the demo's latent checkpoints: scores and answers are those of `future-l1
evaluate`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from evaluation.benchmarks.futurebench_items import FILE
from evaluation.evaluate import ANSWERS, GRADED, REPORT
from evaluation.lmms_eval.items import ITEM_TABLE
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.served import served
from training.grading import toy_judge
from training.storage.files import read_json, write_json
from training.storage.parquet import read_parquet

PROGRAM = "lmms-eval 0.7.3"
BATCH = "16"
PAID_VERDICTS = 20
ODD_REQUESTS = Path(__file__).with_name("odd_requests.py")


@dataclass(frozen=True)
class Task:
    """A benchmark of the demo as a task of ours; `options` are those of `future-l1 evaluate` for the same prompts.

    marks: the metrics of an item.  every: of so many items one is tried.
    """

    name: str
    benchmark: str
    marks: tuple[str, ...]
    options: tuple[str, ...] = ()
    every: int = 1


TASKS = (
    Task("future_l1_toyworld_futurebench", "futurebench", ("accuracy",),
         ("--layout", "keyframes", "--parser", "option_text")),
    Task("future_l1_toyworld_twiffbench", "twiffbench", ("cot", "answer"), ("--layout", "interleaved")),
    Task("future_l1_futurebench", "futurebench", ("accuracy",), every=25),  # the paper's layout: videos
)  # fmt: skip


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    with ExitStack() as stack:
        judge = stack.enter_context(toy_judge.serve())
        for model, checkpoint in demo.latent_checkpoints.items():
            for task in TASKS:
                folder = work / model / task.name
                source = _source(demo, task, folder / "source")
                ours = _evaluate(source, task, checkpoint, folder / "ours", judge)
                samples, results = _harness(demo.python, source, task, checkpoint, folder / "theirs", judge)
                title = f"{model}, {task.name}"
                yield Check(f"{title}: answers token for token", PROGRAM, *_same_answers(ours, samples))
                yield Check(f"{title}: marks of each item", PROGRAM, *_same_marks(task, ours, samples))
                yield Check(f"{title}: scores", PROGRAM, *_same_scores(task, read_json(ours / REPORT), results))
                if task.benchmark == "twiffbench":
                    samples = _with_an_empty_account(demo.python, source, task, checkpoint, folder / "broke")
                    yield Check(f"{title}, judge's account empty: answers", PROGRAM, *_same_answers(ours, samples))
                    marked = sum("cot" in sample for sample in samples)
                    yield Check(f"{title}, judge's account empty: marks until then", PROGRAM, marked, PAID_VERDICTS)
            odd = json.loads(_run([demo.python, ODD_REQUESTS, checkpoint], cwd=work).splitlines()[-1])
            yield Check(f"{model}, odd requests: refused, the others answered", PROGRAM, sum(odd.values()), len(odd))


def _evaluate(source: Path, task: Task, checkpoint: Path, out: Path, judge: str) -> Path:
    """`future-l1 evaluate`; the folder with its tables."""
    command = [sys.executable, "-m", "pipelines", "evaluate", "--checkpoint", checkpoint, "--out", out,
               "--benchmark", task.benchmark, "--data-dir", source, "--batch-size", BATCH,
               "--device", "cpu", *task.options]  # fmt: skip
    if task.benchmark == "twiffbench":
        command += ["--judge", judge, "--judge-model", toy_judge.MODEL]
    _run(command)
    return out


def _harness(
    python: Path, source: Path, task: Task, checkpoint: Path, out: Path, judge: str
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """`lmms-eval eval`; its log of each item, in order, and its results."""
    tasks = _run([python, "-m", "evaluation.lmms_eval"], cwd=out.parent).strip()
    command = [python, "-m", "lmms_eval", "eval", "--model", "future_l1", "--model_args",
               f"pretrained={checkpoint}", "--batch_size", BATCH, "--device", "cpu", "--tasks", task.name,
               "--include_path", tasks, "--log_samples", "--output_path", out]  # fmt: skip
    variables = {
        f"FUTURE_L1_{task.benchmark.upper()}_DIR": str(source),
        "FUTURE_L1_JUDGE_BASE_URL": judge,
        "FUTURE_L1_JUDGE_MODEL": toy_judge.MODEL,
        "HF_HOME": str(out.parent / "hf"),
    }
    _run(command, cwd=out.parent, **variables)
    (log,) = out.glob("*/*_samples_*.jsonl")
    (results,) = out.glob("*/*_results.json")
    samples = [json.loads(line) for line in log.read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"]), read_json(results)["results"][task.name]


def _with_an_empty_account(python: Path, source: Path, task: Task, checkpoint: Path, out: Path) -> list[dict[str, Any]]:
    """The harness's log of each item where the judge's account runs empty in the middle."""
    empty = (402, b'{"error": {"message": "Insufficient Balance"}}')
    with served(
        lambda *_: '{"reasoning": "as asked", "score": [3, 4]}',
        models=(toy_judge.MODEL,),
        script=lambda number, _: empty if number >= PAID_VERDICTS else None,
    ) as judge:
        return _harness(python, source, task, checkpoint, out, judge.url)[0]


def _source(demo: Demo, task: Task, folder: Path) -> Path:
    """The benchmark's folder; where not all items are tried, one with the others left out."""
    source: Path = getattr(demo.profile.source, task.benchmark)
    if task.every == 1:
        return source
    folder.mkdir(parents=True)
    write_json(folder / FILE, read_json(source / FILE)[:: task.every])
    (folder / "first_part_video").symlink_to(source / "first_part_video")
    return folder


def _same_answers(ours: Path, samples: list[dict[str, Any]]) -> tuple[int, int]:
    """Answers with the text, and the numbers of tokens, of ours; of all items."""
    same, items = 0, read_parquet(ours / ITEM_TABLE).filter(pl.col("problem").is_null()).select("id")
    answers = items.join(read_parquet(ours / ANSWERS), left_on="id", right_on="prompt_id", maintain_order="left")
    for row, sample in zip(answers.iter_rows(named=True), samples, strict=True):
        counts = {"input_tokens": row["prompt_tokens"], "output_tokens": len(row["tokens"]),
                  "reasoning_tokens": row["latent_tokens"]}  # fmt: skip
        same += (row["text"], [counts]) == (sample["filtered_resps"], sample["token_counts"])
    return same, len(samples)


def _same_marks(task: Task, ours: Path, samples: list[dict[str, Any]]) -> tuple[int, int]:
    columns = ["correct"] if task.benchmark == "futurebench" else list(task.marks)
    graded = read_parquet(ours / GRADED).select(pl.col(columns).cast(pl.Float64)).rows()
    same = [row == tuple(sample[mark] for mark in task.marks) for row, sample in zip(graded, samples, strict=True)]
    return sum(same), len(same)


def _same_scores(task: Task, report: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[int, int]:
    """Scores, by split and on average, that are those of our report."""
    if task.benchmark == "futurebench":
        scores = {f"accuracy_{name}": split["accuracy"] for name, split in report["splits"].items()}
        scores["accuracy"] = report["average"]["accuracy"]
    else:
        scores = {mark: report[mark]["mean"] for mark in (*task.marks, "average")}
    return sum(abs(results[f"{name},none"] - score) < 1e-9 for name, score in scores.items()), len(scores)


def _run(command: list[Any], cwd: Path | None = None, **variables: str) -> str:
    """What a command prints.  Raises RuntimeError with the end of it where it fails."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n"
                           f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")  # fmt: skip
    return done.stdout
