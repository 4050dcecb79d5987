"""`future-l1 evaluate` on the tiny base: kills, broken videos, larger samples, and scoring again without the model."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from click.testing import Result

from assets.toyworld.clips import write_batch
from assets.toyworld.source import write_futurebench, write_twiffbench
from evaluation import evaluate as evaluation
from evaluation.generate import main
from evaluation.generation.jobs import GenerateConfig
from evaluation.generation.program import GenerationFailedError
from tests.forks import forked
from tests.invoke import invoke
from tests.latent_server import Reply, latent_server
from tests.processes import environment, future_l1, until
from training.data.prompts import ANSWERS
from training.grading.toy_judge import MODEL, serve
from training.model.checkpoint import FutureL1
from training.runtime.programs import Reporter
from training.runtime.project import PROJECT
from training.tiny import BASE

ITEMS = 48
UNTIMED = [name for name in ANSWERS if not name.endswith("_seconds")]
WITHOUT_TORCH = """
import sys
from pipelines.cli.main import main
try:
    main()
finally:
    assert sys.modules.keys().isdisjoint({"torch", "transformers"})
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve items of each split with their clips, and TwiFF-Bench beside them; an empty file is no system prompt."""
    return world(tmp_path_factory.mktemp("source"), ITEMS // 4)


def world(folder: Path, per_split: int) -> Path:
    rng = np.random.default_rng(per_split)
    (folder / "futurebench" / "first_part_video").mkdir(parents=True)
    write_batch(write_futurebench(folder / "futurebench", per_split, rng))
    write_twiffbench(folder / "twiffbench", 8, 0.5, rng)
    (folder / "no_system.txt").write_text("")
    return folder


def options(source: Path, out: Path, *more: Any) -> list[str]:
    arguments = [
        "evaluate", "--checkpoint", BASE, "--benchmark", "futurebench", "--data-dir", source / "futurebench",
        "--layout", "keyframes", "--parser", "option_text", "--max-new-tokens", 8, "--image-tokens", 4, 16,
        "--system-prompt", source / "no_system.txt", "--batch-size", 2, "--device", "cpu", "--out", out, *more,
    ]  # fmt: skip
    return [str(part) for part in arguments]


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def answers(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "answers.parquet").select(UNTIMED)


def ledger(out: Path) -> list[str]:
    """The whole lines of the one ledger in a folder."""
    ledgers = list((out / "ledger").glob("*.jsonl"))
    assert len(ledgers) <= 1
    return [line for path in ledgers for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "cost"}


@pytest.fixture(scope="module")
def alone(source: Path, forks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing happened to."""
    out = tmp_path_factory.mktemp("alone") / "out"
    printed = done(invoke(*options(source, out, "--latency-samples", 2)))
    assert f"answered {ITEMS} of {ITEMS} items" in printed and "option_text" in printed
    return out


