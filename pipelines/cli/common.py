"""Functions and options of several commands: the profile, its steps, files in and out."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from assets.framework.store import AssetStore, name_of
from evaluation.benchmarks.registry import BENCHMARKS
from pipelines.curate import check_usable_rows
from pipelines.driver import run_plan
from pipelines.jobs import Step
from pipelines.profile import Profile, profile_from_environment
from training.runtime.printable import printable
from training.storage.artifacts import MODEL

CONSOLE = Console()
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
POSITIVE = click.IntRange(min=1)
BENCHMARK = click.option("--benchmark", type=click.Choice(list(BENCHMARKS)), help="seedbench_open: no options shown.")
PROFILE = click.option("--profile", "name", metavar="NAME",
                       help="A preset or a TOML overlay [FUTURE_L1_PROFILE, else demo].")  # fmt: skip
SYSTEM_PROMPT = click.option("--system-prompt", type=FILE, metavar="FILE", help="In place of the checkpoint's own.")


def current_profile(seed: int | None = None, default: str = "demo") -> Profile:
    profile = profile_from_environment(default)
    return profile if seed is None else profile.model_copy(update={"seed": seed})


class CheckpointFolder(click.Path):
    """An existing folder, or the name of a model of the profile: the folder of its current checkpoint."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not Path(value).is_dir() and value in (profile := current_profile()).checkpoints.models:
            artifact = AssetStore(profile.home).artifacts.current(name_of(*profile.checkpoints.artifact(value)))
            return artifact.folder(MODEL)
        return super().convert(value, param, ctx)


CHECKPOINT = click.option("--checkpoint", type=CheckpointFolder(), metavar="DIR|MODEL",
                          help="The folder of a checkpoint or of a base model, or a model of the profile.")  # fmt: skip


def run_steps(profile: Profile, steps: list[Step]) -> None:
    warn(run_plan(profile, steps, CONSOLE, before=partial(check_usable_rows, profile)))


def fail_if(broken: str) -> None:
    if broken:
        raise click.ClickException(broken)


def warn(failed_checks: list[str]) -> None:
    for failed in failed_checks:
        CONSOLE.print(f"[yellow]![/] {escape(printable(failed, keep=chr(10)))}")


def read_text(path: Path | None) -> str | None:
    """A file's exact text."""
    try:
        return path.read_bytes().decode() if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error


def make_room(out: Path | None, source: Path | None = None) -> None:
    """Makes the folder of `out` before any work.  Raises ValueError where `out` is the file that is read."""
    if out is None:
        return
    if source is not None and out.exists() and out.samefile(source):
        raise ValueError(f"--out is {source} itself, which would be lost: name another file")
    out.parent.mkdir(parents=True, exist_ok=True)


def write_json_lines(report: dict[str, Any], out: Path) -> None:
    """JSON, with each item of a list on a line of its own."""
    fields = []
    for name, value in report.items():
        items = value if isinstance(value, list) else [value]
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        fields.append(f'"{name}": ' + (f"[\n{lines}\n]" if isinstance(value, list) else lines))
    # half a character, as an id may hold, becomes the JSON escape that it was
    out.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8", errors="backslashreplace")


def report_entries(entries: list[dict[str, Any]], what: str, out: Path) -> None:
    """Prints the number of entries in the file, and the errors of the others; fails when there is none."""
    errors = [entry["error"] for entry in entries if "error" in entry]
    if len(errors) == len(entries):
        raise click.ClickException("\n".join([f"none of {len(entries)} {what}", *errors]))
    for error in errors:
        click.echo(f"! {printable(error)}", err=True)
    click.echo(f"{len(entries) - len(errors)} of {len(entries)} {what}: {out}")
