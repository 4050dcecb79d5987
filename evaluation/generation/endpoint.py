"""The endpoint engine: answers from a model behind OpenAI-compatible servers (vLLM, SGLang, ...).

All missing answers of a prompt are one request with `n`; images travel as JPEG data URLs, at most as large as the
prompt's caps on vision tokens allow, so that a server that rounds to whole tokens sees what the local engine sees.
Prompts are rendered when their turn comes: memory is bounded by the concurrency, not by the number of prompts.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from evaluation.generation.chat_messages import Renderer, served_text, why_no_text
from evaluation.generation.config import GenerationConfig
from evaluation.generation.image_factor import image_factor
from evaluation.generation.jobs import AnswerJob
from evaluation.generation.requests import Answer, LedgerSummary, Refusal, Request
from training.chat.client import ChatClient, ChatRequest
from training.chat.completion import ChatCompletion, Choice, MalformedError
from training.chat.connection import preflight
from training.chat.endpoint import ENDPOINT_KEYS, EndpointRefusesError, EndpointSettings
from training.chat.server import GOES_ON, UnansweredError

MIN_EMPTY, MAX_EMPTY_SHARE = 20, 0.2
"""The work ends at so many replies without an answer, if they are at least this share of all replies."""
ANSWERS_AHEAD = 256  # answers that wait for a slow reader before requests do

Item = TypeVar("Item")


class EndpointEngine:
    """Implements evaluation.generation.requests.Engine.

    No seed is sent, so answers are not reproducible: servers differ in whether they take one at all, and in what one
    seed means for `n` answers (with vLLM a seeded request may give n equal answers).  The caller's ledger makes a
    re-run cheap, with the same answers.
    """

    def __init__(self, settings: EndpointSettings, frames_cache_bytes: int = 2**28) -> None:
        self.settings, self._frames_cache_bytes = settings, frames_cache_bytes
        self._image_factor = image_factor(settings)

    def preflight(self) -> None:
        """Raises EndpointRefusesError or EndpointDownError where no answer can be had, within seconds."""
        preflight(self.settings.base_urls, self.settings.model, ENDPOINT_KEYS, "endpoint")

    def generate(
        self, job: AnswerJob, requests: Sequence[Request], ledger: LedgerSummary
    ) -> Iterator[Answer | Refusal]:
        """Implements Engine.generate; prompts that stay unanswered although the server answers are refused at the end.

        Raises ValueError for a checkpoint (the server has its own model), for an intervention on latents, and
        where they are to be kept.
        """
        if job.checkpoint is not None:
            raise ValueError(f"an endpoint serves its own model {self.settings.model!r}, not {job.checkpoint}")
        if job.intervention != "none" or job.keep_latents:
            use = f"intervention {job.intervention!r}" if job.intervention != "none" else "to keep them"
            raise ValueError(f"latents of a served model are out of reach: {use} needs a local one")
        return _streamed(lambda put: self._generate(job.generation, requests, ledger, put), ANSWERS_AHEAD)

    async def _generate(
        self,
        generation: GenerationConfig,
        requests: Sequence[Request],
        ledger: LedgerSummary,
        put: Callable[[Answer | Refusal], Awaitable[None]],
    ) -> None:
        todo = [(request, list(request.samples)) for request in requests]
        with Renderer(generation, self._frames_cache_bytes, self._image_factor) as renderer:
            health_check = await _health_check(ledger.request, renderer, generation)
            client = ChatClient(self.settings, ENDPOINT_KEYS, "endpoint", health_check=health_check)
            empty = _Empty(client, ledger.answers)

            async def work(item: tuple[Request, list[int]]) -> None:
                request, wanted = item
                try:
                    messages = await renderer.messages(request)
                except (ValueError, OSError) as error:
                    raise UnansweredError("refused", f"cannot be shown: {error}") from None
                while wanted:  # a server may give fewer choices than `n`
                    body = {"messages": messages, "n": len(wanted), **_sampling(generation)}
                    accept = partial(empty.without, request.prompt_id)
                    completion, answered = await client.complete(partial(_same, body), accept)
                    for text, choice in answered[: len(wanted)]:
                        await put(_answer(request.prompt_id, wanted.pop(0), text, choice, completion))

            for (request, _), error in await client.run(todo, work):
                await put(Refusal(request.prompt_id, error.reason, pending=error.kind != "refused"))


async def _health_check(
    request: Request | None, renderer: Renderer, generation: GenerationConfig
) -> ChatRequest | None:
    """A request that the model answered before, for one answer; None where it cannot be shown any more."""
    if request is None:
        return None
    with suppress(ValueError, OSError):
        body = {"messages": await renderer.messages(request), "n": 1, **_sampling(generation)}
        return ChatRequest(partial(_same, body), lambda completion: _answered(completion.choices))
    return None


class _Empty:
    """Counts the replies without an answer, and ends the work where they are too many.

    Only the first reply to each prompt counts: one that gets none however often it is sent counts once.
    """

    def __init__(self, client: ChatClient, answers: int) -> None:
        self._pool, self._replies, self._empty = client, answers, 0
        self._counted: set[str] = set()

    def without(self, prompt_id: str, completion: ChatCompletion) -> tuple[ChatCompletion, list[tuple[str, Choice]]]:
        """The choices of a completion that hold answers, with their texts.  Raises MalformedError without any."""
        if prompt_id not in self._counted:
            self._counted.add(prompt_id)
            empty = [choice for choice in completion.choices if served_text(choice) is None]
            self._replies += len(completion.choices)
            self._empty += len(empty)
            if empty and self._empty >= max(MIN_EMPTY, MAX_EMPTY_SHARE * self._replies):
                self._pool.end(
                    EndpointRefusesError(
                        f"{self._pool.who}: {self._empty} of {self._replies} replies hold no answer, one of them: "
                        f"{why_no_text(empty[0])}; {GOES_ON}"
                    )
                )
        return completion, _answered(completion.choices)


def _answered(choices: Sequence[Choice]) -> list[tuple[str, Choice]]:
    answered = [(text, choice) for choice in choices if (text := served_text(choice)) is not None]
    if not answered:
        raise MalformedError(f"a reply without an answer: {why_no_text(choices[0])}")
    return answered


def _same(body: dict[str, Any], malformed: int) -> dict[str, Any]:
    """The same request after a malformed reply: it is sampled anyway."""
    return body


def _sampling(generation: GenerationConfig) -> dict[str, Any]:
    return {"temperature": generation.temperature, "top_p": generation.top_p, "max_tokens": generation.max_new_tokens}


def _answer(prompt_id: str, sample: int, text: str, choice: Choice, completion: ChatCompletion) -> Answer:
    share = len(completion.choices)
    used = (completion.usage and completion.usage.completion_tokens) or 0
    return {
        "prompt_id": prompt_id,
        "sample": sample,
        "text": text,
        "tokens": [],
        "text_tokens": used // share,
        "latent_tokens": 0,
        "control_tokens": 0,
        "spans": [],
        "finished": choice.finish_reason == "stop",
        "prefill_seconds": 0.0,
        "decode_seconds": completion.seconds / share,
    }


def _streamed(produce: Callable[[Callable[[Item], Awaitable[None]]], Awaitable[None]], ahead: int) -> Iterator[Item]:
    """The items that a coroutine puts, as they come.

    The coroutine runs in a thread of its own, at most `ahead` items before the reader, and is cancelled when the
    reader stops early.
    """
    items: queue.SimpleQueue[Item | asyncio.Task[None]] = queue.SimpleQueue()
    loop, room = asyncio.new_event_loop(), asyncio.Semaphore(ahead)

    async def put(item: Item) -> None:
        await room.acquire()
        items.put(item)

    async def main() -> None:
        await produce(put)

    def run() -> None:
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        items.put(task)  # the last item: it has the error that the coroutine ended with

    def tell(call: Callable[[], Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(call)

    task = loop.create_task(main())
    thread = threading.Thread(target=run, name="endpoint", daemon=True)
    thread.start()
    try:
        while not isinstance(item := items.get(), asyncio.Task):
            tell(room.release)
            yield item
        item.result()
    finally:
        tell(task.cancel)
        thread.join()
