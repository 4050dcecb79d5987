"""The same-origin check of the webserver: which requests it passes on and which it refuses, over HTTP and WebSocket."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.webserver import DagsterMiddleware

READS, CHANGES = "query A {version}", "mutation B {launchRun {__typename}}"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """In the place of Dagster's."""
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}
    await send({"type": "websocket.accept"} if scope["type"] == "websocket" else start)


class Server:
    """One that listens on `host`, reached at the address `at`, port 3000."""

    def __init__(self, host: str = "127.0.0.1", *allowed: str, at: str = "127.0.0.1") -> None:
        self.middleware, self.at = DagsterMiddleware(application, host, allowed), at

    def status(
        self, method: str, headers: list[tuple[str, str]], query: dict[str, Any] | None = None, path: str = "/graphql"
    ) -> int:
        """How a request is answered; method "WS": 200 for a WebSocket that is accepted, 403 for one that is closed."""
        scope: Scope = {
            "type": "websocket" if method == "WS" else "http",
            "method": method,
            "path": path,
            "query_string": urlencode(query or {}, doseq=True).encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
            "server": (self.at, 3000),
        }
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nothing of the request is read")

        asyncio.run(self.middleware(scope, receive, send))
        kinds = {"websocket.accept": 200, "websocket.close": 403}
        if sent[0].get("status") == 200:
            assert sent[0]["headers"] == [(b"x-frame-options", b"SAMEORIGIN")]
        return kinds.get(sent[0]["type"]) or int(sent[0]["status"])


def statuses(server: Server, headers: list[tuple[str, str]]) -> set[int]:
    """How it answers a request by GET, one by POST and a WebSocket."""
    return {server.status(method, headers) for method in ("GET", "POST", "WS")}


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "LocalHost", "[::1]:3000", "127.0.0.1."])
def test_a_server_on_loopback_is_served_by_its_own_names(host: str) -> None:
    assert statuses(Server(), [("Host", host)]) == {200}
    assert statuses(Server(), [("Host", host), ("Origin", f"http://{host}")]) == {200}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2:3000"]
)
def test_a_name_that_is_not_its_own_is_refused_whoever_asks(host: str) -> None:
    assert statuses(Server(), [("Host", host)]) == {403}
    assert statuses(Server(), [("Host", host), ("Origin", f"http://{host}")]) == {403}


@pytest.mark.parametrize("host", ["", "me@127.0.0.1", "127.0.0.1:port", "127.0.0.1/x", "[::1", "local\thost"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    assert statuses(Server(), [("Host", host)]) == {400, 403}


def test_two_hosts_are_one_too_many() -> None:
    assert statuses(Server(), [("Host", "127.0.0.1:3000"), ("Host", "evil.example")]) == {400, 403}


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "https://127.0.0.1.evil.example", "http://127.0.0.1:8888", "http://127.0.0.1",
        "https://127.0.0.1", "http://localhost:3000", "null", "", "file://", "http://127.0.0.1:3000@evil.example",
        "http://evil.example/127.0.0.1:3000", "chrome-extension://127.0.0.1:3000",
    ],
)  # fmt: skip
def test_another_sites_page_is_refused(origin: str) -> None:
    assert statuses(Server(), [("Host", "127.0.0.1:3000"), ("Origin", origin)]) == {403}


def test_one_foreign_origin_of_several_is_enough() -> None:
    origins = [("Origin", "http://127.0.0.1:3000"), ("Origin", "http://evil.example")]
    assert statuses(Server(), [("Host", "127.0.0.1:3000"), *origins]) == {403}


def test_a_server_on_all_addresses_answers_to_the_address_of_the_connection() -> None:
    everywhere = Server("0.0.0.0", at="10.0.0.5")
    assert statuses(everywhere, [("Host", "10.0.0.5:3000"), ("Origin", "http://10.0.0.5:3000")]) == {200}
    assert statuses(everywhere, [("Host", "10.0.0.6:3000")]) == {403}
    assert statuses(everywhere, [("Host", "box:3000")]) == {403}
    assert statuses(Server("0.0.0.0", "box", at="10.0.0.5"), [("Host", "box:3000")]) == {200}


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("future-l1.example.org", "https://future-l1.example.org"),  # $host of nginx
        ("future-l1.example.org:8443", "https://future-l1.example.org:8443"),  # its $http_host
        ("127.0.0.1:3000", "https://future-l1.example.org"),  # a proxy that passes no Host on
    ],
)
def test_a_proxy_needs_an_allowed_name(host: str, origin: str) -> None:
    headers = [("Host", host), ("Origin", origin)]
    assert statuses(Server("127.0.0.1", "other.example", "Future-L1.example.org"), headers) == {200}
    assert statuses(Server(), headers) == {403}


def test_an_allowed_name_with_a_port_allows_that_port() -> None:
    host = ("Host", "future-l1.example.org")  # nginx leaves the port out
    other_port = [host, ("Origin", "https://future-l1.example.org:8443")]
    assert statuses(Server("127.0.0.1", "future-l1.example.org"), other_port) == {403}
    assert statuses(Server("127.0.0.1", "future-l1.example.org:8443"), other_port) == {200}


@pytest.mark.parametrize("name", ["https://future-l1.example.org", "future-l1.example.org/ui", "", "name:port"])
def test_an_allowed_host_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"NAME or NAME:PORT|port|Port"):
        DagsterMiddleware(application, "127.0.0.1", [name])


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"query": READS}, 200),
        ({"query": CHANGES}, 405),
        ({"query": "mutation{launchRun{__typename}}"}, 405),
        ({"query": f"# {READS}\n{CHANGES}"}, 405),
        ({"query": f"{READS} {CHANGES}", "operationName": "A"}, 200),
        ({"query": f"{READS} {CHANGES}", "operationName": "B"}, 405),
        ({"query": f"{READS} {CHANGES}"}, 405),
        ({"query": f"{READS} {CHANGES}", "operationName": "C"}, 405),
        ({"query": [READS, CHANGES]}, 405),  # the last one counts, here as there
        ({"query": [CHANGES, READS]}, 200),
        ({"query": "subscription {logs}"}, 405),
        ({"query": "no GraphQL"}, 405),
        ({"query": "mutation" + "{a" * 3000 + "}" * 3000}, 405),  # too deep for one stack, and not for another
        ({"operationName": "B"}, 200),
        ({}, 200),
    ],
)
def test_a_mutation_is_not_sent_by_get(parameters: dict[str, str | list[str]], status: int) -> None:
    host = [("Host", "localhost:3000")]
    assert Server().status("GET", host, parameters) == Server().status("HEAD", host, parameters) == status
    assert Server().status("POST", host, parameters) == Server().status("GET", host, parameters, "/asset-groups") == 200
