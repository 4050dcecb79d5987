"""A server's fault is never a request's: accounts in arrears, refusals of everything, replies without use, and replies
that do not end."""

import asyncio
import gzip
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.served import Chunks, Served, completion, served, user_text
from tests.training.chat.test_client import KEYS, SECRET, accepted, client_of, send_all, words
from training.chat import connection
from training.chat.client import MAX_MALFORMED, MAX_REFUSED, MIN_REFUSED, ChatClient, ChatRequest
from training.chat.connection import preflight
from training.chat.endpoint import EndpointDownError, EndpointRefusesError, EndpointSettings

ARREARS = [
    (402, {"message": "Insufficient Balance", "code": "invalid_request_error"}),
    (400, {"message": "please make sure your account is in good standing", "code": "Arrearage"}),
    (429, {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}),
    (403, {"message": "user quota is not enough", "code": "insufficient_user_quota"}),
    (400, {"message": "hard limit", "code": "billing_hard_limit_reached"}),
]

ARREARS_IN_CHINESE = "\u8d26\u6237\u5df2\u6b20\u8d39"


def error(status: int, **fields: Any) -> tuple[int, bytes]:
    return status, json.dumps({"error": fields}).encode()


def drip(server: Served) -> Chunks:
    """A body that goes on, a blank at a time, until the test is over."""

    def blanks() -> Iterator[bytes]:
        while not server.closing.wait(0.05):
            yield b" "

    return blanks


def endless() -> Iterator[bytes]:
    while True:
        yield b" " * 65_536


@pytest.mark.parametrize(("status", "fields"), ARREARS)
def test_an_account_in_arrears_ends_the_work_at_once_with_the_servers_words(
    echo: Served, status: int, fields: dict[str, str]
) -> None:
    echo.script = lambda number, _: error(status, **fields) if number >= 10 else None
    with pytest.raises(EndpointRefusesError, match=rf"account filled up .*{fields['message']}.* same command") as ended:
        send_all(client_of(echo.url, concurrency=2), words(100))
    assert len(json.loads(ended.value.__notes__[0])) == 10 and len(echo.requests) <= 13
    echo.script = lambda *_: None
    assert len(send_all(client_of(echo.url), words(20))[0]) == 20


def test_what_a_row_says_of_accounts_refuses_that_row_alone(echo: Served) -> None:
    """Servers repeat what they were sent in the message; it is not what they say of an account."""

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        word = user_text(request)
        return error(400, message=f"bad: {word}", code="invalid_value") if "Arrearage" in word else None

    echo.script = script
    replies, left = send_all(client_of(echo.url), ["Arrearage insufficient_quota", *words(10)])
    assert len(replies) == 10 and [item for item, _ in left] == ["Arrearage insufficient_quota"]


@pytest.mark.parametrize("left", [3, 100])
def test_a_refusal_of_everything_that_begins_in_the_middle_is_an_outage(echo: Served, left: int) -> None:
    echo.script = lambda number, _: error(400, message="maintenance") if number >= 30 else None
    with pytest.raises(EndpointDownError, match=r"refuses what it answered before: .*maintenance") as down:
        send_all(client_of(echo.url, concurrency=1), words(30 + left))
    assert len(json.loads(down.value.__notes__[0])) == 30
    assert len(echo.requests) <= 30 + MAX_REFUSED + 1


@pytest.mark.parametrize("n", [2, 3, 15])
def test_few_requests_that_are_all_refused_are_the_servers_fault(echo: Served, n: int) -> None:
    """From the start, in words of its own and with a code that says nothing: but for one or two, which may be wrong."""
    echo.script = lambda *_: error(400, code=20012, message=ARREARS_IN_CHINESE)
    if n < MIN_REFUSED:
        assert [error.kind for _, error in send_all(client_of(echo.url), words(n))[1]] == ["refused"] * n
        return
    with pytest.raises(EndpointRefusesError, match="refuses every request .*" + ARREARS_IN_CHINESE):
        send_all(client_of(echo.url), words(n))


