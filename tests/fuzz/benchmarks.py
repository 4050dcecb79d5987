"""What `future-l1 evaluate`, `score` and `predict` do with mutated items, images, clips, answers and prompts."""

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from assets.toyworld.clips import write_batch
from assets.toyworld.source import TWIFFBENCH_SCHEMA, write_futurebench, write_twiffbench
from tests.fuzz.commands import Ended, ViolationError, run
from tests.fuzz.mutants import altered, damaged
from training.tiny import BASE

FORMATS = ("PNG", "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "DDS", "PPM", "ICO", "TGA")
MODES = ("RGB", "L", "I;16", "P", "1", "RGBA", "CMYK", "LA")
ANSWERS = (
    "(A)",
    "A or B",
    "</answer>",
    "<answer>",
    "**C**",
    " ",
    "\n",
    "\\boxed{",
    "The answer is ",
    "（B）",
    "A.",
    "\0",
)


def futurebench(rng: random.Random, folder: Path) -> str:
    """Items with an altered part, and damaged videos."""
    clips = write_futurebench(folder, 6, np.random.default_rng(rng.randrange(2**32)))
    (folder / "first_part_video").mkdir()
    write_batch(clips)
    items = json.loads((folder / "futurebench.json").read_text())
    for job in rng.sample(clips, 6):
        job.path.write_bytes(damaged(job.path.read_bytes(), rng))
    mutants = [altered(item, rng) if rng.random() < 0.7 else item for item in items]
    text = json.dumps(mutants).encode("utf-8", "surrogatepass")
    (folder / "futurebench.json").write_bytes(damaged(text, rng) if rng.random() < 0.1 else text)
    return _evaluated("futurebench", folder, len(items), "--layout", rng.choice(("keyframes", "video32")))


def twiffbench(rng: random.Random, folder: Path) -> str:
    """Rows with an altered part, and images of all kinds, damaged or not."""
    write_twiffbench(folder, 24, 0.5, np.random.default_rng(rng.randrange(2**32)))
    for number, path in enumerate(sorted(folder.glob("*.parquet"))):
        rows = [_spoiled(row, rng) for row in pl.read_parquet(path).to_dicts()]
        try:
            table = pl.DataFrame(rows, schema=TWIFFBENCH_SCHEMA, strict=False)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            table = pl.DataFrame([_spoiled(row, rng, images_only=True) for row in pl.read_parquet(path).to_dicts()])
        table.write_parquet(path)
        if number == 3 and rng.random() < 0.3:
            path.write_bytes(damaged(path.read_bytes(), rng))
    return _evaluated("twiffbench", folder, 24)


def score(rng: random.Random, folder: Path) -> str:
    """Stored answers with altered fields and adversarial texts."""
    letters = {"A": "red", "B": "blue", "C": "green", "D": "grey"}
    lines = []
    for number in range(400):
        inner = "".join(rng.choices(ANSWERS, k=rng.randint(1, 6))) * rng.choice((1, 1, 1, 20_000))
        response = rng.choice((f"<reason>x</reason><answer>{inner}</answer>", inner, f"<answer>{inner}"))
        record: dict[str, Any] = {
            "id": f"{number}", "question_type": "hop1", "answer": rng.choice("ABCD"), "options": letters,
            "response": response,
        }  # fmt: skip
        record = altered(record, rng) if rng.random() < 0.3 else record
        line = json.dumps(record).encode("utf-8", "surrogatepass")
        lines.append(damaged(line, rng) if rng.random() < 0.1 else line)
    (folder / "answers.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    parser = rng.choice(("strict", "release", "release_direct", "option_text"))
    answers = folder / "answers.jsonl"
    return _outcome(run("score", "--benchmark", "futurebench", "--answers", answers, "--parser", parser))


def predict(rng: random.Random, folder: Path) -> str:
    """Prompts with an altered part about damaged clips, decoded as one batch."""
    clips = write_futurebench(folder, 2, np.random.default_rng(rng.randrange(2**32)))
    (folder / "first_part_video").mkdir()
    write_batch(clips)
    prompts = []
    for job in clips:
        if rng.random() < 0.5:
            job.path.write_bytes(damaged(job.path.read_bytes(), rng))
        prompt = {"video": str(job.path.relative_to(folder)), "frames": [1], "question": "What is next?"}
        prompts.append(altered(prompt, rng) if rng.random() < 0.6 else prompt)
    text = json.dumps(prompts).encode("utf-8", "surrogatepass")
    (folder / "prompts.json").write_bytes(text)
    ended = run(
        "predict", "--checkpoint", BASE, "--prompts", folder / "prompts.json", "--out", folder / "out.json",
        "--max-new-tokens", 4,
    )  # fmt: skip
    return _outcome(ended)


def _spoiled(row: dict[str, Any], rng: random.Random, images_only: bool = False) -> dict[str, Any]:
    if rng.random() < 0.5 and not images_only:
        row = altered(row, rng, keep=lambda path: path[0].endswith("images"))
    for name in ("question_images", "reasoning_images"):
        images = row.get(name)
        if isinstance(images, list) and images and rng.random() < 0.5:
            images[rng.randrange(len(images))] = {"bytes": _image(rng), "path": rng.choice((None, "a.png", "../b"))}
    return row


def _image(rng: random.Random) -> bytes | None:
    """An image of some format, mode and size, perhaps damaged; or none."""
    data = io.BytesIO()
    size = rng.choice(((64, 64), (1, 1), (1, 3_000), (517, 3), (4_000, 4_000)))
    try:
        Image.new(rng.choice(MODES), size).save(data, rng.choice(FORMATS))
    except (OSError, ValueError, KeyError):  # not every format has every mode
        return rng.choice((None, b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"))
    return damaged(data.getvalue(), rng) if rng.random() < 0.6 else data.getvalue()


def _evaluated(benchmark: str, folder: Path, count: int, *options: object) -> str:
    ended = run(
        "evaluate", "--checkpoint", BASE, "--benchmark", benchmark, "--data-dir", folder, "--out", folder / "out",
        "--max-new-tokens", 4, "--image-tokens", 4, 16, "--device", "cpu", *options,
    )  # fmt: skip
    report = folder / "out" / "report.json"
    if ended.status or not report.exists():
        return _outcome(ended)
    made = json.loads(report.read_text())
    accounted = made["answered"] + made["refused"]["count"] + sum(made["problems"].values())
    if accounted != made["items"] or made["items"] > count + 1:  # one item may be there twice
        raise ViolationError(f"{count} items, and the report has {made['items']}, {accounted} of them accounted for")
    return f"{made['answered']} of {made['items']} answered, problems {made['problems']}"


def _outcome(ended: Ended) -> str:
    return ended.sentence[:160] or f"status {ended.status}"
