"""Videos in chats with vLLM's server: prompts and answers are those of our own decoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evaluation.benchmarks.benchmark import sample_items
from evaluation.benchmarks.futurebench import FutureBench
from tests.interop.chats import Reference, chat, clip_as_it_is
from tests.interop.demo import Demo
from tests.interop.table import Check
from tests.interop.vllm_server import Server, in_flight
from training.data.parts import Part, frame, text, video
from training.data.video import frame_rate

ITEMS = 40
SMALL = 9
"""Merged tokens of a picture that must be made smaller."""


def checks(demo: Demo, reference: Reference, server: Server, title: str) -> Iterator[Check]:
    settings = demo.profile.benchmarks.futurebench.recipe
    benchmark = FutureBench(settings.model_copy(update={"layout": "video32"}))
    usable = demo.items(benchmark.name).filter(pl.col("problem").is_null())
    contents = benchmark.prompts(sample_items(usable, ITEMS))["content"].to_list()
    yield from _compared(f"{title}, videos as frames", reference, server, contents)
    yield from _compared(f"{title}, videos after a picture, resized", reference, server, list(map(_smaller, contents)))
    files = [_two_a_second(content) for content in contents]
    yield from _compared(f"{title}, videos as files", reference, server, files, as_files=True)


def _compared(
    title: str, reference: Reference, server: Server, contents: list[list[Part]], as_files: bool = False
) -> Iterator[Check]:
    encoded = [reference.encoded(content) for content in contents]
    ours = reference.answers(reference.decoded(encoded))
    chats = list(map(_with_file, contents) if as_files else map(chat, contents, encoded))
    answers = in_flight(lambda body: server.answer(body, reference.limit), chats)
    prompts = sum(body["prompt_token_ids"] == e.ids for (_, body), e in zip(answers, encoded, strict=True))
    yield Check(f"{title}: prompts token for token", "vLLM's server", prompts, len(encoded))
    same = sum(answer[0] == tokens for (answer, _), (tokens, _) in zip(answers, ours, strict=True))
    yield Check(f"{title}: answers token for token", "vLLM's server", same, len(ours))


def _smaller(content: list[Part]) -> list[Part]:
    """The first frame before the video, and both resized."""
    clip, *rest = content
    path, reader = clip["path"], clip["reader"]
    return [text("It began so: "), frame(path, 0, SMALL, reader), video(path, clip["frames"], reader, SMALL), *rest]


def _two_a_second(content: list[Part]) -> list[Part]:
    """The frames that Qwen3-VL's processor and vLLM take of a clip."""
    clip, *rest = content
    count = max(clip["frames"]) + 1
    wanted = min(max(int(count / frame_rate(clip["path"]) * 2), 4), count)
    numbers = np.linspace(0, count - 1, wanted).round().astype(int).tolist()
    return [video(clip["path"], numbers, clip["reader"]), *rest]


def _with_file(content: list[Part]) -> dict[str, Any]:
    """A chat with the file of the clip, without any fields of ours."""
    clip, *rest = content
    parts = [clip_as_it_is(Path(clip["path"])), *({"type": "text", "text": part["text"]} for part in rest)]
    return {"messages": [{"role": "user", "content": parts}]}
