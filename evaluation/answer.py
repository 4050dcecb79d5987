"""`python -m evaluation.answer --config answer.json`: tables of prompts in, tables of answers out.

One start answers any number of jobs (checkpoint, prompts, sampling, intervention), since loading the libraries takes
longer than many a job.  Answers are written batch by batch; a killed run goes on after the last whole batch, and a
batch's random stream depends on the job's seed and the batch alone, so it ends with the same answers.
"""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict

from evaluation import interventions
from training.data.prompts import ANSWERS, Part
from training.data.video import FrameShelf, UnreadableVideo, frame_rate
from training.model.checkpoint import FutureL1, load
from training.model.decode import Decoded, Intervention, Sampling, decode
from training.model.encoding import Encoded, Encoder
from training.model.teaching import Teaching
from training.model.vision import FrozenVision
from training.programs import ProgramConfig, Reporter, run_program


class AnswerJob(BaseModel):
    """One table of prompts for one checkpoint; the answers go to `{answers}/{name}.parquet`.

    batch_size counts answers in flight; image_tokens: least and most merged tokens of an image, and of
    a video's frame pair, without its own cap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: Path
    prompts: Path
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int
    batch_size: int
    image_tokens: tuple[int, int]
    system: str | None
    intervention: interventions.Name = "none"
    seed: int = 0


class AnswerConfig(ProgramConfig):
    """What to answer."""

    jobs: list[AnswerJob]
    answers: Path | None = None  # where the tables go, shared by programs side by side; None: `out`
    vision_cache_gib: float = 0.5
    frames_cache_gib: float = 0.5


def main(config: AnswerConfig, reporter: Reporter) -> dict[str, Any]:
    """Answers every job that has no answers yet; per job: how many answers, unreadable prompts, and seconds."""
    names = [job.name for job in config.jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"jobs must have different names; found {names}")
    result: dict[str, Any] = {}
    bundles: dict[Path, tuple[FutureL1, FrozenVision]] = {}
    shelf = FrameShelf(int(config.frames_cache_gib * 2**30))
    for job in sorted(config.jobs, key=lambda j: (str(j.checkpoint), j.name)):
        target = (config.answers or config.out) / f"{job.name}.parquet"
        if not target.exists():
            if job.checkpoint not in bundles:
                bundles = {job.checkpoint: _load(job.checkpoint, config)}  # one model in memory at a time
            _answer(job, *bundles[job.checkpoint], shelf, target, reporter)
        table = pl.read_parquet(target)
        seconds = float(table.select(pl.sum("prefill_seconds") + pl.sum("decode_seconds")).item())
        result[job.name] = {"answers": table.height, "seconds": seconds, "unreadable": _unreadable(target)}
    return result


def _load(checkpoint: Path, config: AnswerConfig) -> tuple[FutureL1, FrozenVision]:
    cuda = config.device != "cpu" and torch.cuda.is_available()
    bundle = load(checkpoint, "cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
    return bundle, bundle.vision(int(config.vision_cache_gib * 2**30))


def _answer(
    job: AnswerJob, bundle: FutureL1, vision: FrozenVision, shelf: FrameShelf, target: Path, reporter: Reporter
) -> None:
    teaching = bundle.teaching or Teaching(
        observed_tokens=job.image_tokens, latents=0, span_end="model", system=job.system
    )
    encoder = bundle.encoder(teaching.model_copy(update={"observed_tokens": job.image_tokens, "system": job.system}))
    prompts = pl.read_parquet(job.prompts).to_dicts()
    prompts.sort(key=_length)  # alike lengths together: little padding
    per_batch = max(1, job.batch_size // job.samples)
    batches = [prompts[i : i + per_batch] for i in range(0, len(prompts), per_batch)]
    parts = target.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(batches):
        part = parts / f"{number:06d}.parquet"
        if not part.exists():
            rows, failed = _answer_batch(job, bundle, vision, encoder, shelf, batch, number)
            _write(
                pl.DataFrame(failed, schema={"prompt_id": pl.String, "reason": pl.String}), part.with_suffix(".failed")
            )
            _write(pl.DataFrame(rows, schema=ANSWERS), part)
        reporter.progress(number + 1, len(batches), f"answers {job.name}")
    tables = [pl.read_parquet(part) for part in sorted(parts.glob("*.parquet"))] or [pl.DataFrame(schema=ANSWERS)]
    failures = [pl.read_parquet(part) for part in sorted(parts.glob("*.failed"))]
    if failures:
        _write(pl.concat(failures), target.with_suffix(".failed"))
    _write(pl.concat(tables).sort("prompt_id", "sample"), target)
    for part in parts.iterdir():
        part.unlink()
    parts.rmdir()


def _answer_batch(
    job: AnswerJob,
    bundle: FutureL1,
    vision: FrozenVision,
    encoder: Encoder,
    shelf: FrameShelf,
    batch: Sequence[dict],
    number: int,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Answers of one batch, and the prompts whose frames could not be read, with the reason."""
    ids, encoded, failed = [], [], []
    for prompt in batch:
        try:
            encoded.append(_encode(encoder, prompt["content"], shelf))
            ids.append(prompt["prompt_id"])
        except (UnreadableVideo, ValueError, OSError) as error:
            failed.append({"prompt_id": prompt["prompt_id"], "reason": str(error)})
    if not encoded:
        return [], failed
    decoded = _decode(job, bundle, vision, encoded, number)
    return list(_rows(job, bundle, ids, decoded)), failed


