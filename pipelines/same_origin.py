"""The check of names that stands before our servers: Host and Origin of each request.

A page that a person visits can send requests to a server on the same machine, and one whose name resolves to our
address (DNS rebinding) could read the answers, too.  A client that is no browser, as curl, sends no Origin and is
served; who may reach the port is not decided here.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_PORTS = {"http": 80, "https": 443}
Host = tuple[str, int | None]
"""A name, and a port where it is not the scheme's default."""
POLICY_VIOLATION = 1008
"""WebSocket close code; closing before the connection is accepted answers 403."""


class SameOriginMiddleware:
    """ASGI middleware that passes on requests to this server's own names from its own pages; the rest get 400 or 403.
    It also forbids other sites to show its pages in a frame.

    host: the address to listen on.  allowed_hosts: further names of this server, such as a proxy's: `NAME` or
    `NAME:PORT`.  The address at which a connection arrives is always allowed.
    """

    advice = ""
    """How a further name of the server is allowed, behind a refusal."""

    def __init__(self, app: ASGIApp, host: str, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = [split_host(name) for name in allowed_hosts]
        self._names = {*LOOPBACK, host.lower(), *(name for name, _ in self._allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":  # or a page around ours could have its buttons clicked
                MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
            await send(message)

        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send_unframed)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal[1]})
        else:
            status, reason = refusal
            await PlainTextResponse(reason + "\n", status)(scope, receive, send)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the reason of a refusal; None for a request that is passed on."""
        headers = Headers(scope=scope)
        try:
            (host,) = map(split_host, headers.getlist("host"))
        except ValueError:
            return 400, "a request needs one Host header, NAME or NAME:PORT"
        if host[0] not in self._names and not _same_address(host[0], scope):
            return 403, f"this server has another name{self.advice}"
        if not all(self._is_same_origin(origin, host) for origin in headers.getlist("origin")):
            return 403, f"another site's page sent this{self.advice}"
        return None

    def _is_same_origin(self, origin: str, host: Host) -> bool:
        """Whether an Origin is the requested host or an allowed one; `null`, a page without an origin, is neither."""
        scheme, _, rest = origin.partition("://")
        try:
            standard, (name, port) = DEFAULT_PORTS[scheme.lower()], split_host(rest)
        except (KeyError, ValueError):
            return False
        return (name, port or standard) in {(name, port or standard) for name, port in [host, *self._allowed]}


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
