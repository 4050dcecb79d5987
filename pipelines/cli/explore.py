"""`future-l1 explore`: a page on loopback on which one answer and its latent spans are looked into and changed."""

from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import polars as pl

from assets.benchmarks.assets import ITEM_TABLE, BenchmarkRun, benchmark_runs
from assets.framework.store import AssetStore
from evaluation.benchmarks.registry import BENCHMARKS, make_benchmark
from evaluation.benchmarks.twiffbench import TwiffBench
from evaluation.generation.config import checkpoint_generation
from pipelines.cli.common import CHECKPOINT, FILE, FOLDER, NEW_FILE, POSITIVE, current_profile, make_room
from pipelines.cli.servers import raise_if_port_in_use, url_of
from training.storage.artifacts import checkpoint_folder

if TYPE_CHECKING:
    from evaluation.explorer.examples import Group
    from evaluation.explorer.session import Session

HOST = "127.0.0.1"
MAX_ENTRIES = 5
"""Entries of a folder that holds no benchmark that its sentence names."""
SHUTDOWN_TIMEOUT = 3
"""Seconds that answers under way have left when the server is to end."""


@click.command()
@CHECKPOINT
@click.option("--data-dir", type=FOLDER, metavar="DIR", help="A benchmark's folder [the benchmarks of the home].")
@click.option("--video", type=FILE, metavar="CLIP", help="A clip of your own to begin with.")
@click.option("--frames", default="1", show_default=True, metavar="K,K", help="Its key frames 1..8 that are observed.")
@click.option("--question", metavar="TEXT", help="The question about it; options on lines of their own, as `A. ...`.")
@click.option("--state", metavar="LINK", help="What to show first: a link of the explorer, or its part after #.")
@click.option("--export", type=NEW_FILE, metavar="FILE", help="Write that as a page of its own, and serve nothing.")
@click.option("--max-new-tokens", type=POSITIVE, default=1024, show_default=True, metavar="N")
@click.option("--port", type=click.IntRange(1, 65535), default=3100, show_default=True)
def explore(
    checkpoint: Path | None,
    data_dir: Path | None,
    video: Path | None,
    frames: str,
    question: str | None,
    state: str | None,
    export: Path | None,
    max_new_tokens: int,
    port: int,
) -> None:
    """Look into a model's answers on a local page: its latent spans, what they resemble, and what changes with them.

    The page is served on this machine alone. Each of its states has a link; --export writes one as a file that needs
    no server.

    \b
    Example:
      future-l1 explore --checkpoint la_dapo
      future-l1 explore --checkpoint DIR --video clip.mp4 --question "What happens next?" --export answer.html
    """
    if checkpoint is None:
        raise click.UsageError("give --checkpoint, the model that answers")
    if (video is None) != (question is None) or (video is not None and state is not None):
        raise click.UsageError("--video and --question go together, and without --state")
    if export is None:
        raise_if_port_in_use(HOST, port)
    make_room(export, video)
    with TemporaryDirectory(prefix="future-l1-explore-") as scratch, ExitStack() as stack:
        session = _session(checkpoint, data_dir, max_new_tokens, Path(scratch))
        stack.callback(session.uploads.close)
        first = _first(session, video, frames, question, state)
        if export is not None:
            from evaluation.explorer.export import export as exported
            from evaluation.explorer.state import read_state

            export.write_text(exported(session, read_state(first)), encoding="utf-8")
            click.echo(f"page: {export}", err=True)
        else:
            _serve(session, port, first)


def _session(checkpoint: Path, data_dir: Path | None, max_new_tokens: int, scratch: Path) -> "Session":
    from evaluation.explorer.session import Session
    from evaluation.explorer.uploads import Uploads
    from training.sft.inspection import open_checkpoint

    folder = checkpoint_folder(checkpoint)
    generation = checkpoint_generation(folder, max_new_tokens=max_new_tokens, batch_size=1)
    profile = current_profile()
    groups = _groups_of_home() if data_dir is None else [_group_of(data_dir, scratch / ITEM_TABLE)]
    name = "/".join(folder.absolute().parts[-4:])
    return Session(open_checkpoint(folder), name, groups, generation, Uploads(scratch), profile.seed)


def _runs() -> list[BenchmarkRun]:
    profile = current_profile()
    return benchmark_runs(profile.benchmarks, profile.source)


def _groups_of_home() -> list["Group"]:
    """The benchmarks whose items the home has, those with true future frames first."""
    from evaluation.explorer.examples import Group

    store = AssetStore(current_profile().home)
    runs = sorted(_runs(), key=lambda run: run.benchmark.name != TwiffBench.name)
    return [Group(run.benchmark, store.current(run.items_key).file(ITEM_TABLE)) for run in runs
            if store.has(run.items_key)]  # fmt: skip


def _group_of(data_dir: Path, table: Path) -> "Group":
    """The benchmark that a folder holds, with the profile's settings of it where there are any; its first items become
    a table.

    Raises ValueError where it holds none, and where none of its items is usable.
    """
    from evaluation.explorer.examples import MAX_ITEMS, Group

    named, reasons = {run.benchmark.name: run.benchmark for run in _runs()}, list[str]()
    for name in BENCHMARKS:
        benchmark = named.get(name) or make_benchmark(name, {})
        try:
            benchmark.files(data_dir)
        except ValueError as error:
            reasons.append(str(error))
            continue
        rows, schema = islice(benchmark.rows(data_dir), MAX_ITEMS), benchmark.item_table.create_empty().schema
        items = pl.DataFrame(list(rows), schema=schema)
        problems = items["problem"].drop_nulls()
        click.echo(f"{data_dir} is read as {name}: {items.height - len(problems)} usable items", err=True)
        if len(problems) == items.height:
            raise ValueError(f"{data_dir} has no usable item of {name}" + "".join(f": {why}" for why in problems[:1]))
        items.write_parquet(table)
        return Group(benchmark, table)
    entries = sorted(path.name for path in data_dir.iterdir())
    raise ValueError(f"{data_dir} holds none of the benchmarks {', '.join(BENCHMARKS)}. It has "
                     f"{', '.join(map(repr, entries[:MAX_ENTRIES])) or 'nothing in it'}"
                     f"{f' and {len(entries) - MAX_ENTRIES} more' if len(entries) > MAX_ENTRIES else ''}; wanted: "
                     f"{'; '.join(dict.fromkeys(reasons))}. docs/inputs.md has each benchmark's files")  # fmt: skip


def _first(
    session: "Session", video: Path | None, frames: str, question: str | None, state: str | None
) -> str:
    """The fragment of the state to begin with; empty where the page chooses."""
    from evaluation.explorer.state import State, read_state

    if video is not None and question is not None:
        return State(session.uploads.add(video.read_bytes(), video.name, frames, question).key).fragment
    if state is not None:
        return read_state(state).fragment
    return next((State(group["items"][0][0]).fragment for group in session.titles() if group["items"]), "")


def _serve(session: "Session", port: int, first: str) -> None:
    import uvicorn

    from evaluation.explorer.app import application
    from pipelines.same_origin import SameOriginMiddleware

    app = application(session)
    app.add_middleware(SameOriginMiddleware, host=HOST)
    click.echo(f"the explorer is on {url_of(HOST, port)}/{f'#{first}' if first else ''} (Ctrl-C ends it)")
    config = uvicorn.Config(app, HOST, port, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT)
    uvicorn.Server(config).run()
