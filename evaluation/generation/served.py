"""The served engine: a checkpoint's answers from vLLM servers with our plug-in, with its latents and interventions.

Each answer is a request of its own with its own seed.  Most interventions are options of the request; where they need
the model's own answers (other items' latents, forced spans), these are generated first, batch by batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evaluation.generation import interventions
from evaluation.generation.endpoint import stream_answers
from evaluation.generation.jobs import DONOR_INTERVENTIONS, AnswerJob
from evaluation.generation.local import batches
from evaluation.generation.requests import Answer, LedgerSummary, Refusal, Request
from evaluation.generation.served_checkpoint import Kept, LatentForm, Options, ServedCheckpoint
from training.chat.connection import checkpoint_name
from training.chat.endpoint import ENDPOINT_KEYS, EndpointSettings, ServerSettings
from training.engines.options import encode_span

Key = tuple[str, int]
"""The prompt and the number of an answer."""
NO_OPTIONS: Mapping[str, Any] = {}


class ServedEngine:
    """Implements evaluation.generation.requests.Engine for jobs with a checkpoint and its servers.

    A server names its checkpoint in every reply: one that has another one, or is no server of ours, is refused, also
    where it is exchanged while this engine is at work.
    """

    def __init__(self, settings: ServerSettings, frames_cache_bytes: int = 2**28) -> None:
        self._settings, self._frames_cache_bytes = settings, frames_cache_bytes
        self._loaded: tuple[Path, ServedCheckpoint, EndpointSettings] | None = None

    def generate(
        self, job: AnswerJob, requests: Sequence[Request], ledger: LedgerSummary
    ) -> Iterator[Answer | Refusal]:
        """Implements Engine.generate; prompts that stay unanswered although the server answers are refused at the end.

        Raises ValueError as `interventions.intervene` and `interventions.read_mean` do.
        """
        assert job.checkpoint is not None, "AnswerJob checks it"
        checkpoint, _ = self._load(job.checkpoint)
        if job.intervention in DONOR_INTERVENTIONS:
            interventions.check_references(job.intervention, requests)
        if job.intervention.startswith("spans_"):
            _need_spans(job, checkpoint)
        if job.intervention in DONOR_INTERVENTIONS or job.intervention.startswith("spans_"):
            for batch in batches(requests, job.generation.batch_size):
                yield from self._from_plain_answers(job, batch)
        else:
            yield from self._stream(job, requests, _options(job, checkpoint), _kept(job), ledger.request)

    def _from_plain_answers(self, job: AnswerJob, batch: Sequence[Request]) -> Iterator[Answer | Refusal]:
        """The answers of one batch under an intervention that needs the model's own answers to it."""
        checkpoint, _ = self._load(job.checkpoint)
        plain: dict[Key, Answer] = {}
        refused: dict[str, Refusal] = {}
        lent = job.intervention in DONOR_INTERVENTIONS
        for reply in self._stream(job, batch, lambda _: NO_OPTIONS, "vectors" if lent else "tokens"):
            if isinstance(reply, Refusal):
                refused[reply.prompt_id] = reply
            else:
                plain[reply["prompt_id"], reply["sample"]] = reply
        if lent and any(refusal.pending for refusal in refused.values()):
            reason = "some answers of its batch are missing, among which its donor may be"
            yield from (Refusal(request.prompt_id, reason, pending=True) for request in batch)
            return
        readable = [request for request in batch if request.prompt_id not in refused]
        if lent:
            options, alone = _lent(job, readable, plain)
            refused |= {prompt_id: Refusal(prompt_id, reason) for prompt_id, reason in alone.items()}
            readable = [request for request in readable if request.prompt_id not in alone]
        else:
            options = _scripts(job, plain, checkpoint)
        yield from refused.values()
        yield from self._stream(job, readable, lambda request: options[_key(request)], _kept(job))

    def _stream(
        self,
        job: AnswerJob,
        requests: Sequence[Request],
        options: Options,
        kept: Kept,
        answered: Request | None = None,
    ) -> Iterator[Answer | Refusal]:
        checkpoint, endpoint = self._load(job.checkpoint)
        form = LatentForm(checkpoint, job.generation, options, kept)
        single = [
            replace(request, samples=(sample,), seeds=(seed,))
            for request in requests
            for sample, seed in zip(request.samples, request.seeds, strict=True)
        ]
        return stream_answers(endpoint, form, single, answered, self._frames_cache_bytes)

    def _load(self, folder: Path | None) -> tuple[ServedCheckpoint, EndpointSettings]:
        """Raises EndpointRefusesError or EndpointDownError where no server has the checkpoint, within seconds."""
        assert folder is not None, "AnswerJob checks it"
        if self._loaded is None or self._loaded[0] != folder:
            checkpoint = ServedCheckpoint(folder)
            name = checkpoint_name(self._settings.base_urls, ENDPOINT_KEYS, checkpoint.hash)
            self._loaded = folder, checkpoint, EndpointSettings(model=name, **self._settings.model_dump())
        return self._loaded[1:]


