"""`python -m pipelines.webserver`: Dagster's webserver for the home that DAGSTER_HOME names, behind `same_origin`.

What `future-l1 ui` starts, in the place of `dagster-webserver`, which has no such layer. The pin on dagster's minor
version answers for what is imported from it here; uvicorn, starlette and graphql are the webserver's own.
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
from starlette.applications import Starlette

from pipelines.same_origin import SameOriginMiddleware
from training.runtime.interrupts import exiting
from training.runtime.project import WORKSPACE

SECONDS_TO_FINISH = 3
"""What requests get that are under way when the server is asked to end; live logs would go on for ever."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=3000, show_default=True)
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="See `future-l1 ui`.")
@click.option("--read-only", is_flag=True, help="Refuse whatever would change something.")
def main(host: str, port: int, allowed_hosts: tuple[str, ...], read_only: bool) -> None:
    """Serve Dagster's UI until INT or TERM."""
    configure_loggers()
    with exiting("the webserver has ended, and the same command starts it"), dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(DEFAULT_DB_STATEMENT_TIMEOUT, DEFAULT_POOL_RECYCLE, DEFAULT_POOL_MAX_OVERFLOW)
        workspace = WorkspaceFileTarget([str(WORKSPACE)])
        with WorkspaceProcessContext(instance, workspace, __version__, read_only) as context:
            app = application(context, host, allowed_hosts)
            config = uvicorn.Config(app, host, port, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_FINISH)
            uvicorn.Server(config).run()


def application(context: WorkspaceProcessContext, host: str, allowed_hosts: tuple[str, ...] = ()) -> Starlette:
    """Dagster's, behind the layer."""
    app = create_app_from_workspace_process_context(context)
    app.add_middleware(SameOriginMiddleware, host=host, allowed_hosts=allowed_hosts)
    return app


if __name__ == "__main__":
    main()