def test_an_error_in_the_place_of_a_completion_is_quoted(echo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    echo.script = lambda *_: error(200, code=402, message=f"no credits for {SECRET}\x1b[31m")
    with pytest.raises(EndpointDownError, match="no credits for") as down:
        send_all(client_of(echo.url), words(3))
    assert SECRET not in str(down.value) and str(down.value).isprintable()


def test_one_of_two_servers_that_refuses_everything_costs_no_request(echo: Served) -> None:
    with served(script=lambda *_: error(400, message="no such thing")) as other:
        with pytest.raises(EndpointDownError, match=r"refuses what it answered before: .*no such thing"):
            send_all(client_of(echo.url, other.url, concurrency=2), words(200))
        assert len(other.requests) <= MAX_REFUSED + 4


def test_many_refused_requests_in_a_row_are_theirs_where_others_are_answered(echo: Served) -> None:
    echo.script = lambda _, request: error(400, message="too long") if "long" in user_text(request) else None
    items = [*words(5), *(f"long {i}" for i in range(3 * MAX_REFUSED))]
    replies, left = send_all(client_of(echo.url, concurrency=1), items)
    assert len(replies) == 5 and len(left) == 3 * MAX_REFUSED
    assert len(echo.requests) == len(items) + 3  # every 20th time it is made sure


def controlled(server: Served, **fields: Any) -> ChatClient:
    """A pool whose caller was given an answer earlier."""
    answered_before = ChatRequest(lambda _: {"messages": [{"role": "user", "content": "known"}]}, accepted)
    settings = EndpointSettings(base_urls=(server.url,), model="served", timeout=5.0, **({"retries": 3} | fields))
    return ChatClient(settings, KEYS, "endpoint", health_check=answered_before)


@pytest.mark.parametrize("reply", [error(400, message="too long"), (200, completion([None]))])
def test_a_later_start_that_has_only_the_hopeless_left_does_not_stop_at_them(
    echo: Served, reply: tuple[int, bytes]
) -> None:
    echo.script = lambda _, request: None if user_text(request) == "known" else reply
    replies, left = send_all(controlled(echo), words(2 * MAX_REFUSED))
    assert not replies and len(left) == 2 * MAX_REFUSED


def test_a_later_start_finds_out_that_the_server_has_changed(echo: Served) -> None:
    echo.script = lambda *_: (200, completion([None]))
    with pytest.raises(EndpointRefusesError, match="replies that are of no use: no content"):
        send_all(controlled(echo, concurrency=2, retries=0), words(100))
    assert len(echo.requests) < 20


def test_replies_without_use_end_the_work_after_a_few(echo: Served) -> None:
    echo.answer = lambda *_: ""
    with pytest.raises(EndpointRefusesError, match="gives replies that are of no use: no content; what it answered"):
        send_all(client_of(echo.url, retries=1, concurrency=8), words(100))
    assert len(echo.requests) <= 2 * (MAX_MALFORMED - 1) + 8  # all tries of all but the last, and what is in flight


def test_some_replies_without_use_end_nothing(echo: Served) -> None:
    echo.answer = lambda request, _: "" if "7" in user_text(request) else "told"
    replies, left = send_all(client_of(echo.url, retries=1), words(100))
    assert len(replies) == 81 and {error.kind for _, error in left} == {"malformed"} and len(left) == 19


USELESS = [(error(400, message="too long"), MAX_REFUSED), ((200, completion([None])), MAX_MALFORMED)]


@pytest.mark.parametrize(("reply", "most"), USELESS)
@pytest.mark.parametrize("rate_limited", [False, True])
def test_a_first_answer_that_is_slower_than_useless_replies_is_waited_for(
    echo: Served, reply: tuple[int, bytes], most: int, rate_limited: bool
) -> None:
    client, tries = client_of(echo.url, concurrency=4, retries=1, timeout=20.0), itertools.count()

    def script(_: int, request: dict[str, Any]) -> tuple[Any, ...] | None:
        if user_text(request) != "slow":
            return reply
        if next(tries) == 0:
            if rate_limited:
                return *error(429, message="later"), {"Retry-After": "1"}
            while not client._checking.locked() and not echo.closing.wait(0.01):
                pass
        return None

    echo.script = script
    replies, left = send_all(client, ["slow", *words(most + 9)])
    assert replies == {"slow": "SLOW"} and len(left) == most + 9


def test_requests_whose_first_replies_are_malformed_may_be_answered_by_their_next(echo: Served) -> None:
    tries: Counter[str] = Counter()

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        tries[user_text(request)] += 1
        return (200, completion([None])) if tries[user_text(request)] == 1 else None

    echo.script, echo.latency = script, 0.1
    assert len(send_all(client_of(echo.url, concurrency=8), words(16))[0]) == 16


@pytest.mark.parametrize(("reply", "most"), USELESS)
def test_a_first_answer_is_waited_for_as_long_as_a_reply_may_take(
    echo: Served, reply: tuple[int, bytes], most: int
) -> None:
    def script(_: int, request: dict[str, Any]) -> tuple[int, Any]:
        return (200, drip(echo)) if user_text(request) == "slow" else reply

    echo.script = script
    with pytest.raises(EndpointRefusesError):
        send_all(client_of(echo.url, concurrency=4, retries=9, timeout=0.5), ["slow", *words(most + 9)])
    assert [user_text(request) for request in echo.requests].count("slow") < 9


def test_when_the_work_ends_while_a_first_answer_is_waited_for_nothing_more_is_sent(echo: Served) -> None:
    client = client_of(echo.url, concurrency=8, retries=0, timeout=20.0)

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        if user_text(request) not in ("slow", "key"):
            return 200, completion([None])
        while not client._checking.locked() and not echo.closing.wait(0.01):
            pass
        if user_text(request) == "key":
            return error(401, message="no such key")
        while not client._ended.is_set() and not echo.closing.wait(0.01):
            pass
        return None

    echo.script = script
    with pytest.raises(EndpointRefusesError, match="no such key"):
        send_all(client, ["slow", "key", *words(MAX_MALFORMED)])
    assert len(echo.requests) == 2 + MAX_MALFORMED


@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_time_limit_is_of_the_whole_reply(echo: Served, status: int) -> None:
    echo.script = lambda number, _: (status, drip(echo)) if number == 0 else None
    client = client_of(echo.url, timeout=2.0)
    assert send_all(client, ["a"])[0] == {"a": "A"}
    assert client.counts["unreachable"] == 1


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_reply_without_end_is_given_up(echo: Served, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_BODY_BYTES", 2**20)
    echo.script = lambda number, _: (status, endless) if number == 0 else None
    client = client_of(echo.url)
    assert send_all(client, ["a"])[0] == {"a": "A"}
    assert client.counts["malformed"] == 1


def test_a_packed_reply_is_not_unpacked(echo: Served) -> None:
    packed = gzip.compress(completion(["x" * 10_000_000]))
    echo.script = lambda number, _: (200, packed, {"Content-Encoding": "gzip"}) if number == 0 else None
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": "A"}
    assert {name.lower(): value for name, value in echo.headers[0].items()}["accept-encoding"] == "identity"


def test_neither_key_nor_request_follows_a_redirect_to_another_server(
    echo: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with served() as other:
        for status in (301, 302, 307, 308):
            moved = (status, b"", {"Location": f"{other.url}/chat/completions"})
            echo.script = lambda *_, moved=moved: moved
            with pytest.raises(EndpointRefusesError, match=f"redirects to {other.url.removesuffix('/v1')}"):
                send_all(client_of(echo.url), ["a"])
        echo.models = [307, b"", {"Location": f"{other.url}/models"}]
        with pytest.raises(EndpointRefusesError, match=f"redirects to {other.url.removesuffix('/v1')}"):
            preflight((echo.url,), "served", KEYS, "endpoint")
        assert not other.requests


def test_a_redirect_on_the_same_server_is_followed(echo: Served) -> None:
    moved = (307, b"", {"Location": "/moved/v1/chat/completions"})
    echo.script = lambda number, _: moved if number == 0 else None
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": "A"}


@pytest.mark.parametrize("ends", [False, True])
def test_preflight_does_not_wait_for_a_list_that_does_not_end(
    echo: Served, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PREFLIGHT_SECONDS", 0.5)
    monkeypatch.setattr(connection, "MAX_BODY_BYTES", 2**20)
    echo.models = [200, endless if ends else drip(echo)]
    done = threading.Event()

    def look() -> None:
        preflight((echo.url,), "served", KEYS, "endpoint")
        done.set()

    threading.Thread(target=look, daemon=True).start()
    assert done.wait(30)


def test_a_servers_words_reach_no_terminal_as_commands(echo: Served) -> None:
    echo.script = lambda *_: error(402, message="\x1b[31mRED\x1b]0;pwn\x07 \u202eyap")
    with pytest.raises(EndpointRefusesError) as refused:
        send_all(client_of(echo.url), ["a"])
    assert "RED" in str(refused.value) and str(refused.value).isprintable()


def test_an_attempt_that_is_cancelled_is_no_timeout(echo: Served) -> None:
    """Whoever cancels the work ends it; it is not taken for the attempt's own time limit, and not asked again."""
    echo.script = lambda *_: (200, drip(echo))

    async def cancelled() -> None:
        client = client_of(echo.url, timeout=60.0)
        work = asyncio.ensure_future(client.run(["a"], lambda _: client.complete(lambda _: {"messages": []}, accepted)))
        while not echo.requests:
            await asyncio.sleep(0.01)
        work.cancel()
        await work

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert len(echo.requests) == 1
