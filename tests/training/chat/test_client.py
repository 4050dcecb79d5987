"""Requests to OpenAI-compatible servers: retries, faults that end the work, and secrets that never leave the
process."""

import asyncio
import json
import logging
import ssl
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.served import Served, closed_url, completion, served, user_text
from training.chat import client as client_module
from training.chat import connection
from training.chat.client import ChatClient
from training.chat.completion import ChatCompletion, MalformedError, plain_text
from training.chat.connection import preflight
from training.chat.endpoint import ENDPOINT_KEYS, EndpointDownError, EndpointRefusesError, EndpointSettings
from training.chat.server import UnansweredError, retry_after

KEYS = ENDPOINT_KEYS
SECRET = "sk-of-nobody-0123456789"
Left = list[tuple[str, UnansweredError]]


def client_of(*urls: str, **fields: Any) -> ChatClient:
    settings = EndpointSettings(base_urls=urls, **({"model": "served", "timeout": 5.0, "retries": 3} | fields))
    return ChatClient(settings, KEYS, "endpoint")


def accepted(completion: ChatCompletion) -> str:
    content = completion.choices[0].message.content
    if not content:
        raise MalformedError("no content")
    return content


def send_all(client: ChatClient, items: Sequence[str]) -> tuple[dict[str, str], Left]:
    """The answer to each item, and what stayed without."""
    replies_by_item: dict[str, str] = {}

    async def work(item: str) -> None:
        reply = await client.complete(lambda _: {"messages": [{"role": "user", "content": item}]}, accepted)
        assert item not in replies_by_item, "answered twice"
        replies_by_item[item] = reply

    try:
        return replies_by_item, asyncio.run(client.run(items, work))
    except (EndpointDownError, EndpointRefusesError) as error:
        error.add_note(json.dumps(replies_by_item))
        raise


def words(n: int) -> list[str]:
    return [f"word {i}" for i in range(n)]


