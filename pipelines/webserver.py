"""`python -m pipelines.webserver`: Dagster's webserver for the home in DAGSTER_HOME, behind a same-origin check.

`future-l1 ui` starts it in the place of `dagster-webserver`, which has no such check: Dagster executes mutations that
come by GET, and reads neither Origin nor Host.  So a page that an operator visits could start runs, and one whose name
resolves to our address (DNS rebinding) could read everything, too.  A client that is no browser, as curl, sends no
Origin and is served; who may reach the port is not decided here.

The pin on dagster's minor version answers for what is imported from it here; uvicorn, starlette and graphql are the
webserver's own.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

import click
import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver import __version__
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.cli import DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_MAX_OVERFLOW, DEFAULT_POOL_RECYCLE
from graphql import GraphQLError, OperationType, get_operation_ast, parse
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.instance import home_of
from pipelines.pages import pages
from training.runtime.interrupts import exiting
from training.runtime.project import WORKSPACE

SHUTDOWN_TIMEOUT = 3
"""Seconds that requests under way have left when the server is to end; live logs would go on for ever."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRAPHQL = "/graphql"
DEFAULT_PORTS = {"http": 80, "https": 443}
Host = tuple[str, int | None]
"""A name, and a port where it is not the scheme's default."""
POLICY_VIOLATION = 1008
"""WebSocket close code; closing before the connection is accepted answers 403."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=3000, show_default=True)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="See `future-l1 ui`.")
@click.option("--read-only", is_flag=True, help="Refuse every mutation.")
def main(host: str, port: int, allowed_hosts: tuple[str, ...], read_only: bool) -> None:
    """Serve Dagster's UI until INT or TERM."""
    configure_loggers()
    with exiting("the webserver has ended, and the same command starts it"), dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        workspace = WorkspaceFileTarget([str(WORKSPACE)])
        with WorkspaceProcessContext(instance, workspace, __version__, read_only) as context:
            app = application(context, host, allowed_hosts)
            config = uvicorn.Config(app, host, port, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT)
            uvicorn.Server(config).run()


def application(context: WorkspaceProcessContext, host: str, allowed_hosts: tuple[str, ...] = ()) -> Starlette:
    """Dagster's ASGI application, with pages of ours, behind the same-origin check."""
    app = create_app_from_workspace_process_context(context)
    app.router.routes[:0] = pages(home_of(context.instance))  # before Dagster's, whose last one takes every address
    app.add_middleware(SameOriginMiddleware, host=host, allowed_hosts=allowed_hosts)
    return app


class SameOriginMiddleware:
    """ASGI middleware that passes on requests to this server's own names from its own pages; the rest get 400, 403 or
    405.  It also forbids other sites to show its pages in a frame.

    host: the address to listen on.  allowed_hosts: further names of this server, such as a proxy's: `NAME` or
    `NAME:PORT`.  The address at which a connection arrives is always allowed.
    """

    def __init__(self, app: ASGIApp, host: str, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = [split_host(name) for name in allowed_hosts]
        self._names = {*LOOPBACK, host.lower(), *(name for name, _ in self._allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":  # or a page around ours could have its buttons clicked
                MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
            await send(message)

        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send_unframed)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal[1]})
        else:
            status, reason = refusal
            await PlainTextResponse(reason + "\n", status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the reason of a refusal; None for a request that is passed on."""
        headers = Headers(scope=scope)
        try:
            (host,) = map(split_host, headers.getlist("host"))
        except ValueError:
            return 400, "a request needs one Host header, NAME or NAME:PORT"
        if host[0] not in self._names and not _same_address(host[0], scope):
            return 403, "this server has another name: `future-l1 ui --allowed-host NAME` adds one"
        if not all(self._is_same_origin(origin, host) for origin in headers.getlist("origin")):
            return 403, "another site's page sent this: `future-l1 ui --allowed-host NAME` adds a name of this server"
        if scope["type"] == "http" and scope["method"] != "POST" and not _is_read_only(scope):
            return 405, "GraphQL's queries may come by GET, mutations come by POST"
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


def _is_read_only(scope: Scope) -> bool:
    """Whether the query string, as Dagster reads it, holds no GraphQL operation or a query."""
    parameters = QueryParams(scope["query_string"])
    query = parameters.get("query")
    if query is None or not scope["path"].endswith(GRAPHQL):
        return True
    try:
        operation = get_operation_ast(parse(query), parameters.get("operationName"))
    except GraphQLError:  # also for what is nested too deeply for this stack: another might take it
        return False
    return operation is not None and operation.operation is OperationType.QUERY


if __name__ == "__main__":
    main()
