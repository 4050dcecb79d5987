"""Every command shows one example, which its options can read, and options mean the same in all commands."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from pipelines.cli.main import main
from tests.invoke import invoke
from tests.processes import environment, future_l1, messages
from training.tiny import BASE


@pytest.mark.parametrize("name", main.commands)
def test_help_has_one_example_of_the_command_itself(name: str) -> None:
    text = invoke(name, "--help").output
    [example] = re.findall(r"Example:\n((?: {4}.*\n)+)", text)
    words = shlex.split(re.sub(r'[$()"]|\\\n', " ", example))  # one is `eval "$(...)"`
    words = words[words.index("future-l1") :]
    assert words[1] == name
    command = main.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    required = {p.opts[0] for p in command.params if isinstance(p, click.Option) and p.required}
    assert required <= set(words)


GRAMMAR = {"--checkpoint", "--benchmark", "--data-dir", "--answers", "--parser", "--judge", "--judge-model"}


def test_an_option_of_several_commands_takes_the_same_kind_of_value() -> None:
    kinds: dict[str, set[tuple[str, str | None]]] = {}
    for command in main.commands.values():
        for option in (p for p in command.params if isinstance(p, click.Option)):
            kinds.setdefault(option.opts[0], set()).add((option.type.name, option.metavar))
    assert {name: len(kinds[name]) for name in GRAMMAR} == dict.fromkeys(GRAMMAR, 1)


def test_scores_go_to_standard_output_or_to_a_file(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    record = {"id": 1, "question_type": "hop1", "answer": "B", "response": "<answer>B</answer>"}
    answers.write_text(json.dumps(record) + "\n{\n")
    arguments = ("score", "--benchmark", "futurebench", "--answers", answers)
    printed = json.loads(invoke(*arguments).stdout)
    assert (printed["average"]["correct"], printed["malformed"][0]["line"]) == (1, 2)
    out = tmp_path / "new" / "scores.json"
    written = invoke(*arguments, "--out", out)
    assert written.stdout == "" and str(out) in written.stderr
    assert json.loads(out.read_text()) == printed


def test_a_file_without_a_line_that_can_be_scored_is_an_error(tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "scores.json"
    answers.write_text('{"id": 1}\n[]\n')
    refused = invoke("score", "--benchmark", "twiffbench", "--answers", answers, "--out", out)
    assert refused.exit_code == 1 and "none of 2 lines can be scored; line 1: reply is absent" in refused.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["score", "--benchmark", "futurebench", "--answers"],
        ["predict", "--checkpoint", str(BASE), "--prompts"],
        ["inspect", "--checkpoint", str(BASE), "--records"],
        ["inspect", "--rewards"],
    ],
)
def test_out_does_not_replace_the_file_that_is_read(tmp_path: Path, command: list[str]) -> None:
    source, link = tmp_path / "source.json", tmp_path / "link.json"
    source.write_text('{"id": 1, "question_type": "hop1", "answer": "B", "response": "<answer>B</answer>"}\n')
    link.symlink_to(source)
    before = source.read_text()
    for out in (source, link):
        refused = invoke(*command, source, "--out", out)
        assert refused.exit_code == 1 and "itself, which would be lost" in refused.output
    assert source.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate", "--gpus", "0"], "0 is not in the range"),
        (["estimate", "--judge-share", "90"], "judge_share must be 0 or more, at most 1"),
        (["estimate", "--rows", "inf"], "an estimate is for at least one row"),
        (["ui", "--port", "99999"], "99999 is not in the range"),
        (["demo", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_a_wrong_value_is_answered_with_a_sentence(arguments: list[str], message: str) -> None:
    refused = invoke(*arguments)
    assert message in refused.output and isinstance(refused.exception, SystemExit)
    assert "pydantic" not in refused.output and "input_value" not in refused.output


def test_an_empty_home_is_no_silent_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_L1_HOME", str(tmp_path))
    empty = invoke("inspect")
    assert empty.exit_code == 0 and f"no artifacts in {tmp_path}" in empty.stderr and not empty.stdout


def test_a_reader_that_ends_first_is_no_error(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"id": 1, "question_type": "hop1", "answer": "B", "response": "<answer>B</answer>"}\n')
    reading, writing = os.pipe()
    os.close(reading)
    score = future_l1("score", "--benchmark", "futurebench", "--answers", answers)
    ended = subprocess.run(score, env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert messages(ended.stderr) == []
