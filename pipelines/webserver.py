"""`python -m pipelines.webserver`: Dagster's webserver for the home in DAGSTER_HOME, behind a same-origin check.

`future-l1 ui` starts it in the place of `dagster-webserver`, which has no such check: Dagster executes mutations that
come by GET, and reads neither Origin nor Host.  So a page that an operator visits could start runs.

The pin on dagster's minor version answers for what is imported from it here; uvicorn, starlette and graphql are the
webserver's own.
"""

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
from starlette.datastructures import QueryParams
from starlette.types import Scope

from pipelines.instance import home_of
from pipelines.pages import pages
from pipelines.same_origin import SameOriginMiddleware
from training.runtime.interrupts import exiting
from training.runtime.project import WORKSPACE

SHUTDOWN_TIMEOUT = 3
"""Seconds that requests under way have left when the server is to end; live logs would go on for ever."""
GRAPHQL = "/graphql"


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
    app.add_middleware(DagsterMiddleware, host=host, allowed_hosts=allowed_hosts)
    return app


class DagsterMiddleware(SameOriginMiddleware):
    """The check of names, and of GraphQL: mutations that come by GET get 405."""

    advice = ": `future-l1 ui --allowed-host NAME` adds a name of this server"

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        refusal = super().refusal(scope)
        if refusal or scope["type"] != "http" or scope["method"] == "POST" or _is_read_only(scope):
            return refusal
        return 405, "GraphQL's queries may come by GET, mutations come by POST"


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
