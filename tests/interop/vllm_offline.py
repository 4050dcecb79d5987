"""Answers of `vllm.LLM`, in a process of its own."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.interop.chats import Answer, decoded_spans
from tests.interop.demo import Demo

PROGRAM = Path(__file__).with_name("vllm_answers.py")


def offline_answers(
    demo: Demo,
    checkpoint: Path,
    rows: Sequence[Mapping[str, Any]],
    work: Path,
    limit: int,
    options: Mapping[str, Any],
    variables: Mapping[str, str],
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers to these rows, and what vLLM says of itself; rows and options are those of vllm_answers."""
    prompts, out = work / "prompts.jsonl", work / "answers.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [demo.vllm, PROGRAM, checkpoint, prompts, out, str(limit), json.dumps(options)]
    subprocess.run(command, check=True, cwd=work, env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"} | variables)
    *answers, about = map(json.loads, out.read_text().splitlines())
    return [(answer["tokens"], decoded_spans(answer["latents"])) for answer in answers], about
