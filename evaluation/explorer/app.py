"""The explorer's server: its page, the items, and answers as a stream of JSON lines.

One thread has the model: requests of several tabs wait for each other, and one whose tab is closed stops decoding.
"""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from evaluation.explorer.events import Event, StoppedError
from evaluation.explorer.session import Session
from evaluation.explorer.state import read_state
from evaluation.explorer.uploads import MAX_BYTES, too_large

HERE = Path(__file__).parent
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MAX_WAITING = 16
"""Requests that wait for the model."""


def application(session: Session) -> Starlette:
    """The ASGI application; the caller puts the check of names before it."""
    answers = Answers(session)

    def page(request: Request) -> Response:
        return FileResponse(HERE / FILES[request.url.path], headers=HEADERS)

    def items(request: Request) -> Response:
        return JSONResponse({"model": session.name, "groups": session.titles()}, headers=HEADERS)

    async def show(request: Request) -> Response:
        return StreamingResponse(answers.lines(request.url.query), headers=HEADERS, media_type="application/x-ndjson")

    async def upload(request: Request) -> Response:
        fields = {name: request.query_params.get(name, "") for name in ("name", "frames", "question")}
        try:
            data = await _body(request)
            example = await run_in_threadpool(session.uploads.add, data, **fields)
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400, HEADERS)
        return JSONResponse({"key": example.key}, headers=HEADERS)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        answers.close()

    routes = [Route(path, page) for path in FILES]
    routes += [Route("/items", items)]
    # from another site's page a POST comes with its Origin, and is refused; a GET would be answered
    routes += [Route(path, answer, methods=["POST"]) for path, answer in (("/show", show), ("/upload", upload))]
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request) -> bytes:
    """The body of a request.  Raises ValueError as soon as it is too large."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise ValueError(too_large())
    return bytes(data)


class Answers:
    """The one thread that has the model, and the requests that wait for it, first come, first served."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explorer")
        self._waiting: set[threading.Event] = set()

    def close(self) -> None:
        """Stops what is decoded and what waits."""
        for stopped in tuple(self._waiting):
            stopped.set()
        self._thread.shutdown(cancel_futures=True)

    async def lines(self, query: str) -> AsyncIterator[str]:
        """The events of an answer, a line of JSON each; what cannot be answered is an event `error`."""
        if len(self._waiting) >= MAX_WAITING:
            yield _line({"event": "error", "message": f"{MAX_WAITING} requests are waiting already: try again later"})
            return
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        loop, stopped = asyncio.get_running_loop(), threading.Event()

        def put(event: Event | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        ahead = len(self._waiting)
        self._waiting.add(stopped)
        try:
            yield _line({"event": "queued", "ahead": ahead})
            self._thread.submit(self._answer, query, put, stopped)
            while (event := await events.get()) is not None:
                yield _line(event)
        finally:
            stopped.set()
            self._waiting.discard(stopped)  # a closed tab is before nobody

    def _answer(self, query: str, put: Callable[[Event | None], None], stopped: threading.Event) -> None:
        """In the thread: everything about one request; ends with None."""

        def emit(event: Event) -> None:
            if stopped.is_set():
                raise StoppedError
            put(event)

        try:
            if not stopped.is_set():
                self._session.show(read_state(query), emit)
        except StoppedError:
            pass
        except (ValueError, OSError) as error:
            put({"event": "error", "message": str(error)})
        except Exception:
            logging.getLogger(__name__).exception("an answer failed")
            put({"event": "error", "message": "something is wrong here: the explorer's terminal has the error"})
        finally:
            self._waiting.discard(stopped)
            put(None)


def _line(event: Any) -> str:
    # half a character, as a text may hold, becomes the JSON escape that it was
    return json.dumps(event) + "\n"
