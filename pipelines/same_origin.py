"""An ASGI layer that keeps other people's web pages from using a webserver through the browser of somebody it serves.

Dagster executes mutations that come by GET, and reads neither Origin nor Host: a page that an operator visits could
start runs, and one whose name is turned into our address (DNS rebinding) could read everything, too. What is no
browser, as curl, sends no Origin and is served; who may reach the port is not decided here.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from graphql import GraphQLError, OperationType, get_operation_ast, parse
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRAPHQL = "/graphql"
DEFAULT_PORTS = {"http": 80, "https": 443}
Host = tuple[str, int | None]
"""A name, and its port where it is not the scheme's."""
POLICY_VIOLATION = 1008
"""Closing a WebSocket before it is accepted answers 403."""


class SameOriginMiddleware:
    """Passes on what is asked of this server by its own name and from its own pages; the rest gets 400, 403 or 405.

    No other site's page shows its pages in a frame.  host: where it listens.  allowed_hosts: further names of it, as
    of a proxy: `NAME` or `NAME:PORT`.  The address at which a connection arrives is its own, too.
    """

    def __init__(self, app: ASGIApp, host: str, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = [split_host(name) for name in allowed_hosts]
        self._names = {*LOOPBACK, host.lower(), *(name for name, _ in self._allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":  # or a page around ours could have its buttons clicked
                MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
            await send(message)

        refused = self._refused(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self._app(scope, receive, unframed)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refused[1]})
        else:
            status, says = refused
            await PlainTextResponse(says + "\n", status)(scope, receive, send)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """The status, and why, of a request that is not passed on."""
        headers = Headers(scope=scope)
        try:
            (host,) = map(split_host, headers.getlist("host"))
        except ValueError:
            return 400, "a request names one host"
        if host[0] not in self._names and not _same_address(host[0], scope):
            return 403, "this server goes by another name: `future-l1 ui --allowed-host NAME` adds one"
        if not all(self._is_own(origin, host) for origin in headers.getlist("origin")):
            return 403, "another site's page asks: `future-l1 ui --allowed-host NAME` adds a name of this server"
        if scope["type"] == "http" and scope["method"] != "POST" and not _only_reads(scope):
            return 405, "GraphQL's queries may come by GET, mutations come by POST"
        return None

    def _is_own(self, origin: str, host: Host) -> bool:
        """Whether an Origin is of the host that was asked, or allowed; `null`, of a page without one, is not."""
        scheme, _, rest = origin.partition("://")
        try:
            standard, (name, port) = DEFAULT_PORTS[scheme.lower()], split_host(rest)
        except (KeyError, ValueError):
            return False
        own = [host, *self._allowed]
        return (name, port or standard) in {(name, port or standard) for name, port in own}


def split_host(host: str) -> Host:
    """The name in lower case, an IPv6 address without its brackets, and the port.

    Raises ValueError for what is not NAME or NAME:PORT.
    """
    parts = urlsplit(f"//{host}")
    name, port = parts.hostname, parts.port
    if not name or host.strip() != parts.netloc or "@" in host:
        raise ValueError(f"a host is NAME or NAME:PORT; found {host!r}")
    return name.rstrip("."), port


def _same_address(name: str, scope: Scope) -> bool:
    """Whether the host is the address at which the connection arrived."""
    try:
        return ip_address(name) == ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return False


def _only_reads(scope: Scope) -> bool:
    """Whether what the query string asks of GraphQL, as Dagster would read it, is nothing or a query."""
    asked = QueryParams(scope["query_string"])
    query = asked.get("query")
    if query is None or not scope["path"].endswith(GRAPHQL):
        return True
    try:
        operation = get_operation_ast(parse(query), asked.get("operationName"))
    except GraphQLError:  # also for what is nested too deeply for this stack: another might take it
        return False
    return operation is not None and operation.operation is OperationType.QUERY
