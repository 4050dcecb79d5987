"""The endpoint engine: answers from a model behind OpenAI-compatible servers (vLLM, SGLang, ...).

Images travel as JPEG data URLs, at most as large as the prompt's caps on vision tokens allow, so that a server that
rounds to whole tokens sees what the local engine sees.  Prompts are rendered when their turn comes: memory is bounded
by the concurrency, not by the number of prompts.  `stream_answers` is the part that served checkpoints share.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from evaluation.generation.chat_messages import Renderer
from evaluation.generation.image_factor import image_factor
from evaluation.generation.jobs import AnswerJob
from evaluation.generation.requests import Answer, LedgerSummary, Refusal, Request
from evaluation.generation.text_chat import TextForm
from training.chat.client import ChatClient, ChatRequest
from training.chat.completion import ChatCompletion
from training.chat.connection import ReplyRules, preflight
from training.chat.endpoint import ENDPOINT_KEYS, EndpointRefusesError, EndpointSettings
from training.chat.server import UnansweredError
from training.data.video import FrameCache

ANSWERS_AHEAD = 256  # answers that wait for a slow reader before requests do

Item = TypeVar("Item")


class Chat(Protocol):
    """One prompt as chat requests, and the answers in their replies."""

    def body(self, samples: Sequence[int]) -> Mapping[str, Any]:
        """The request for these answers, without its model."""
        ...

    def answers(self, samples: Sequence[int], completion: ChatCompletion) -> list[Answer]:
        """The first of these answers, at least one.

        Raises MalformedError for a reply without any, UnansweredError where another reply would be no better.
        """
        ...


class ChatForm(Protocol):
    """How prompts become chat requests to one model, and what its replies must be.

    failure: why its replies are of no use at all; None as long as they are.
    """

    rules: ReplyRules
    failure: EndpointRefusesError | None

    def chat(self, request: Request, frame_cache: FrameCache) -> Chat:
        """Raises ValueError (UnreadableVideo among them) or OSError where frames or images cannot be read."""
        ...


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
            raise ValueError(f"latents of a served model are out of reach: {use} needs a checkpoint of ours")
        form = TextForm(self.settings, job.generation, self._image_factor, ledger.answers)
        return stream_answers(self.settings, form, requests, ledger.request, self._frames_cache_bytes)


def stream_answers(
    settings: EndpointSettings,
    form: ChatForm,
    requests: Sequence[Request],
    answered: Request | None,
    frames_cache_bytes: int,
) -> Iterator[Answer | Refusal]:
    """Answers as they arrive, then the refusals; `answered`: a request that the model answered before.

    Raises EndpointRefusesError and EndpointDownError as ChatClient.run does.
    """
    return _streamed(
        lambda put: _generate(settings, form, requests, answered, frames_cache_bytes, put), ANSWERS_AHEAD
    )


async def _generate(
    settings: EndpointSettings,
    form: ChatForm,
    requests: Sequence[Request],
    answered: Request | None,
    frames_cache_bytes: int,
    put: Callable[[Answer | Refusal], Awaitable[None]],
) -> None:
    with Renderer(form.chat, frames_cache_bytes) as render:
        check = await _health_check(answered, render)
        client = ChatClient(settings, ENDPOINT_KEYS, "endpoint", health_check=check, rules=form.rules)

        def accept(chat: Chat, samples: Sequence[int], completion: ChatCompletion) -> list[Answer]:
            try:
                return chat.answers(samples, completion)
            finally:
                if form.failure is not None:
                    client.end(form.failure)

        async def work(item: tuple[Request, list[int]]) -> None:
            request, wanted = item
            try:
                chat = await render(request)
            except (ValueError, OSError) as error:
                raise UnansweredError("refused", f"cannot be shown: {error}") from None
            while wanted:  # a server may give fewer choices than `n`
                samples = tuple(wanted)
                answers = await client.complete(partial(_same, chat.body(samples)), partial(accept, chat, samples))
                for answer in answers:
                    wanted.pop(0)  # before the item is worked on again
                    await put(answer)

        todo = [(request, list(request.samples)) for request in requests]
        for (request, _), error in await client.run(todo, work):
            await put(Refusal(request.prompt_id, error.reason, pending=error.kind != "refused"))


async def _health_check(request: Request | None, render: Renderer[Chat]) -> ChatRequest | None:
    """A request that the model answered before, for one answer; None where it cannot be shown any more."""
    if request is None:
        return None
    with suppress(ValueError, OSError):
        chat = await render(request)
        return ChatRequest(partial(_same, chat.body(request.samples)), partial(chat.answers, request.samples))
    return None


def _same(body: Mapping[str, Any], malformed: int) -> Mapping[str, Any]:
    """The same request after a malformed reply."""
    return body


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