def _decode(job: AnswerJob, bundle: FutureL1, vision: FrozenVision, encoded: list[Encoded], number: int) -> Decoded:
    def draw(intervention: Intervention | None = None) -> Decoded:
        generator = torch.Generator(bundle.model.device).manual_seed(job.seed * 1_000_003 + number)
        sampling = Sampling(job.max_new_tokens, job.temperature, job.top_p)
        return decode(
            bundle.model, vision, bundle.tokens, encoded, sampling, bundle.spans, job.samples, generator, intervention
        )

    if job.intervention == "none":
        return draw()
    if job.intervention == "zeros":
        return draw(interventions.zeros())
    if job.intervention == "noise":
        seeded = torch.Generator(bundle.model.device).manual_seed(job.seed * 1_000_003 + number + 1)
        return draw(interventions.noise(seeded))
    return draw(interventions.other_item(draw(), bundle.tokens.latent, bundle.spans.latents))


def _encode(encoder: Encoder, content: Sequence[Part], shelf: FrameShelf) -> Encoded:
    """A prompt's content with its frames read, each clip once."""
    wanted: dict[tuple[str, str], list[int]] = defaultdict(list)
    for part in content:
        if part["path"] is not None:
            wanted[part["path"], part["reader"]] += part["frames"]
    frames = {
        (path, number): frame
        for (path, reader), numbers in wanted.items()
        for number, frame in zip(numbers, shelf.read(path, numbers, reader), strict=True)
    }
    low, high = encoder.limits.observed
    pieces = []
    for part in content:
        cap = part["max_tokens"] or high
        match part["type"]:
            case "text":
                pieces.append(part["text"])
            case "image":
                image = _decoded_image(part["data"]) if part["data"] else frames[part["path"], part["frames"][0]]
                pieces.append(encoder.patch(image, min(low, cap), cap))
            case "video":
                shown = [frames[part["path"], number] for number in part["frames"]]
                fps = frame_rate(part["path"])
                pieces += encoder.patch_video(shown, part["frames"], fps, min(low, cap), cap)
            case unknown:
                raise ValueError(f"a prompt part of type {unknown!r}: there are text, image and video")
    return encoder.prompt(pieces)


def _decoded_image(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _rows(job: AnswerJob, bundle: FutureL1, ids: Sequence[str], decoded: Decoded) -> Iterator[dict[str, Any]]:
    tokens, answers = bundle.tokens, len(decoded.ids)
    for row, generated in enumerate(decoded.ids.tolist()):
        kept = [t for t in generated if t != tokens.pad]
        text = [t for t in kept if t != tokens.end_of_turn]
        latents, control = kept.count(tokens.latent), sum(t in tokens.control for t in kept)
        yield {
            "prompt_id": ids[row // job.samples],
            "sample": row % job.samples,
            "text": bundle.processor.tokenizer.decode(text, skip_special_tokens=False),
            "tokens": kept,
            "text_tokens": len(kept) - latents - control,
            "latent_tokens": latents,
            "control_tokens": control,
            "spans": tokens.span_sizes(kept),
            "finished": bool(decoded.finished[row]),
            "prefill_seconds": decoded.prefill_seconds / answers,
            "decode_seconds": decoded.decode_seconds / answers,
        }


def _length(prompt: dict[str, Any]) -> tuple[int, int, str]:
    content = prompt["content"]
    frames = sum(len(p["frames"] or (1,)) for p in content if p["type"] != "text")
    return frames, sum(len(p["text"] or "") for p in content), prompt["prompt_id"]


def _unreadable(target: Path) -> int:
    failed = target.with_suffix(".failed")
    return pl.read_parquet(failed).height if failed.exists() else 0


def _write(table: pl.DataFrame, path: Path) -> None:
    """Parquet that is whole or absent."""
    fresh = path.with_name(f".{path.name}.fresh")
    table.write_parquet(fresh)
    fresh.replace(path)


if __name__ == "__main__":
    run_program(AnswerConfig, main)
