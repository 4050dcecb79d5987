"""The local engine: answers from a checkpoint on this machine.

A batch of requests is read at a time, and decoded as many answers at once as the device has room for.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from evaluation.generation import interventions
from evaluation.generation.config import GenerationConfig
from evaluation.generation.jobs import MEDIATIONS, AnswerJob
from evaluation.generation.readings import read_latents
from evaluation.generation.records import answer_record, stored_latents
from evaluation.generation.requests import Answer, LedgerSummary, Refusal, Request, with_images
from training.data.parts import Part
from training.data.video import FrameCache, UnreadableVideo, frame_rate
from training.model.checkpoint import FutureL1, load
from training.model.completions import Decoded, joined
from training.model.decode import now
from training.model.encoding import Encoded, Encoder
from training.model.interventions import Intervention
from training.model.masking import Masking
from training.model.modes import Spans
from training.model.sampling import Sampling
from training.model.token_budget import TokenBudget
from training.model.vision import FrozenVision, Patches


class LocalEngine:
    """Implements evaluation.generation.requests.Engine; keeps the latest checkpoint, its features and frames
    in memory.

    An answer depends on its prompt and seed only (but for rounding, which decides ties), under an intervention with
    other items' latents also on the other answers of its batch: those are the donors.
    """

    def __init__(self, device: str, vision_cache_gib: float, frames_cache_gib: float) -> None:
        cuda = device != "cpu" and torch.cuda.is_available()
        self.device, self.dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
        self.vision_bytes = int(vision_cache_gib * 2**30)
        self._frame_cache = FrameCache(int(frames_cache_gib * 2**30))
        self._loaded: tuple[Path, FutureL1, FrozenVision] | None = None

    def generate(
        self, job: AnswerJob, requests: Sequence[Request], ledger: LedgerSummary
    ) -> Iterator[Answer | Refusal]:
        """Answers batch by batch.

        Raises ValueError without a checkpoint, and as `interventions.intervene` and `interventions.read_mean` do.
        """
        if job.checkpoint is None:
            raise ValueError(f"job {job.name!r} has no checkpoint, and this machine has no other model")
        bundle, vision = self._load(job.checkpoint)
        width, mean = bundle.model.config.text_config.hidden_size, None
        if job.reference_latents:
            mean = interventions.read_mean(job.reference_latents, width, bundle.model.device)
        encoder = bundle.prompt_encoder(job.generation.image_tokens, job.generation.system_prompt)
        budget = TokenBudget(job.generation.max_batch_tokens)
        for batch in batches(requests, job.generation.batch_size):
            readable, encoded, originals = [], [], []
            for request in batch:
                try:
                    content = encode(encoder, request.content, self._frame_cache)
                    if job.intervention in MEDIATIONS:
                        originals.append(encode(encoder, request.original, self._frame_cache))
                    encoded.append(content)
                    readable.append(request)
                except (UnreadableVideo, ValueError, OSError) as error:
                    yield Refusal(request.prompt_id, str(error))
            if readable:
                seconds: list[tuple[float, float]] = []
                drawer = partial(_drawer, bundle, vision, budget, job.generation, readable, seconds=seconds)
                decoded, left_out = interventions.intervene(
                    job.intervention, bundle, drawer(encoded), readable, mean, drawer(originals)
                )
                yield from (Refusal(*reason) for reason in left_out.items())
                prompts = originals if job.intervention == "changed_latents" else encoded
                readings: Iterable[dict[str, Any]] = repeat({})
                if job.read_latents:
                    readings = _readings(bundle, vision, readable, prompts, decoded, seconds)
                prefill, decode = map(sum, zip(*seconds, strict=True))
                decoded = replace(decoded, prefill_seconds=prefill, decode_seconds=decode)
                answers = _answers(bundle, readable, prompts, decoded, readings, job.keep_latents)
                yield from (answer for answer in answers if answer["prompt_id"] not in left_out)

    def _load(self, checkpoint: Path) -> tuple[FutureL1, FrozenVision]:
        if self._loaded is None or self._loaded[0] != checkpoint:
            self._loaded = None  # one model in memory at a time
            bundle = load(checkpoint, self.device, self.dtype)
            self._loaded = checkpoint, bundle, bundle.vision(self.vision_bytes)
        return self._loaded[1:]


def batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    """Requests of at most `batch_size` answers (or a single request of more), alike lengths together.

    A group stays in one batch where it fits into one: the shared prefix of its prompts is processed once a batch.  Its
    longest prompt comes first: the clip is opened once, for the others show frames that it shows.
    """
    groups: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.group].append(request)
    ordered = sorted(
        (sorted(group, key=_length, reverse=True) for group in groups.values()), key=lambda g: _length(g[0])
    )
    batch: list[Request] = []
    room = batch_size
    for group in ordered:
        wanted = sum(len(request.samples) for request in group)
        for part in [group] if wanted <= batch_size else [[request] for request in group]:
            answers = sum(len(request.samples) for request in part)
            if batch and answers > room:
                yield batch
                batch, room = [], batch_size
            batch += part
            room -= answers
    if batch:
        yield batch


def encode(encoder: Encoder, content: Sequence[Part], frame_cache: FrameCache) -> Encoded:
    """A prompt's content with its frames read, each clip once.

    Raises UnreadableVideo, ValueError or OSError for frames that cannot be read.
    """
    return prompt_of(encoder, patched(encoder, content, frame_cache))


def patched(
    encoder: Encoder, content: Sequence[Part], frame_cache: FrameCache
) -> Iterator[tuple[Part, list[Patches]]]:
    """A prompt's parts in order, each with its image or its video's frame pairs at their final size (none for text).

    Raises as `encode` does.
    """
    low, high = encoder.limits.observed
    for part, images in with_images(content, frame_cache):
        cap = part["max_tokens"] or high
        patches: list[Patches] = []
        match part["type"]:
            case "image":
                patches = [encoder.patch(images[0], min(low, cap), cap)]
            case "video":
                fps = frame_rate(part["path"])
                times = sorted(part["frames"])  # they ascend in whatever order the frames are shown
                patches = encoder.patch_video(images, times, fps, min(low, cap), cap)
        yield part, patches


def prompt_of(encoder: Encoder, parts: Iterable[tuple[Part, list[Patches]]]) -> Encoded:
    """The prompt of `patched` parts."""
    return encoder.prompt([piece for part, patches in parts for piece in (patches or [part["text"]])])


def _drawer(
    bundle: FutureL1,
    vision: FrozenVision,
    budget: TokenBudget,
    generation: GenerationConfig,
    requests: Sequence[Request],
    encoded: Sequence[Encoded],
    seconds: list[tuple[float, float]],
) -> interventions.Draw:
    """Decodes the batch as often as an intervention needs it; `seconds` gets those of prefill and decoding each time.
    """
    sampling = Sampling(generation.max_new_tokens, generation.temperature, generation.top_p)
    seeds, groups = [request.seeds for request in requests], [request.group for request in requests]

    def draw(
        intervention: Intervention | None = None,
        spans: Spans | None = None,
        scripts: Sequence[Sequence[int]] | None = None,
        masking: Masking | None = None,
    ) -> Decoded:
        parts = dict(budget.decode(
            bundle.model, vision, bundle.tokens, encoded, sampling, spans or bundle.spans, seeds, groups, intervention,
            scripts, masking,
        ))  # fmt: skip
        decoded = joined([parts[number] for number in range(len(encoded))], bundle.tokens.pad)
        seconds.append((decoded.prefill_seconds, decoded.decode_seconds))
        return decoded

    return draw


def _readings(
    bundle: FutureL1, vision: FrozenVision, requests: Sequence[Request], encoded: Sequence[Encoded], decoded: Decoded,
    seconds: list[tuple[float, float]],
) -> list[dict[str, Any]]:  # fmt: skip
    """The readings of each answer; `seconds` gets those that they took."""
    prompts = [prompt for prompt, request in zip(encoded, requests, strict=True) for _ in request.samples]
    seeds, start = [seed for request in requests for seed in request.seeds], now(bundle.model.device)
    readings = list(read_latents(bundle, vision, prompts, decoded, seeds))
    seconds.append((0.0, now(bundle.model.device) - start))
    return readings


def _answers(
    bundle: FutureL1, requests: Sequence[Request], encoded: Sequence[Encoded], decoded: Decoded,
    readings: Iterable[dict[str, Any]], keep_latents: bool,
) -> Iterator[Answer]:  # fmt: skip
    tokens, answers = bundle.tokens, len(decoded.ids)
    prompts = zip(requests, encoded, strict=True)
    names = [(request.prompt_id, sample, len(e.ids)) for request, e in prompts for sample in request.samples]
    completions = zip(names, decoded.completions(tokens), strict=True)
    for ((prompt_id, sample, prompt_tokens), completion), reading in zip(completions, readings, strict=False):
        answer = answer_record(
            prompt_id, sample, completion.ids, completion.decoded_text(tokens, bundle.processor.tokenizer), tokens,
            finished=completion.finished, prompt_tokens=prompt_tokens,
            prefill_seconds=decoded.prefill_seconds / answers, decode_seconds=decoded.decode_seconds / answers,
        )  # fmt: skip
        yield answer | reading | ({"latents": stored_latents(prompt_id, completion.latents)} if keep_latents else {})


def _length(request: Request) -> tuple[int, int, str]:
    frames = sum(len(part["frames"] or (1,)) for part in request.content if part["type"] != "text")
    return frames, sum(len(part["text"] or "") for part in request.content), request.prompt_id
