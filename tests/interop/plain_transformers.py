"""The demo's latent checkpoints in plain transformers, with the decoding loop of their folders: the answers are the
demo's own."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from evaluation.benchmarks.benchmark import sample_items
from evaluation.benchmarks.futurebench import FutureBench
from evaluation.generation.requests import with_images
from tests.interop.demo import Demo
from tests.interop.table import Check
from training.data.parts import Part
from training.data.video import FrameCache

ITEMS = 200
PROGRAM = Path(__file__).with_name("transformers_answers.py")


def checks(demo: Demo, work: Path) -> Iterator[Check]:
    """Raises CalledProcessError where the program fails."""
    benchmark = FutureBench(demo.profile.benchmarks.futurebench.recipe)
    usable = demo.items(benchmark.name).filter(pl.col("problem").is_null())
    prompts = benchmark.prompts(sample_items(usable, ITEMS))
    write_messages(prompts, work / "prompts.jsonl")
    limit = demo.profile.benchmarks.futurebench.answers.max_new_tokens
    for model, checkpoint in demo.latent_checkpoints.items():
        command = [demo.python, "-I", PROGRAM, checkpoint, work / "prompts.jsonl", work / "answers.jsonl", str(limit)]
        subprocess.run(command, check=True, env=os.environ | {"HF_HOME": str(work / "hf")})
        *answers, duration = map(json.loads, (work / "answers.jsonl").read_text().splitlines())
        ours = demo.answers(benchmark.name, model).join(prompts, on="prompt_id", how="semi")
        tokens = dict(ours.select("prompt_id", "tokens").iter_rows())
        seconds = ours.select((pl.col("prefill_seconds") + pl.col("decode_seconds")).sum()).item()
        yield Check(
            f"{model}: answers token for token, in {duration['seconds']:.1f} s (ours {seconds:.1f} s)",
            f"transformers {duration['transformers']}",
            sum(tokens[answer["id"]] == answer["tokens"] for answer in answers),
            prompts.height,
        )


def write_messages(prompts: pl.DataFrame, path: Path) -> None:
    """Each prompt as chat messages, a line each, with its pictures as files beside them."""
    frame_cache = FrameCache(2**26)
    lines = []
    for number, (name, content) in enumerate(prompts.select("prompt_id", "content").iter_rows()):
        pictures = path.parent / f"pictures_{number}"
        pictures.mkdir()
        messages = [{"role": "user", "content": list(message_parts(content, pictures, frame_cache))}]
        lines.append(json.dumps({"id": name, "messages": messages}) + "\n")
    path.write_text("".join(lines))


def message_parts(content: list[Part], pictures: Path, frame_cache: FrameCache) -> Iterator[dict[str, Any]]:
    for number, (part, images) in enumerate(with_images(content, frame_cache)):
        if part["type"] == "text":
            yield {"type": "text", "text": part["text"]}
        else:
            (image,) = images
            Image.fromarray(image).save(pictures / f"{number}.png")
            yield {"type": "image", "path": str(pictures / f"{number}.png")}
