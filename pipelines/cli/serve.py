"""`future-l1 serve`: vLLM's OpenAI server for a checkpoint, latents included, started, waited for and ended."""

import subprocess
import time
from pathlib import Path

import click

from pipelines.cli.common import CHECKPOINT, current_profile
from pipelines.cli.servers import ask, raise_if_ended, raise_if_port_in_use, url_of
from training.engines.checks import check_options, option_names, read_config
from training.runtime.launch import supervised
from training.runtime.project import PROJECT
from training.runtime.supervisor import Deadlines
from training.storage.artifacts import checkpoint_folder

DEADLINES = Deadlines(sigint_grace=10.0, sigterm_grace=5.0)
POLL_INTERVAL = 0.5
ELSEWHERE = ("host", "port", "uds", "ssl-keyfile", "ssl-certfile", "headless")
"""Options of vLLM's by which its server would not be where it is waited for."""


@click.command()
@CHECKPOINT
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--python", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The interpreter of the environment with vLLM [the profile's vllm_python].")  # fmt: skip
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTION ...]")
def serve(checkpoint: Path | None, host: str, port: int, python: Path | None, options: tuple[str, ...]) -> None:
    """Serve a checkpoint with vLLM until Ctrl-C: an OpenAI-compatible server that feeds latents back.

    vLLM has an environment of its own, into which this project is installed without what it needs
    (docs/using-the-models.md). Options after `--` are those of `vllm serve`.

    \b
    Example:
      future-l1 serve --checkpoint DIR --port 8000
    """
    if checkpoint is None:
        raise click.UsageError("give --checkpoint, the model to serve")
    checkpoint = checkpoint_folder(checkpoint).absolute()
    read_config(checkpoint)
    check_options(options)
    if moved := [name for name in option_names(options) if any(option.startswith(name) for option in ELSEWHERE)]:
        raise ValueError(f"--{moved[0]} after `--`: the server is waited for at --host and --port, given before it; "
                         "for TLS, a socket or no address start `python -m training.engines`")  # fmt: skip
    python = python.absolute() if python else PROJECT / current_profile().vllm_python
    if not python.is_file():
        raise ValueError(f"there is no {python}: the environment with vLLM is made as docs/using-the-models.md says, "
                         "and named by --python or the profile's vllm_python")  # fmt: skip
    raise_if_port_in_use(host, port)
    arguments = ["-m", "training.engines", str(checkpoint), "--host", host, "--port", str(port), *options]
    with supervised(arguments, DEADLINES, {}, str(python)) as server:
        _wait_for_health(f"{url_of(host, port)}/health", server)
        print(f"{checkpoint} is served on {url_of(host, port)}/v1 (Ctrl-C ends it)", flush=True)
        while True:
            raise_if_ended({"vLLM's server": server})
            time.sleep(POLL_INTERVAL)


def _wait_for_health(url: str, server: subprocess.Popen[str]) -> None:
    """Wait until the server answers; a large model takes minutes, and one that cannot be served ends its server."""
    while True:
        raise_if_ended({"vLLM's server": server})
        try:
            with ask(url):
                return
        except OSError:
            time.sleep(POLL_INTERVAL)