def test_certificate_authorities_are_read_once(echo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take tens of milliseconds, and a judge has a client for each group of rollouts."""
    reads: list[bool] = []
    create = httpx2.create_ssl_context

    def counted(trust_env: bool) -> ssl.SSLContext:
        reads.append(trust_env)
        return create(trust_env=trust_env)

    monkeypatch.setattr(httpx2, "create_ssl_context", counted)
    connection.tls_settings.cache_clear()
    for item in words(3):
        assert send_all(client_of(echo.url), [item]) == ({item: item.upper()}, [])
    assert reads == [False], "one context, without the environment's: the server is on this machine"


def test_every_request_is_answered_once_whatever_a_fifth_of_them_meet() -> None:
    with served(lambda request, _: user_text(request).upper(), faults=0.2, hangs=5.0, seed=1) as server:
        client = client_of(server.url, timeout=2.0, concurrency=16)
        replies_by_item, left = send_all(client, words(200))
        assert not left and replies_by_item == {word: word.upper() for word in words(200)}
        assert {"rate", "error", "timeout", "truncated", "malformed", "empty"} <= set(server.fault_counts)
        assert client.counts["requests"] == len(server.requests) >= 200 + sum(server.fault_counts.values())
        assert client.counts["malformed"] == server.fault_counts["malformed"] + server.fault_counts["empty"]


def test_no_more_requests_at_a_time_than_the_concurrency(echo: Served) -> None:
    echo.latency = 0.1
    send_all(client_of(echo.url, concurrency=4), words(24))
    assert echo.max_in_flight == 4


def test_tokens_are_counted(echo: Served) -> None:
    client = client_of(echo.url)
    send_all(client, words(3))
    assert (client.counts["prompt_tokens"], client.counts["completion_tokens"]) == (300, 21)


@pytest.mark.parametrize("headers", [{"Retry-After": "0.04"}, {"Retry-After-Ms": "40"}])
def test_a_server_is_given_the_time_that_it_asks_for(
    echo: Served, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    wait_for = asyncio.wait_for

    async def recorded(what: Any, timeout: float) -> Any:
        waited.append(timeout)
        return await wait_for(what, timeout)

    monkeypatch.setattr(client_module.asyncio, "wait_for", recorded)
    echo.script = lambda number, _: (429, b"{}", headers) if number == 0 else None
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": "A"}
    (seconds,) = (s for s in waited if s < 1)
    assert 0.04 <= seconds <= 0.05  # and a little more, so that not all come back at once


def test_pauses_grow_and_end_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE", 1.0)
    monkeypatch.setattr(client_module.random, "uniform", lambda low, high: high)
    waited: list[float] = []

    async def recorded(what: Any, timeout: float) -> None:
        what.close()
        waited.append(timeout)

    monkeypatch.setattr(client_module.asyncio, "wait_for", recorded)
    with pytest.raises(EndpointDownError):
        send_all(client_of(closed_url(), retries=7), ["a"])
    assert waited == [1, 2, 4, 8, 16, 30, 30] * 2


def test_a_server_that_asks_for_an_hour_is_down() -> None:
    with served(script=lambda *_: (429, b'{"error": {"message": "quota"}}', {"Retry-After": "3600"})) as server:
        with pytest.raises(EndpointDownError, match="quota"):
            send_all(client_of(server.url, concurrency=2), words(50))
        assert len(server.requests) <= 5


def test_dates_and_nonsense_in_retry_after() -> None:
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "Fri, 31 Dec 2999 23:59:59 GMT"}) > 1e6  # type: ignore[operator]
    for nonsense in ("", "soon", "-1", "nan", "inf"):
        assert retry_after({"retry-after": nonsense}) is None


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_ends_the_work_at_once(status: int) -> None:
    with served(script=lambda *_: (status, b'{"error": {"message": "who?"}}')) as server:
        with pytest.raises(EndpointRefusesError, match=r"'served' at .*who.*check its URL, model name and key"):
            send_all(client_of(server.url, concurrency=3), words(50))
        assert len(server.requests) <= 3


def test_one_refused_request_stops_no_other(echo: Served) -> None:
    echo.script = lambda _, request: (400, b'{"error": {"message": "too long"}}') if "7" in user_text(request) else None
    replies_by_item, left = send_all(client_of(echo.url), words(10))
    assert len(replies_by_item) == 9
    ((item, error),) = left
    assert item == "word 7" and error.kind == "refused" and "too long" in error.reason
    assert len(echo.requests) in (10, 11)  # one more, to make sure, where the refusal came last


def test_when_nothing_but_refusals_is_heard_the_configuration_is_wrong() -> None:
    with served(script=lambda *_: (400, b'{"error": {"message": "max_tokens is too large"}}')) as server:
        with pytest.raises(EndpointRefusesError, match="max_tokens is too large"):
            send_all(client_of(server.url, concurrency=4), words(100))
        assert len(server.requests) < 30


def test_one_request_that_breaks_the_server_stops_no_other(echo: Served) -> None:
    echo.script = lambda _, request: (500, b"{}") if "7" in user_text(request) else None
    replies_by_item, left = send_all(client_of(echo.url, retries=1), words(10))
    assert len(replies_by_item) == 9 and [(item, error.kind) for item, error in left] == [("word 7", "faulty")]


def test_what_failed_is_tried_again_as_long_as_that_helps() -> None:
    """A request is tried once a pass; "word 5" fails five times, and one word always."""
    met: Counter[str] = Counter()

    def script(_: int, request: dict[str, Any]) -> tuple[int, bytes] | None:
        word = user_text(request)
        met[word] += 1
        return (500, b"") if word == "word 99" or met[word] <= int(word.split()[1]) else None

    with served(lambda *_: "told", script=script) as server:
        replies_by_item, left = send_all(client_of(server.url, retries=0), [*words(6), "word 99"])
    assert set(replies_by_item) == set(words(6)) and [item for item, _ in left] == ["word 99"]
    assert met == {f"word {i}": i + 1 for i in range(6)} | {"word 99": 7}


def test_an_outage_ends_the_work_and_keeps_what_was_answered(echo: Served) -> None:
    echo.script = lambda number, _: (503, b"{}") if number >= 20 else None
    with pytest.raises(EndpointDownError, match="start again when it is back") as down:
        send_all(client_of(echo.url, concurrency=4, retries=1), words(200))
    assert len(json.loads(down.value.__notes__[0])) == 20
    assert len(echo.requests) < 40


def test_what_is_in_flight_when_the_work_ends_is_kept(echo: Served) -> None:
    """The slow request is answered well after the outage is plain."""
    slow = "word 0"

    def answer(request: dict[str, Any], _: int) -> str:
        if user_text(request) == slow:
            echo.closing.wait(0.3)
        return "late"

    echo.answer = answer
    echo.script = lambda _, request: None if user_text(request) == slow else (503, b"{}")
    with pytest.raises(EndpointDownError) as down:
        send_all(client_of(echo.url, concurrency=4, retries=0), words(50))
    assert json.loads(down.value.__notes__[0]) == {slow: "late"}


def test_a_server_that_is_gone_is_down() -> None:
    with pytest.raises(EndpointDownError, match="ConnectError"):
        send_all(client_of(closed_url(), retries=1), ["a"])


def test_a_failure_goes_to_the_next_server(echo: Served) -> None:
    gone = closed_url()
    replies_by_item, left = send_all(client_of(gone, echo.url, retries=1), words(20))
    assert len(replies_by_item) == 20 and not left


def test_several_servers_take_turns(echo: Served) -> None:
    with served(lambda request, _: "other") as other:
        send_all(client_of(echo.url, other.url), words(20))
        assert len(echo.requests) == len(other.requests) == 10


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"<html>", b'{"error": {"message": "late"}}', b'{"choices": []}', b'{"choices": [null]}',
        b'{"choices": "abc"}', b'{"choices": [{"message": {"content": ["a"]}}]}', b"\xff\xfe", b"[" * 100_000,
        b'{"choices": [{"message": null}]}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_completion_is_requested_again(echo: Served, body: bytes) -> None:
    echo.script = lambda number, _: (200, body) if number == 0 else None
    client = client_of(echo.url)
    assert send_all(client, ["a"])[0] == {"a": "A"}
    assert client.counts["malformed"] == 1


def test_a_server_that_says_nothing_of_usage_is_understood(echo: Served) -> None:
    echo.script = lambda *_: (200, b'{"choices": [{"message": {"content": "x"}}]}')
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": "x"}


@pytest.mark.parametrize("usage", [(10**30, 10**30), (-5, -7), (1.5, "many"), (True, None)])
def test_counts_that_no_server_could_have_counted_are_passed_over(echo: Served, usage: tuple[Any, Any]) -> None:
    body = json.loads(completion(["told"]))
    body["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    echo.script = lambda *_: (200, json.dumps(body).encode())
    client = client_of(echo.url)
    assert send_all(client, ["a"])[0] == {"a": "told"}
    assert (client.counts["prompt_tokens"], client.counts["completion_tokens"], client.counts["malformed"]) == (0, 0, 0)


def test_of_parts_only_text_is_read(echo: Served) -> None:
    parts = [{"type": "thinking", "text": "a draft"}, {"type": "text", "text": "to"}, {"text": "ld"}, {"type": "image"}]
    echo.script = lambda *_: (200, completion([parts]))
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": "told"}


def test_text_arrives_as_it_is_but_for_what_no_store_takes(echo: Served) -> None:
    reply = "<|im_end|>\u2028 \U0001f600 e\u0301 \ufeff"
    echo.script = lambda *_: (200, completion([reply + "\0\ud800."]))
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": reply + "\ufffd\ufffd."}


@given(st.text())
def test_plain_text_changes_nothing_else(text: str) -> None:
    assert plain_text(text) == text.replace("\0", "\ufffd")


def test_loopback_knows_no_proxy(echo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, closed_url())
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    preflight((echo.url,), "served", KEYS, "endpoint")
    assert send_all(client_of(echo.url, retries=0), ["a"])[0] == {"a": "A"}


def test_a_proxy_is_used_beyond_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda *_: "by proxy") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        assert send_all(client_of("http://somewhere.invalid/v1", retries=0), ["a"])[0] == {"a": "by proxy"}


def test_the_first_key_that_is_set_is_sent(echo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    echo.key = SECRET
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    assert send_all(client_of(echo.url), ["a"])[0] == {"a": "A"}
    monkeypatch.setenv("FUTURE_L1_ENDPOINT_API_KEY", "another")
    with pytest.raises(EndpointRefusesError):
        send_all(client_of(echo.url), ["a"])


def test_a_missing_key_is_named_before_anything_is_sent() -> None:
    with pytest.raises(EndpointRefusesError, match="set FUTURE_L1_ENDPOINT_API_KEY or OPENAI_API_KEY"):
        client_of("https://models.invalid/v1")
    with pytest.raises(EndpointRefusesError, match="set FUTURE_L1_ENDPOINT_API_KEY or OPENAI_API_KEY"):
        preflight(("https://models.invalid/v1",), "served", KEYS, "endpoint")


def test_keys_are_in_no_message_and_no_log(
    echo: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stand-in repeats the key in its refusal, as some servers do."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    send_all(client_of(echo.url), ["a"])
    echo.key = "another"
    replies_by_item = []
    for attempt in (
        lambda: send_all(client_of(echo.url), ["a"]),
        lambda: preflight((echo.url,), "served", KEYS, "endpoint"),
    ):
        with pytest.raises(EndpointRefusesError) as refused:
            attempt()
        replies_by_item.append(str(refused.getrepr(chain=True)))
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\r\nX: y")
    with pytest.raises(EndpointRefusesError, match="OPENAI_API_KEY holds white space") as refused:
        client_of(echo.url)
    replies_by_item.append(str(refused.getrepr(chain=True)))
    assert echo.requests and "[key]" in replies_by_item[0]
    assert all(SECRET not in text for text in (*replies_by_item, caplog.text))


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http://", "http://me:secret@host/v1"])
def test_a_base_url_is_checked_where_it_is_read(url: str) -> None:
    with pytest.raises(ValidationError, match="base URL"):
        EndpointSettings(base_urls=(url,), model="served")


def test_preflight_accepts_a_server_that_has_the_model_and_one_that_does_not_say(echo: Served) -> None:
    lists: list[Any] = [
        ("other", "served"),
        ("served:latest",),
        (),
        None,
        b"{}",
        b"not json",
        b'{"data": [3]}',
        b"null",
    ]
    for models in lists:
        echo.models = models
        preflight((echo.url,), "served", KEYS, "endpoint")
    assert not echo.requests


def test_preflight_names_what_is_served_instead(echo: Served) -> None:
    echo.models = ("one", "two")
    with pytest.raises(EndpointRefusesError, match=r"'served' at .*it serves 'one', 'two'; check its model name"):
        preflight((echo.url,), "served", KEYS, "endpoint")


def test_preflight_tells_a_wrong_key(echo: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    echo.key = SECRET
    with pytest.raises(EndpointRefusesError, match="check its key"):
        preflight((echo.url,), "served", KEYS, "endpoint")


def test_preflight_wants_one_server_that_listens(echo: Served) -> None:
    preflight((closed_url(), echo.url), "served", KEYS, "endpoint")
    with pytest.raises(EndpointDownError, match="no connection to the endpoint 'served'"):
        preflight((closed_url(), closed_url()), "served", KEYS, "endpoint")