def _kept(job: AnswerJob) -> Kept:
    return "latents" if job.keep_latents else "tokens"


def _key(request: Request) -> Key:
    """Of a request for one answer."""
    return request.prompt_id, request.samples[0]


def _options(job: AnswerJob, checkpoint: ServedCheckpoint) -> Options:
    """The options of an intervention that needs no other answers (training.engines.options.LatentOptions)."""
    match job.intervention:
        case "none":
            return lambda _: NO_OPTIONS
        case "zeros" | "first_repeated":
            return lambda _: {"latents": job.intervention}
        case "noise":
            return lambda request: {"latents": "noise", "noise_seed": request.seeds[0]}
        case "mean":
            assert job.reference_latents is not None, "AnswerJob checks it"
            mean = interventions.read_mean(job.reference_latents, checkpoint.width, torch.device("cpu"))
            vectors = [encode_span(mean.unsqueeze(0))]
            return lambda _: {"latents": "vectors", "vectors": vectors}
        case "no_span":
            return lambda _: {"may_open": 0}
        case "markers_only":
            _need_spans(job, checkpoint)
            return lambda _: {"max_latents": 0}
    raise AssertionError(f"{job.intervention} is local: AnswerJob checks it")


def _lent(
    job: AnswerJob, requests: Sequence[Request], plain: Mapping[Key, Answer]
) -> tuple[dict[Key, Mapping[str, Any]], dict[str, str]]:
    """The options of each answer of a batch, the latents of its donor; and the prompts without one, with the reason."""
    keys = [(request.prompt_id, sample) for request in requests for sample in request.samples]
    answers = [plain[key] for key in keys]
    used = [answer["latent_tokens"] > 0 for answer in answers]
    lenders, alone = interventions.lenders(job.intervention, requests, used)
    options = {
        key: {"latents": "vectors", "vectors": answers[lender]["vectors"]}
        if lender != interventions.NONE
        else NO_OPTIONS
        for key, lender in zip(keys, lenders, strict=True)
    }
    return options, alone


def _scripts(
    job: AnswerJob, plain: Mapping[Key, Answer], checkpoint: ServedCheckpoint
) -> dict[Key, Mapping[str, Any]]:
    """The forced first tokens of each answer."""
    budget, wanted = _need_spans(job, checkpoint), int(job.intervention.removeprefix("spans_"))
    tokens, tokenizer = checkpoint.tokens, checkpoint.processor.tokenizer
    return {
        key: {"script": interventions.forced_script(answer["tokens"], tokens, tokenizer, wanted, budget), "may_open": 0}
        for key, answer in plain.items()
    }


def _need_spans(job: AnswerJob, checkpoint: ServedCheckpoint) -> int:
    """The most latents of a span.  Raises ValueError where there are no spans."""
    budget = checkpoint.latent_config.cap if checkpoint.latent_config else 0
    if not budget:
        raise ValueError(f"intervention {job.intervention!r} needs a checkpoint with latent spans: this one opens none")
    return budget