def test_the_folder_holds_answers_marks_and_a_report(alone: Path) -> None:
    assert answers(alone).height == len(ledger(alone)) == ITEMS
    graded, made = pl.read_parquet(alone / "graded.parquet"), report(alone)
    assert made["average"]["correct"] == graded["correct"].sum() > 0
    assert (made["status"], made["missing"], made["refused"]["count"]) == ("complete", 0, 0)
    assert {split: score["n"] for split, score in made["splits"].items()} == dict.fromkeys(made["splits"], ITEMS // 4)
    assert made["cost"]["latency"]["n"] == 2
    assert made["cost"]["latency"]["seconds"]["mean"] > 0
    assert not (alone / "work").exists()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program runs in this process, which has imported torch already."""

    def generate(config: GenerateConfig) -> None:
        config.out.mkdir(parents=True)
        main(config, Reporter(config.out, quiet=True))

    monkeypatch.setattr(evaluation, "generate", generate)


def test_a_served_checkpoint_is_evaluated_as_one_that_is_here(
    alone: Path, source: Path, base: FutureL1, tmp_path: Path, in_process: None
) -> None:
    """Without --checkpoint, the server names the folder."""
    out, first = tmp_path / "out", []

    def spoil(reply: Reply) -> None:
        """No answer to the prompt that comes first."""
        first.append(reply["prompt_token_ids"])
        if first[-1] == first[0]:
            del reply["choices"][0]["token_ids"]

    with latent_server(base, BASE) as (server, http):
        arguments = options(source, out, "--limit", 6, "--endpoint", http.url, "--concurrency", 2)
        at = arguments.index("--checkpoint")
        del arguments[at : at + 2]
        server.spoil = spoil
        done(invoke(*arguments))
        assert 0 < answers(out).height < 6
        server.spoil = lambda reply: None
        printed = done(invoke(*arguments))
        requests = len(http.requests)
        assert "answered 6 of 6 items" in printed and "served by vllm-0.32.0-89abcdef, plug-in 0123: " in printed
        done(invoke(*arguments))
        assert len(http.requests) == requests, "nothing is pending any more"
    assert answers(out).equals(answers(alone).join(answers(out), on="prompt_id", how="semi"))
    assert report(out)["run"]["engine"] == "vllm"


def kill_at(arguments: Sequence[str], out: Path, answers: int) -> None:
    """Starts the command and sends SIGKILL to it, and to nobody else, when the ledger has so many answers."""
    command = subprocess.Popen(
        future_l1(*arguments), cwd=PROJECT, env=environment(**forked()), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(ledger(out)) >= answers, f"the ledger has {answers} answers", interval=0.02, process=command)
    children = psutil.Process(command.pid).children(recursive=True)
    os.kill(command.pid, signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    assert children, "the program that has the model is a process of its own"
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "the program goes on without the command that started it"


def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(alone: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kill_at(options(source, out), out, 11)
    assert not (out / "report.json").exists()
    paid = ledger(out)
    assert 11 <= len(paid) < ITEMS
    with next((out / "ledger").glob("*.jsonl")).open("a") as file:
        file.write('{"key": "torn by the cra')
    done(invoke(*options(source, out)))
    assert ledger(out)[: len(paid)] == paid
    arguments = [json.loads(line)["prompt_id"] for line in ledger(out)]
    assert len(arguments) == len(set(arguments)) == ITEMS
    assert answers(out).equals(answers(alone))
    assert untimed(report(out)) == untimed(report(alone))


def blocked(*arguments: Any) -> dict[str, Any]:
    """Runs the command, which must not import torch or transformers; returns the report."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return report(Path(arguments[arguments.index("--out") + 1]))


def test_scoring_again_needs_neither_model_nor_source_nor_torch(alone: Path, source: Path) -> None:
    before, lines = report(alone), ledger(alone)
    strict = blocked("evaluate", "--out", alone, "--parser", "strict")
    assert (strict["parser"], strict["layout"]) == ("strict", "keyframes")
    assert strict["average"] | {"unparsed": strict["unparsed"]["count"]} == before["parsers"]["strict"]
    again = blocked(*options(source, alone, "--latency-samples", 2))
    assert again == before, "everything is answered: no model is loaded"
    assert ledger(alone) == lines


def test_a_larger_sample_asks_only_for_what_is_new(
    alone: Path, source: Path, tmp_path: Path, in_process: None
) -> None:
    out = tmp_path / "out"
    for limit in (6, 10):
        printed = done(invoke(*options(source, out, "--limit", limit)))
        assert f"answered {limit} of {limit} items, which are {limit} of {ITEMS}" in printed
        assert len(ledger(out)) == limit
    assert blocked(*options(source, out, "--limit", 6))["limit"] == {"n": 6, "of": ITEMS}
    assert len(ledger(out)) == 10
    assert answers(out).join(answers(alone), on=UNTIMED, how="semi", nulls_equal=True).height == 6


def test_answers_under_a_control_stand_apart(
    alone: Path, source: Path, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done(invoke(*options(source, out, "--limit", 4)))
    done(invoke(*options(source, out, "--limit", 4, "--control", "options_1")))
    assert [len(path.read_text().splitlines()) for path in (out / "ledger").glob("*.jsonl")] == [4, 4]
    assert report(out)["control"] == report(out)["run"]["control"] == "options_1"
    shuffled = options(source, out, "--limit", 4, "--control", "shuffled_frames")
    printed = done(invoke(*shuffled))
    made = report(out)
    assert (made["status"], made["average"]["accuracy"], made["refused"]["count"]) == ("unanswered", None, 4)
    assert "no score: every prompt was refused, 4 because: control shuffled_frames" in printed

    def started(*_: Any, **__: Any) -> None:
        raise GenerationFailedError("the program was started")

    monkeypatch.setattr(evaluation, "generate", started)
    done(invoke(*shuffled))
    assert "the program was started" in invoke(*shuffled, "--retry-refused").output


def test_missing_and_broken_videos_leave_a_partial_score(tmp_path: Path, in_process: None) -> None:
    source = world(tmp_path / "source", 2)
    gone, broken, *_ = sorted((source / "futurebench" / "first_part_video").glob("*.mp4"))
    gone.unlink()
    broken.write_bytes(b"not a video")
    printed = done(invoke(*options(source, tmp_path / "out")))
    made = report(tmp_path / "out")
    assert (made["status"], made["answered"], made["missing"]) == ("partial", 6, 2)
    assert made["problems"] == {"missing clip": 1, "unreadable video": 1}
    assert made["average"]["n"] == 6
    assert "problems: 1 x unreadable video" in printed


def test_a_judges_marks_are_kept_and_scored_again_without_it(source: Path, tmp_path: Path, in_process: None) -> None:
    out = tmp_path / "out"
    arguments = options(
        source, out, "--benchmark", "twiffbench", "--data-dir", source / "twiffbench", "--layout", "interleaved"
    )
    arguments = [part for i, part in enumerate(arguments) if "--parser" not in arguments[max(0, i - 1) : i + 1]]
    printed = done(invoke(*arguments))
    assert "no score: no judge was named" in printed and report(out)["average"]["mean"] is None
    with serve() as url:
        judged = ["evaluate", "--out", out, "--judge", url, "--judge-model", MODEL, "--judge-samples", "2"]
        done(invoke(*judged))
    before = report(out)
    assert (before["status"], before["average"]["n"]) == ("complete", 8)
    assert before["coverage"]["judgements"] == {"expected": 16, "received": 16}
    assert set(before["agreement"]) == {"cot", "answer"}
    assert blocked(*judged) == before, "the judge is not there any more, its replies are"


def test_another_benchmark_or_another_evaluation_at_work_is_refused(alone: Path, source: Path) -> None:
    refused = invoke("evaluate", "--out", alone, "--benchmark", "twiffbench")
    assert refused.exit_code != 0 and "holds answers to futurebench, not to twiffbench" in refused.output
    with (alone / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = invoke(*options(source, alone))
    assert refused.exit_code != 0 and "another evaluation is at work" in refused.output


ARGUMENTS = ["--checkpoint", BASE, "--data-dir", PROJECT / "tests"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", BASE], "--checkpoint (or --endpoint), --benchmark and --data-dir go together"),
        (["--judge", "http://127.0.0.1:9/v1"], "--judge and --judge-model go together"),
        ([], "holds no answers"),
        (["--checkpoint", PROJECT, "--benchmark", "futurebench", "--data-dir", PROJECT], "is no model's folder"),
        (["--checkpoint", BASE, "--benchmark", "futurebench", "--data-dir", PROJECT / "tests"], "futurebench.json"),
        ([*ARGUMENTS, "--benchmark", "twiffbench", "--parser", "strict"], "twiffbench has no parser"),
        ([*ARGUMENTS, "--benchmark", "futurebench", "--layout", "interleaved"], "layout"),
        ([*ARGUMENTS, "--benchmark", "futurebench", "--intervention", "mean"], "'mean' and reference_latents need"),
        (["--limit", 3], "--limit changes how answers are generated: it needs --checkpoint and --data-dir"),
    ],
)
def test_a_users_mistake_is_reported_in_a_line(tmp_path: Path, arguments: list[Any], message: str) -> None:
    result = invoke("evaluate", "--out", tmp_path / "out", *arguments)
    assert result.exit_code != 0
    assert message in result.output and "Traceback" not in result.output
